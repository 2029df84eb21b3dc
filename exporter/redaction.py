"""Keeps passwords out of everything that is shown: logs, errors, the status page."""

from __future__ import annotations

import json
import re
from threading import Lock
from urllib.parse import quote, quote_plus

HIDDEN = "***"

# Shorter passwords would shred every text they happen to be a part of.
_SHORTEST = 4

# Bounded repeats: a log line may be long and hostile, and must not cost its length squared.
_IN_URL = re.compile(
    r"""([a-z][a-z0-9+.-]{0,30}://[^\s:/?#@"'<>]{0,256}:)[^\s"'<>]{0,4096}@""", re.IGNORECASE
)
_IN_PAIR = re.compile(
    r"""(\b(?:password|passwd|passphrase|pwd)=)(\{[^}]*\}|'[^']*'|[^\s;&'"]+)""", re.IGNORECASE
)
_SECRET_KEY = re.compile(r"passw|pwd|passphrase|secret|token", re.IGNORECASE)


def names_a_secret(key: str) -> bool:
    """Tell whether a setting of this name holds a password, as drivers name theirs."""
    return _SECRET_KEY.search(key) is not None


class SecretMask:
    """Replaces the passwords it was told of, and whatever looks like one in a URL."""

    def __init__(self) -> None:
        self._known: set[str] = set()
        self._pattern: re.Pattern[str] | None = None
        self._lock = Lock()

    def remember(self, password: str) -> None:
        """Hide this password from now on, in every form it may be written in."""
        forms = {form for form in _written(password) if len(form) >= _SHORTEST}
        if forms <= self._known:
            return
        with self._lock:
            self._known |= forms
            self._pattern = None  # compiled when there is something to mask: many are told at once

    def mask(self, text: str) -> str:
        """Return the text with ``***`` for each password."""
        pattern = self._pattern or self._compiled()
        if pattern is not None:
            text = pattern.sub(HIDDEN, text)
        text = _IN_URL.sub(rf"\1{HIDDEN}@", text)
        return _IN_PAIR.sub(rf"\1{HIDDEN}", text)

    def _compiled(self) -> re.Pattern[str] | None:
        with self._lock:
            if self._known and self._pattern is None:
                # Longest first, or a password that begins like another would leave its end.
                longest_first = sorted(self._known, key=len, reverse=True)
                self._pattern = re.compile("|".join(map(re.escape, longest_first)))
            return self._pattern


def _written(password: str) -> set[str]:
    """Return the password as people, URLs, Python, JSON and ODBC write it."""
    return {
        password,
        quote(password, safe="", errors="surrogateescape"),
        quote(password, errors="surrogateescape"),
        quote(password, safe=" +", errors="surrogateescape"),  # SQLAlchemy's own
        quote_plus(password, errors="surrogateescape"),
        repr(password)[1:-1],
        json.dumps(password)[1:-1],
        json.dumps(password, ensure_ascii=False)[1:-1],
        password.replace("}", "}}"),
        password.replace("\\", "\\\\").replace("'", "\\'"),  # libpq
    }


# One for the process: whoever learns a password tells it, and whoever speaks asks it.
_process = SecretMask()
remember = _process.remember
mask = _process.mask
