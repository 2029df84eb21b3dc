"""Durations as Prometheus writes them: ``15s``, ``1h30m``, ``500ms``, ``7d``, ``0``."""

from __future__ import annotations

import re

# Largest unit first, as Prometheus wants them; a day is 24 hours and a year 365 days.
_MILLISECONDS = {
    "y": 365 * 86_400_000,
    "w": 7 * 86_400_000,
    "d": 86_400_000,
    "h": 3_600_000,
    "m": 60_000,
    "s": 1_000,
    "ms": 1,
}
_DURATION = re.compile("".join(f"(?:([0-9]+){unit})?" for unit in _MILLISECONDS))
_LONGEST = (2**63 - 1) // 1_000_000  # Prometheus counts nanoseconds in a signed 64-bit integer


def parse(text: str) -> float:
    """Return the seconds; ValueError says what is wrong, to be read after the value itself."""
    if text == "0":
        return 0.0
    # Longer text cannot be in range, and Python refuses to convert endless digits.
    match = _DURATION.fullmatch(text) if len(text) <= 100 else None  # noqa: PLR2004
    if not text or match is None:
        unit = "; it lacks a unit" if text.isdecimal() else ""
        raise ValueError(f"is not a duration{unit}; write it like 15s or 5m")
    total = sum(
        int(digits) * size
        for digits, size in zip(match.groups(), _MILLISECONDS.values(), strict=True)
        if digits is not None
    )
    if total > _LONGEST:
        raise ValueError("is too long: durations end at about 292 years")
    return total / 1000
