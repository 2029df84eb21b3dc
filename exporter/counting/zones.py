"""Which zone a table's dates are in, as told by results that finish while we watch. Pure.

What was not there at one look and is at the next has finished between the two, or little earlier.
Zones are whole quarters of an hour off UTC: so the date of such a result fits one of them only.
Many that agree settle it. A date is told where it fits what is settled; another one is withheld,
until results that finish later show in which zone it was.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import takewhile
from math import floor
from typing import NamedTuple

CLOCKS = 60.0  # seconds that clocks of one system may differ by
QUARTER = 900.0  # seconds; zones differ by whole quarters of an hour
WEST, EAST = -12 * 3600.0, 14 * 3600.0  # how far zones reach
LONGEST_WATCH = 300.0  # seconds between two looks; after a longer time more than one zone fits
LONGEST_RECHECK = 60.0  # seconds until it is looked again whether a watched row has finished
LATE = 480.0  # seconds after which it may count: it waited for its name, or came late
ENOUGH, LOOKS = 10, 3  # results that agree, and looks that they come from
SLOW = 3600.0  # seconds that so many looks lie apart where fewer results are enough
SEASONS = (1800.0, 3600.0)  # seconds by which daylight saving moves a zone
REMEMBERED = 100  # results
MINUTE = 60.0


class Settled(NamedTuple):
    """What is known of a table's dates. Unix times, in seconds."""

    offset: float  # seconds by which they are ahead of UTC
    since: float  # when the first of the results was watched for that agreed
    agreed: float  # when the last of them was seen, to the minute
    odd: int = 0  # how many of the latest results do not agree

    @property
    def name(self) -> str:
        """Write the offset as people do."""
        hours, minutes = divmod(round(abs(self.offset)) // 60, 60)
        return f"UTC{'-' if self.offset < 0 else '+'}{hours:02}:{minutes:02}"


class Sighting(NamedTuple):
    """What one result told."""

    offset: float | None  # seconds ahead of UTC; None: it fits no zone
    after: float  # of its look


@dataclass(frozen=True, slots=True)
class Dates:
    """How one look reads dates: wall time, in seconds as if it were UTC."""

    settled: Settled | None
    after: float | None  # the look before: what is new finished later; None: it may be history
    now: float  # Unix time, seconds

    @property
    def fresh(self) -> bool:
        """Whether what is new tells the zone of its date."""
        return self.after is not None and self.now - self.after <= LONGEST_WATCH

    def told(self, wall: float | None) -> float | None:
        """Return a date as Unix time; None: that is not known yet."""
        if wall is None or self.settled is None or not self.fresh:
            return None
        return placed(wall, self.settled, self.after, self.now)

    def offset(self, wall: float) -> float | None:
        """Return the only offset that fits what has just finished."""
        lag = self.now - wall
        offset = QUARTER * -floor((lag + CLOCKS) / QUARTER)
        late = self.now - (self.after or 0.0) + LONGEST_RECHECK + CLOCKS
        return offset if lag + offset <= late and WEST <= offset <= EAST else None


def placed(wall: float, settled: Settled, after: float | None, seen: float) -> float | None:
    """Return the date of a result that was new when seen, if it fits what is settled."""
    if after is None or (seen - after > LONGEST_WATCH and (settled.since > after or settled.odd)):
        return None  # it may have been in another zone
    moment = wall - settled.offset
    return moment if after - LATE <= moment <= seen + CLOCKS else None


class Learned(NamedTuple):
    """What is known after a look."""

    settled: Settled | None
    sightings: tuple[Sighting, ...]
    confirmed: bool = False  # by a result of this look


def learn(before: Learned, dates: Dates, walls: Sequence[float]) -> Learned:
    """Take the dates of what has just finished for what they tell."""
    settled, sightings, _ = before
    if dates.after is None or not dates.fresh:
        return Learned(settled, sightings)
    new = [
        Sighting(offset, dates.after)
        for wall in walls[-REMEMBERED:]
        # One that was seen finished a little late tells nothing.
        if (offset := dates.offset(wall)) is not None or dates.told(wall) is None
    ]
    sightings = (*sightings, *new)[-REMEMBERED:]
    if settled is not None and any(each.offset == settled.offset for each in new):
        odd = sum(each.offset != settled.offset for each in sightings)
        # To the minute: what does not change is not written.
        agreed = settled.agreed if 0.0 <= dates.now - settled.agreed < MINUTE else dates.now
        return Learned(settled._replace(agreed=agreed, odd=odd), sightings, confirmed=True)
    run = _agreeing(sightings) if new else ()
    if not run and settled is not None and _moved(settled, new, dates.now):
        run = tuple(new)
    if run and run[0].offset is not None:
        since = min(each.after for each in run)
        return Learned(Settled(run[0].offset, since, dates.now), run, confirmed=True)
    return Learned(settled, sightings)


def _agreeing(sightings: tuple[Sighting, ...]) -> tuple[Sighting, ...]:
    """Return the latest results that tell the same, if they are many; else none."""
    offset = sightings[-1].offset
    run = tuple(takewhile(lambda each: each.offset == offset, reversed(sightings)))
    looks = {each.after for each in run}
    many = len(run) >= ENOUGH or max(looks) - min(looks) >= SLOW
    return run[::-1] if many and len(looks) >= LOOKS else ()


def _moved(settled: Settled, new: Sequence[Sighting], now: float) -> bool:
    """Whether daylight saving has begun or ended where results are too rare to wait for many."""
    moves = {None if each.offset is None else abs(each.offset - settled.offset) for each in new}
    return now - settled.agreed >= SLOW and len(moves) == 1 and moves <= {*SEASONS}


def doubts(settled: Settled | None, sightings: Sequence[Sighting] = ()) -> Iterator[str]:
    """Say that results do not agree; `sightings` are the latest, if they are known."""
    if settled is None:
        if len({each.after for each in sightings}) >= ENOUGH * LOOKS:
            yield (
                f"the zone of date_done is not known: the latest {len(sightings)} results do not "
                "agree on one, and when they finished is not shown; compare the clocks of workers "
                "and exporter, which must not differ by a minute, or set timezone"
            )
    elif settled.odd >= ENOUGH:
        yield (
            f"date_done of {settled.odd} of the latest {REMEMBERED} results is not in the zone of "
            f"the others, {settled.name}, or by a clock that differs by more than a minute: when "
            "these finished is not shown"
        )
