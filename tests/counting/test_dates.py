"""What dates of results say: of one look at them, no more than it shows."""

from __future__ import annotations

import pytest

from exporter.counting.dates import doubts, possible

NOW = 1_800_000_000.0  # 2027-01-15 08:00:00 UTC
YEAR_9999 = 253_402_214_400.0
HOUR = 3600.0


def every(pause: float, upto: float, rows: int = 1_000) -> list[float]:
    """Give dates of results, each so long after the one before."""
    return [upto - pause * row for row in range(rows)]


@pytest.mark.parametrize(
    ("dates", "expected"),
    [
        ([], []),
        (every(5, NOW - 2), []),
        (every(5, NOW + 30), []),  # clocks
        (every(5, NOW - 9 * HOUR - 200), []),  # idle
        (every(5, NOW - 5 * 86400), []),  # no zone is so far off
        (every(400, NOW - 9 * HOUR - 20), []),  # nobody can tell
        (every(5, NOW - 9 * HOUR - 20, rows=9), []),  # likewise
        (every(5, NOW + 300), ["5 min ahead of the clock here: compare clocks"]),
        (every(5, NOW + 9 * HOUR), ["9 h ahead of the clock here: set timezone (now Asia/Tokyo)"]),
        (
            every(5, NOW - 9 * HOUR - 7),
            ["of 9 h ago, and before it there was one at least every 5 s: has nothing finished"],
        ),
        (every(5, NOW - 9.75 * HOUR + 20), ["another zone than timezone says (Asia/Tokyo)"]),
        # A night's pause is not what is usual.
        (
            [*every(0, NOW - 2 * HOUR), NOW - 12 * HOUR],
            ["before it there was one at least every 1 s"],
        ),
        (
            [*every(5, NOW - 2, rows=97), YEAR_9999, YEAR_9999, float("inf")],
            ["date_done in the future: after all calendars, in 3 of the newest 100 results"],
        ),
        (
            [YEAR_9999],
            ["date_done in the future: 9999-12-31 00:00:00 UTC, in 1 of the newest 1 re"],
        ),
    ],
)
def test_doubts(dates: list[float], expected: list[str]) -> None:
    found = list(doubts(dates, NOW, "Asia/Tokyo"))
    assert len(found) == len(expected), found
    for words, said in zip(expected, found, strict=True):
        assert words in said
        assert "future" not in said or "timezone" not in said  # no advice that cannot help


def test_dates_that_cannot_be_are_left_out() -> None:
    assert possible([NOW, NOW + 26 * HOUR, YEAR_9999], NOW) == [NOW, NOW + 26 * HOUR]
