"""PURE: text that others wrote, made fit to be shown: in a terminal, in a log line, on a page."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from unicodedata import category, east_asian_width

ELLIPSIS = "…"
LONGEST = 500  # characters; of a sentence
LONGEST_NAME = 60
MOST_NAMES = 10


def printable(text: str, longest: int = LONGEST) -> str:
    r"""Return the text in one line of at most `longest` characters.

    What a terminal or a browser obeys and no reader sees (control characters, line breaks, marks
    that turn text round, half surrogates) is written as Python does it: ``\x1b``. A longer text
    loses its middle: names that begin alike differ at their ends.
    """
    if len(text) > 2 * longest:  # the rest is not looked at
        text = text[:longest] + text[-longest:]
    shown = text if text.isprintable() else "".join(map(_written, text))
    if len(shown) <= longest:
        return shown
    end = (longest - len(ELLIPSIS)) // 2
    return shown[: longest - len(ELLIPSIS) - end] + ELLIPSIS + shown[len(shown) - end :]


def lines(text: str) -> str:
    """Make a text of several lines printable, line by line."""
    return "\n".join(map(printable, text.split("\n")))


def some(names: Sequence[str]) -> str:
    """List names, a few of them where they are many."""
    shown = ", ".join(printable(name, LONGEST_NAME) for name in names[:MOST_NAMES])
    return shown if len(names) <= MOST_NAMES else f"{shown} and {len(names) - MOST_NAMES:,} more"


def columns(rows: Sequence[Sequence[str]], longest: Sequence[int]) -> Iterator[str]:
    """Render a table: each column as wide as its widest cell, whose length is bounded."""
    table = [
        [printable(cell, most) for cell, most in zip(row, longest, strict=True)] for row in rows
    ]
    widths = [max(map(_width, column)) for column in zip(*table, strict=True)]
    for row in table:
        cells = (cell + " " * (w - _width(cell)) for cell, w in zip(row, widths, strict=True))
        yield "  ".join(cells).rstrip()


def _written(character: str) -> str:
    return character if character.isprintable() else character.encode("unicode_escape").decode()


def _width(text: str) -> int:
    """Return how many cells of a terminal the text takes."""
    if text.isascii():
        return len(text)
    return sum(_cells(character) for character in text)


def _cells(character: str) -> int:
    if category(character) in ("Mn", "Me"):  # drawn onto what stands before
        return 0
    return 2 if east_asian_width(character) in ("W", "F") else 1
