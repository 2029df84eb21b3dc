"""Times: read as Prometheus or Go write durations (``15s``, ``1h30m``), written for people."""

from __future__ import annotations

import re
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

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
# Go's units, in any order and with fractions; the two signs for micro look alike.
_GO_SECONDS = {
    "ns": 1e-9,
    "us": 1e-6,
    "\u00b5s": 1e-6,
    "\u03bcs": 1e-6,
    "ms": 1e-3,
    "s": 1.0,
    "m": 60.0,
    "h": 3600.0,
}
_GO_PART = re.compile(rf"([0-9]+(?:\.[0-9]*)?|\.[0-9]+)({'|'.join(_GO_SECONDS)})")
_GO_DURATION = re.compile(f"(?:{_GO_PART.pattern})+")
_UNIX_TIME = re.compile(r"[0-9]{1,11}(\.[0-9]{1,9})?")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_LONGEST = (2**63 - 1) // 1_000_000 / 1000  # both count nanoseconds in a signed 64-bit integer


def parse(text: str) -> float:
    """Return the seconds; ValueError says what is wrong, to be read after the value itself."""
    if text == "0":
        return 0.0
    match = _matched(_DURATION, text)
    total = sum(
        int(digits) * size
        for digits, size in zip(match.groups(), _MILLISECONDS.values(), strict=True)
        if digits is not None
    )
    return _in_range(total / 1000)


def parse_go(text: str) -> float:
    """Return the seconds of a duration as Go's time.ParseDuration reads it, but none below 0."""
    if text == "0":
        return 0.0
    _matched(_GO_DURATION, text)
    parts = _GO_PART.findall(text)
    return _in_range(sum(float(number) * _GO_SECONDS[unit] for number, unit in parts))


def parse_zone(name: str) -> ZoneInfo:
    """Return the time zone of this name; raise ValueError where there is none."""
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, OSError) as error:  # a folder of zones, for one, is none
        raise ValueError(f"is not a time zone: {error}") from None


def parse_moment(text: str, now: float) -> float:
    """Return the Unix time of a date, an RFC 3339 time, a Unix time, or a duration before `now`.

    What says no offset of its own is UTC. ValueError says what is wrong, to be read after the
    value itself.
    """
    moment = _moment(text, now)
    if moment < 0:
        raise ValueError("lies before 1970")
    return moment


def _moment(text: str, now: float) -> float:
    with suppress(ValueError):
        return now - parse(text)
    if _UNIX_TIME.fullmatch(text):
        return float(text)
    try:
        read = datetime.fromisoformat(text)
    except ValueError:
        raise ValueError(
            "is not a time; write it like 2026-10-01, 2026-10-01T12:30:00Z, 1790857800 or 30d, "
            "which is 30 days ago"
        ) from None
    return ((read if read.tzinfo else read.replace(tzinfo=UTC)) - _EPOCH).total_seconds()


def _matched(pattern: re.Pattern[str], text: str) -> re.Match[str]:
    # Longer text cannot be in range, and Python refuses to convert endless digits.
    match = pattern.fullmatch(text) if len(text) <= 100 else None  # noqa: PLR2004
    if not text or match is None:
        unit = "; it lacks a unit" if text.isdecimal() else ""
        raise ValueError(f"is not a duration{unit}; write it like 15s or 5m")
    return match


def _in_range(seconds: float) -> float:
    if seconds > _LONGEST:
        raise ValueError("is too long: durations end at about 292 years")
    return seconds


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
