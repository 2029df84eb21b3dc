"""Times: read as Prometheus writes durations (``15s``, ``1h30m``, ``0``), written for people."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

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
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
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


def span(seconds: float) -> str:
    """Write a length of time in two or three digits: ``12 ms``, ``3.4 s``, ``5 min``."""
    whole = round(seconds)
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if whole >= 2 * size:
            return f"{whole // size} {unit}"
    value, unit = (seconds, "s") if seconds >= 1 else (seconds * 1000, "ms")
    return f"{round(value, 1) if value < 10 else round(value):g} {unit}"  # noqa: PLR2004 (digits)


def ago(moment: float, now: float) -> str:
    """Say how long before or after now a moment is, in whole seconds or larger units."""
    seconds = round(now - moment)
    if seconds == 0:
        return "just now"
    return f"{span(seconds)} ago" if seconds > 0 else f"in {span(-seconds)}"


def utc(moment: float) -> str:
    """Write a Unix time as a date; "" where no calendar has it (databases hold odd dates)."""
    try:
        return (_EPOCH + timedelta(seconds=moment)).strftime("%Y-%m-%d %H:%M:%S UTC")
    except (OverflowError, ValueError):
        return ""
