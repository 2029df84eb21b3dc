"""Outcomes -> totals. Pure: no clock, no database, no Prometheus client."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import chain
from typing import NamedTuple

from exporter.counting.folding import Room, width
from exporter.counting.lifecycle import ZONE_SLACK
from exporter.counting.results import READY_STATES, SUCCESS, Finished
from exporter.counting.step import Change
from exporter.metrics import catalogue
from exporter.metrics.catalogue import Metric
from exporter.metrics.samples import Exemplar, Histogram, LabelValues, Sample

Key = tuple[Metric, LabelValues]


class Total(NamedTuple):
    """A counter's value, its birth, and until when 0 is served in its place (R12)."""

    value: float
    created: float  # Unix time, seconds
    zero_until: float | None = None  # Unix time, seconds; None: the value is shown, for good


@dataclass(slots=True)
class Changes:
    """What one step adds to the totals; all of it or nothing is taken over."""

    totals: dict[Key, Total] = field(default_factory=dict)
    newest: dict[Key, float] = field(default_factory=dict)
    histograms: dict[Key, Histogram] = field(default_factory=dict)
    exemplars: dict[Key, Exemplar] = field(default_factory=dict)

    def update(self, other: Changes) -> None:
        """Add what another part of the step changes: none changes what another does."""
        self.totals |= other.totals
        self.newest |= other.newest
        self.histograms |= other.histograms
        self.exemplars |= other.exemplars


Feed = Callable[["Draft", Change], None]  # adds what a change of one kind of table counts as


class Tally:
    """The numbers of one backend, whose task labels make `series_limit` series at most (R10)."""

    def __init__(self, series_limit: int, first_zero: float) -> None:
        self.room = Room(series_limit)
        self.first_zero = first_zero
        self.totals: dict[Key, Total] = {}
        self.newest: dict[Key, float] = {}
        self.histograms: dict[Key, Histogram] = {}
        self.exemplars: dict[Key, Exemplar] = {}
        # What was served last, and what has changed since.
        self._samples: dict[Metric, list[Sample]] = {}
        self._served: dict[Metric, dict[LabelValues, Sample]] = {}
        self._changed: dict[Key, None] = {}  # an ordered set
        # Totals served as 0, each with the end of that, by a clock that was last at `_clock`.
        self._zeros: dict[Key, float] = {}
        self._clock = float("inf")

    def count(self, table: str, feed: Feed, change: Change, now: float, *, live: bool) -> Changes:
        """Say what a change of the position in `table`, made at `now`, adds. Touches nothing.

        `feed` adds what is said of the rows, the tally what is said of any table.
        `live`: news, whose first value must be preceded by a 0; else history (R12).
        """
        draft = Draft(self, now, live=live)
        for metric, amount in (
            (catalogue.LATE_ROWS, change.late_rows),
            (catalogue.EXPIRED_GAPS, change.expired_ids),
            (catalogue.ID_RESETS, change.resets),
        ):
            draft.add(metric, (table,), amount)
        feed(draft, change)
        return draft.changes

    def knows(self, key: Key) -> bool:
        """Whether anything was counted under this key, be it 0."""
        return key in self.totals or key in self.histograms

    def reveal(self, now: float) -> Changes:
        """Say which totals have been served as 0 for long enough, and show their value (R12).

        That is a change like any other, kept before it is served: what was shown stays shown.
        """
        if now < self._clock:  # restored, or the clock was set back: nothing waits for its return
            latest = now + self.first_zero
            self._zeros = {key: min(until, latest) for key, until in self._zeros.items()}
        self._clock = now
        due = (key for key, until in self._zeros.items() if until <= now)
        return Changes({key: self.totals[key]._replace(zero_until=None) for key in due})

    def apply(self, changes: Changes) -> None:
        """Take changes over. Never fails."""
        for key in chain(changes.totals, changes.histograms):
            if not self.knows(key):
                self.room.take(*key)
        for key, total in changes.totals.items():
            if total.zero_until is None:
                self._zeros.pop(key, None)
            else:
                self._zeros.setdefault(key, total.zero_until)
        self.totals.update(changes.totals)
        self.newest.update(changes.newest)
        self.histograms.update(changes.histograms)
        self.exemplars.update(changes.exemplars)
        for changed in (changes.totals, changes.newest, changes.histograms, changes.exemplars):
            self._changed.update(dict.fromkeys(changed))

    def samples(self) -> dict[Metric, list[Sample]]:
        """List what is served: the same lists while nothing changes."""
        touched = {metric for metric, _ in self._changed}
        for metric, labels in self._changed:
            self._served.setdefault(metric, {})[labels] = self._sample((metric, labels))
        self._changed.clear()
        lists = {metric: list(self._served[metric].values()) for metric in touched}
        self._samples = {**self._samples, **lists}
        return self._samples

    def _sample(self, key: Key) -> Sample:
        labels = key[1]
        if key in self.newest:
            return Sample(labels, self.newest[key])
        if key in self.histograms:
            return Sample(labels, self.histograms[key])
        total = self.totals[key]
        if total.zero_until is not None:
            return Sample(labels, 0.0, total.created)
        exemplar = self.exemplars.get(key) if total.value else None
        return Sample(labels, total.value, total.created, exemplar)

    def by_task(self) -> Iterator[tuple[str, str, int]]:
        """Finished results as (task, state, count), one for each label set, for any thread."""
        for (metric, labels), total in list(self.totals.items()):
            if metric is catalogue.RESULTS:
                yield labels[0], labels[1], int(total.value)


