"""PURE: what the dates of the newest results say of clocks, and of the zone they are read in."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise

from exporter.counting.lifecycle import ZONE_SLACK
from exporter.counting.zones import CLOCKS, QUARTER
from exporter.durations import ago, span, utc

RECENT, ENOUGH = 100, 10  # results, at most and at least, that show how often there is one
SELDOM = QUARTER / 6


def possible(moments: Sequence[float], now: float) -> list[float]:
    """Leave out what no zone explains: such dates lie in the future."""
    return [moment for moment in moments if moment <= now + ZONE_SLACK]


def impossible(moments: Sequence[float], now: float) -> Iterator[str]:
    """Say that no zone explains some of these dates."""
    if odd := len(moments) - len(possible(moments, now)):
        yield (
            f"date_done in the future: {utc(max(moments)) or 'after all calendars'}, in {odd:,} of "
            f"the newest {len(moments):,} results; no zone explains that"
        )


def doubts(moments: Sequence[float], now: float, zone: str) -> Iterator[str]:
    """Say what is wrong with these dates, or may be; of one look, no more than it shows."""
    yield from impossible(moments, now)
    dates = sorted(possible(moments, now))
    if not dates:
        return
    behind = now - dates[-1]
    if behind < -QUARTER + CLOCKS:
        yield (
            f"the newest date_done lies {span(-behind)} ahead of the clock here: set timezone (now "
            f"{zone}) to the zone that date_done is written in"
        )
    elif behind < -CLOCKS:
        yield f"the newest date_done lies {span(-behind)} ahead of the clock here: compare clocks"
    elif _looks_shifted(dates, behind):
        usual = span(max(1.0, _longest_pause(dates)))
        yield (
            f"the newest result is of {ago(dates[-1], now)}, and before it there was one at least "
            f"every {usual}: has nothing finished since? If results come even now, date_done is "
            f"written in another zone than timezone says ({zone})"
        )


def _looks_shifted(dates: Sequence[float], behind: float) -> bool:
    """Whether results that come often have ceased whole quarters of an hour ago, or seem to.

    Where they come seldom nobody can tell; of looks at idle workers one in ten is at such a time.
    """
    pause = max(_longest_pause(dates), CLOCKS)
    if len(dates) < ENOUGH or pause > SELDOM or not QUARTER / 2 < behind <= ZONE_SLACK:
        return False
    return (behind + CLOCKS / 2) % QUARTER < pause + CLOCKS / 2  # a worker's clock may be ahead


def _longest_pause(dates: Sequence[float]) -> float:
    return max((later - sooner for sooner, later in pairwise(dates[-RECENT:])), default=0.0)
