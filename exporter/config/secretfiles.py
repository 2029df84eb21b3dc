"""Secrets of the configuration: read from files, and remembered so that they are never shown."""

from __future__ import annotations

from pathlib import Path

from sqlalchemy.engine import URL

from exporter import redaction

_LARGEST_SECRET = 64 * 1024


def read_secret(path: Path) -> str:
    """Return what a file holds; raise ValueError where that is no text."""
    try:
        with path.open("rb") as file:
            text = file.read(_LARGEST_SECRET).decode().strip()
    except OSError as error:
        raise ValueError(f"cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ValueError("cannot be read: it is not UTF-8 text") from None
    if not text:
        raise ValueError("is an empty file")
    redaction.remember(text)
    return text


def remembered(url: URL) -> URL:
    """Return the URL, once what is secret in it is known as such."""
    if url.password:
        redaction.remember(str(url.password))
    for key, value in url.query.items():
        if redaction.names_a_secret(key):
            redaction.remember(str(value))
    return url