class Draft:
    """Changes in the making, on top of what the tally holds."""

    def __init__(self, tally: Tally, now: float, *, live: bool) -> None:
        self.tally = tally
        self.now = now
        self.zero_until = now + tally.first_zero if live and tally.first_zero else None
        self.room = tally.room.copy()
        self.changes = Changes()

    def add(self, metric: Metric, labels: LabelValues, amount: int) -> None:
        """Count under these very labels; 0 makes them known."""
        key = (metric, labels)
        before = self._total(key)
        if before is None:
            zero_until = self.zero_until if metric in catalogue.TASK_METRICS else None
            self.changes.totals[key] = Total(amount, self.now, zero_until)
            self.room.take(metric, labels)
        elif amount:
            value, created, zero_until = before
            self.changes.totals[key] = Total(value + amount, created, zero_until)

    def newest(self, metric: Metric, labels: LabelValues, done: float | None) -> None:
        """Note the Unix time of the newest; one that lies ahead is not believed."""
        if done is None or done > self.now + ZONE_SLACK:
            return
        key = (metric, labels)
        before = self.changes.newest.get(key) or self.tally.newest.get(key)
        if before is None or done > before:
            self.changes.newest[key] = done

    def observe(self, metric: Metric, labels: LabelValues, value: float) -> None:
        """Add to a histogram, of seconds."""
        key = (metric, self._place(metric, labels, width(metric)))
        before = self.changes.histograms.get(key) or self.tally.histograms.get(key)
        if before is None:
            before = Histogram.empty(catalogue.RUNTIME_BUCKETS)
            self.room.take(*key)
        self.changes.histograms[key] = before.observe(value)

    def exemplar(self, metric: Metric, labels: LabelValues, outcome: Finished) -> None:
        """Name the task behind the newest of what was counted under these very labels."""
        if outcome.task_id:
            self.changes.exemplars[metric, labels] = Exemplar(outcome.task_id, outcome.done)

    # -- under which labels (R10) ------------------------------------------------------------

    def count(self, metric: Metric, labels: LabelValues, amount: int) -> LabelValues:
        """Count under these labels, or what they fold into; return them."""
        placed = self._place(metric, labels)
        self.add(metric, placed, amount)
        return placed

    def admit(self, task: str, worker: str, queue: str) -> tuple[str, str, str]:
        """Return the label set to count under.

        Every finished state of it is there from then on, at 0, so that the first failure ever is
        an increase (R12).
        """
        own = (task, SUCCESS, worker, queue)
        if self._total((catalogue.RESULTS, own)) is not None:
            return task, worker, queue
        series = len(READY_STATES) + 1
        task, _, worker, queue = self._place(catalogue.RESULTS, own, series)
        for state in READY_STATES:
            self.add(catalogue.RESULTS, (task, state, worker, queue), 0)
        self.add(catalogue.RETRIES, (task, worker, queue), 0)
        return task, worker, queue

    def _place(self, metric: Metric, labels: LabelValues, series: int = 1) -> LabelValues:
        """Return the finest labels that are known, or have room."""
        if self._is_known((metric, labels)):
            return labels
        return self.room.place(metric, labels, lambda rung: self._is_known((metric, rung)), series)

    def _is_known(self, key: Key) -> bool:
        changes = self.changes
        return key in changes.totals or self.tally.knows(key) or key in changes.histograms

    def _total(self, key: Key) -> Total | None:
        return self.changes.totals.get(key) or self.tally.totals.get(key)
