"""What results of the past would have counted as, in which series and when: for `backfill`. Pure.

Time is cut into steps. A sample shows what had finished before it: what finishes in a step shows
from the step's end on. A series begins with a 0, so that its first result is an increase.

Labels are those that `run` would serve: results go through the same tally, one of each kind, and
what it adds to which series holds for all that are like it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from math import gcd, inf
from operator import itemgetter
from typing import NamedTuple

from exporter.counting.results import Finished, Group, Labels
from exporter.counting.shown import Key, Users, users_of
from exporter.counting.step import Change
from exporter.counting.tally import Feed, Tally
from exporter.counting.values import Total
from exporter.metrics import catalogue
from exporter.metrics.catalogue import Metric
from exporter.metrics.samples import LabelValues

# What a table still tells of the past. It does not tell what its rows were before.
METRICS = (
    catalogue.RESULTS,
    catalogue.FAILURES,
    catalogue.RETRIES,
    catalogue.GROUP_RESULTS,
)
ZONES = 900  # seconds; zones differ by multiples of it
KINDS_KEPT = 20_000  # of results that differ in their labels
_METRIC_SHIFT = 40  # bits of a series' number that tell it from others of its metric

Cell = tuple[int, int, int]  # the number of a series, a step, and by how much it grew in that


class Run(NamedTuple):
    """Samples of one value, from one number to another, both included."""

    value: int
    first: int
    last: int


@dataclass(frozen=True, slots=True)
class Grid:
    """When there are samples: at `begin`, at `end`, and between them at multiples of `step`.

    Unix times, in whole seconds; sample number n is at n steps, or at one of the ends.
    """

    begin: int
    end: int
    step: int

    @property
    def last(self) -> int:
        """The number of the last sample."""
        return -(-self.end // self.step)

    @property
    def unit(self) -> int:
        """The seconds that dates of any zone may be rounded down to: no step begins within."""
        return gcd(self.step, ZONES)

    def step_of(self, moment: float) -> int | None:
        """Return the step of a moment, perhaps rounded down by a unit; None: it is outside."""
        if not self.begin - self.unit < moment < self.end:
            return None
        return int(max(moment, self.begin) // self.step)

    def times(self, first: int, last: int) -> Sequence[int]:
        """Return the times of samples from one number to another."""
        times = range(first * self.step, (last + 1) * self.step, self.step)
        if self.begin <= times[0] and times[-1] <= self.end:
            return times
        return [min(max(time, self.begin), self.end) for time in times]


@dataclass(slots=True)
class Use:
    """Between which steps there were results with certain labels, of which a series needs some."""

    first: float = inf
    last: float = -inf


@dataclass(frozen=True, slots=True, eq=False)
class Series:
    """A series of one backend, as it is served."""

    of: Past
    metric: Metric
    labels: LabelValues
    use: Use

    def runs(self, cells: Iterable[Cell]) -> Iterator[Run]:
        """Yield its samples, from the first use of its labels until they are stale."""
        if self.use.last < self.use.first:
            return
        value, at = 0, int(self.use.first)
        for _, step, amount in cells:
            if amount:
                yield Run(value, at, step)
                value, at = value + amount, step + 1
        stale = self.of.stale_steps if self.metric in catalogue.TASK_METRICS else inf
        last = min(self.use.last + 1 + stale, self.of.grid.last)
        yield Run(value, at, max(at, int(last)))


class Book:
    """The series of all backends, numbered so that those of a metric follow each other."""

    def __init__(self) -> None:
        self._series: list[list[Series]] = [[] for _ in METRICS]

    def enter(self, series: Series) -> int:
        """Take another series, and return its number."""
        metric = METRICS.index(series.metric)
        self._series[metric].append(series)
        return (metric << _METRIC_SHIFT) + len(self._series[metric]) - 1

    def __len__(self) -> int:
        return sum(map(len, self._series))

    def runs(self, cells: Iterable[Cell]) -> Iterator[tuple[Series, Iterator[Run]]]:
        """Yield each series with its samples, those of a metric together; cells in their order."""
        grown = groupby(cells, itemgetter(0))
        number, own = next(grown, (-1, iter(())))
        for metric, of_metric in enumerate(self._series):
            for index, series in enumerate(of_metric):
                if number != (metric << _METRIC_SHIFT) + index:
                    yield series, series.runs(())
                    continue
                yield series, series.runs(own)
                number, own = next(grown, (-1, iter(())))


class _Kind(NamedTuple):
    """What results with the same labels count as: in each series, for a row and for a retry."""

    counts: list[tuple[int, int, int]]
    uses: list[Use]


@dataclass(slots=True, eq=False)
class Past:
    """What one backend had counted, had it been read."""

    name: str
    tally: Tally
    grid: Grid
    stale_after: float  # seconds; 0: no series ever is
    book: Book
    results: int = 0  # in the grid
    _uses: dict[Users, Use] = field(default_factory=dict)
    _numbers: dict[Key, int] = field(default_factory=dict)
    _kinds: dict[tuple[str, Labels, str], _Kind] = field(default_factory=dict)

    @property
    def stale_steps(self) -> float:
        """After how many steps without a result a series is no longer served."""
        return self.stale_after // self.grid.step if self.stale_after else inf

    def cells(self, table: str, feed: Feed, groups: Iterable[Group]) -> Iterator[Cell]:
        """Yield by how much which series grew; the dates of groups may be rounded by a unit."""
        steps: dict[float | None, int | None] = {None: None}  # of few moments
        for state, task, worker, queue, rows, retries, done, _, exception, *_ in groups:
            if done is not None and done not in steps:
                steps[done] = self.grid.step_of(done)
            if (step := steps[done]) is None:
                continue
            self.results += rows
            known = (table, (state, task, worker, queue), exception)
            kind = self._kinds.get(known) or self._look_at(*known, feed)
            for use in kind.uses:
                if not use.first <= step <= use.last:
                    use.first, use.last = min(use.first, step), max(use.last, step)
            for number, per_row, per_retry in kind.counts:
                if amount := per_row * rows + per_retry * retries:
                    yield number, step, amount

    def _look_at(self, table: str, labels: Labels, exception: str, feed: Feed) -> _Kind:
        """Count one such row, and one such retry, to see what they add to which series."""
        per_row = self._counted(table, feed, Finished(*labels, exception=exception))
        retry = Finished(*labels, rows=0, retries=1, exception=exception)
        per_retry = self._counted(table, feed, retry)
        kind = _Kind([], [])
        uses: set[Users] = set()
        for key in per_row | per_retry:
            metric, own = key
            served = self.tally.relabelled(metric, own)
            if served is None:
                continue
            number = self._number(metric, served)
            adds = per_row.get(key, 0), per_retry.get(key, 0)
            if any(adds):
                kind.counts.append((number, *adds))
                uses.add(users_of(metric, served))
            if per_row.get(key) and metric is catalogue.RESULTS:
                uses.add(served[:1])
        kind.uses.extend(self._uses.setdefault(users, Use()) for users in uses)
        if len(self._kinds) >= KINDS_KEPT:
            self._kinds.clear()
        self._kinds[table, labels, exception] = kind
        return kind

    def _counted(self, table: str, feed: Feed, outcome: Finished) -> dict[Key, int]:
        change = Change(outcomes=[outcome])
        changes = self.tally.count(table, feed, change, float(self.grid.end), live=False)
        grown = {}
        for key, value in changes.values.items():
            if key[0] in METRICS and isinstance(value, Total):
                before = self.tally.values.get(key)
                grown[key] = int(value.value - (before.value if isinstance(before, Total) else 0))
        self.tally.apply(changes)
        return grown

    def _number(self, metric: Metric, labels: LabelValues) -> int:
        key = (metric, labels)
        if key not in self._numbers:
            use = self._uses.setdefault(users_of(metric, labels), Use())
            self._numbers[key] = self.book.enter(Series(self, metric, labels, use))
        return self._numbers[key]
