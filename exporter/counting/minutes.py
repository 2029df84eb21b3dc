"""What was counted of late, minute by minute: for people, who look at the last hour. Pure.

It lives in memory and is bounded. A poll costs what it changes; where nothing changes, time passes
by itself.
"""

from __future__ import annotations

from array import array
from collections.abc import Hashable, Mapping
from typing import Generic, TypeVar

from exporter.counting.results import FAILURE
from exporter.counting.values import Total, Value
from exporter.metrics import catalogue
from exporter.metrics.catalogue import Metric
from exporter.metrics.samples import LabelValues

MINUTES = 60  # that are kept, the one that has just begun included
MOST = 200  # tasks that are told apart, and classes of exceptions of a task

Counts = tuple[int, ...]  # of MINUTES minutes, the newest last
Thing = TypeVar("Thing", bound=Hashable)


class Ring:
    """How often something was counted in each of the last minutes.

    Minutes are numbered by a clock that is never set back.
    """

    __slots__ = ("_counts", "newest")

    def __init__(self) -> None:
        self.newest = -1  # minute in which something was counted
        self._counts = array("Q", bytes(8 * MINUTES))

    def add(self, minute: int, amount: int) -> None:
        """Count in this minute, which is no older than any before."""
        for passed in range(max(self.newest, minute - MINUTES) + 1, minute + 1):
            self._counts[passed % MINUTES] = 0
        self.newest = minute
        self._counts[minute % MINUTES] += amount

    def upto(self, minute: int) -> Counts:
        """Return the counts of the minutes that end with this one. For any thread."""
        newest, counts = self.newest, self._counts.tolist()
        oldest = newest - MINUTES
        return tuple(
            counts[each % MINUTES] if oldest < each <= newest else 0
            for each in range(minute - MINUTES + 1, minute + 1)
        )


class Rings(Generic[Thing]):
    """A ring for each of so many things, and one for all others."""

    def __init__(self, most: int = MOST) -> None:
        self._most = most
        self._rings: dict[Thing, Ring] = {}
        self._rest = Ring()
        self._cleared = -1  # minute in which room was made last

    def add(self, thing: Thing, minute: int, amount: int) -> bool:
        """Count; say whether the thing is told apart."""
        ring = self._rings.get(thing) or self._new(thing, minute)
        ring.add(minute, amount)
        return ring is not self._rest

    def rest(self, minute: int, amount: int) -> None:
        """Count what is not told apart."""
        self._rest.add(minute, amount)

    def upto(self, minute: int) -> dict[Thing, Counts]:
        """Return what was told apart in the minutes that end with this one. For any thread."""
        rings = self._rings.copy().items()  # while polls go on
        return {thing: ring.upto(minute) for thing, ring in rings if _lately(ring, minute)}

    def total(self, minute: int) -> Counts:
        """Return the counts of everything. For any thread."""
        rings = (*self.upto(minute).values(), self._rest.upto(minute))
        return tuple(map(sum, zip(*rings, strict=True)))

    def _new(self, thing: Thing, minute: int) -> Ring:
        if len(self._rings) >= self._most and self._cleared < minute:
            self._cleared = minute
            self._rings = {t: ring for t, ring in self._rings.items() if _lately(ring, minute)}
        if len(self._rings) >= self._most:
            return self._rest
        ring = self._rings[thing] = Ring()
        return ring


def _lately(ring: Ring, minute: int) -> bool:
    return ring.newest > minute - MINUTES


class Minutes:
    """The last hour of a backend, as its polls saw it."""

    def __init__(self) -> None:
        self.since: int | None = None  # the first minute
        self.results = Rings[str]()  # by task
        self.failures = Rings[str]()  # by task
        self.exceptions = Rings[tuple[str, str]]()  # by task and class

    def take(
        self,
        before: Mapping[tuple[Metric, LabelValues], Value],
        after: Mapping[tuple[Metric, LabelValues], Value],
        minute: int,
    ) -> None:
        """Take what has changed, `after`, beside all there was before. Never fails."""
        if self.since is None:
            self.since = minute
        for key, value in after.items():
            metric, labels = key
            if metric is catalogue.RESULTS or metric is catalogue.FAILURES:
                amount = _count(value) - _count(before.get(key))
                if amount > 0:
                    self._add(metric, labels, minute, amount)

    def _add(self, metric: Metric, labels: LabelValues, minute: int, amount: int) -> None:
        task = labels[0]
        if metric is catalogue.FAILURES:
            self.exceptions.add((task, labels[-1]), minute, amount)
            return
        told_apart = self.results.add(task, minute, amount)
        if labels[1] != FAILURE:
            return
        if told_apart:
            self.failures.add(task, minute, amount)
        else:  # or there would be a task with failures and no results
            self.failures.rest(minute, amount)


def _count(value: Value | None) -> int:
    return int(value.value) if isinstance(value, Total) else 0
