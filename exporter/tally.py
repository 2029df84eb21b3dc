"""Outcomes -> totals. Pure: no clock, no database, no Prometheus client."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from exporter import metrics
from exporter.metrics import Metric
from exporter.position import Change
from exporter.results import FAILURE, READY_STATES, SUCCESS, Finished, Vanished

OTHER = "__other__"
MAX_EXCEPTIONS = 100
FUTURE_SLACK = 86_400.0  # seconds; a `date_done` further ahead of our clock is not believed

LabelValues = tuple[str, ...]
Key = tuple[Metric, LabelValues]
Task = tuple[str, str, str, str]  # task, state, worker, queue


class Histogram(NamedTuple):
    """Observations per bucket (not cumulated), the last beyond all bounds, and their sum."""

    bounds: tuple[float, ...]
    counts: tuple[int, ...]
    sum: float

    @classmethod
    def empty(cls, bounds: tuple[float, ...]) -> Histogram:
        """No observations yet."""
        return cls(bounds, (0,) * (len(bounds) + 1), 0.0)

    def observe(self, value: float) -> Histogram:
        """Add one observation."""
        bucket = bisect_left(self.bounds, value)
        counts = (*self.counts[:bucket], self.counts[bucket] + 1, *self.counts[bucket + 1 :])
        return Histogram(self.bounds, counts, self.sum + value)


class Total(NamedTuple):
    """A counter's value, its birth, and until when 0 is served in its place (R12)."""

    value: float
    created: float  # Unix time, seconds
    zero_until: float | None = None  # Unix time, seconds; None: the value is shown, for good


class Exemplar(NamedTuple):
    """The newest result behind a counter."""

    task_id: str
    done: float | None  # Unix time, seconds


class Sample(NamedTuple):
    """One sample as it is served."""

    labels: LabelValues
    value: float | Histogram
    created: float | None = None
    exemplar: Exemplar | None = None


Samples = Mapping[Metric, Iterable[Sample]]


@dataclass(slots=True)
class Changes:
    """What one step adds to the totals; all of it or nothing is taken over."""

    totals: dict[Key, Total] = field(default_factory=dict)
    newest: dict[Key, float] = field(default_factory=dict)
    histograms: dict[Key, Histogram] = field(default_factory=dict)
    exemplars: dict[Key, Exemplar] = field(default_factory=dict)
    exceptions: set[str] = field(default_factory=set)

    def update(self, other: Changes) -> None:
        """Add what another part of the step changes: none changes what another does."""
        self.totals |= other.totals
        self.newest |= other.newest
        self.histograms |= other.histograms
        self.exemplars |= other.exemplars
        self.exceptions |= other.exceptions


class Tally:
    """The numbers of one backend.

    At most about `series_limit` series of task labels; label sets beyond that are folded into
    ``__other__`` (R10), so that sums stay exact.
    """

    def __init__(self, series_limit: int, first_zero: float) -> None:
        self.series_limit = series_limit
        self.first_zero = first_zero
        self.totals: dict[Key, Total] = {}
        self.newest: dict[Key, float] = {}
        self.histograms: dict[Key, Histogram] = {}
        self.exemplars: dict[Key, Exemplar] = {}
        self.exceptions: set[str] = set()  # those that have a label of their own
        # What was served last, and what has changed since.
        self._samples: dict[Metric, list[Sample]] = {}
        self._served: dict[Metric, dict[LabelValues, Sample]] = {}
        self._changed: dict[Key, None] = {}  # an ordered set
        # Totals served as 0, each with the end of that, by a clock that was last at `_clock`.
        self._zeros: dict[Key, float] = {}
        self._clock = float("inf")

    def count(self, table: str, change: Change, now: float, *, live: bool) -> Changes:
        """Say what a change of the position in `table`, made at `now`, adds. Touches nothing.

        `live`: news, whose first value must be preceded by a 0; else history (R12).
        """
        draft = _Draft(self, now, live=live)
        for metric, amount in (
            (metrics.LATE_ROWS, change.late_rows),
            (metrics.EXPIRED_GAPS, change.expired_ids),
            (metrics.ID_RESETS, change.resets),
        ):
            draft.add(metric, (table,), amount)
        if table == "group":
            draft.groups(change.outcomes)
        else:
            draft.tasks(change)
        return draft.changes

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
        for key, total in changes.totals.items():
            if total.zero_until is None:
                self._zeros.pop(key, None)
            else:
                self._zeros.setdefault(key, total.zero_until)
        self.totals.update(changes.totals)
        self.newest.update(changes.newest)
        self.histograms.update(changes.histograms)
        self.exemplars.update(changes.exemplars)
        self.exceptions |= changes.exceptions
        for changed in (changes.totals, changes.newest, changes.histograms, changes.exemplars):
            self._changed.update(dict.fromkeys(changed))

    def series(self) -> int:
        """How many series the task labels make."""
        return len(self.totals) + len(self.newest) + len(self.histograms)

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

    def fold(self, counts: Mapping[Task, int]) -> Mapping[Task, int]:
        """Keep gauges, too, within the limit: labels beyond it are folded, empty ones go (R10)."""
        if len(counts) <= self.series_limit:
            return counts
        kept: Counter[Task] = Counter()
        for labels, count in counts.items():
            room = len(kept) < self.series_limit
            if count:
                kept[labels if room else (OTHER, OTHER, OTHER, OTHER)] += count
        return kept

    def by_task(self) -> Iterator[tuple[str, str, int]]:
        """Finished results as (task, state, count), one for each label set, for any thread."""
        for (metric, labels), total in list(self.totals.items()):
            if metric is metrics.RESULTS:
                yield labels[0], labels[1], int(total.value)


class _Draft:
    """Changes in the making, on top of what the tally holds."""

    def __init__(self, tally: Tally, now: float, *, live: bool) -> None:
        self.tally = tally
        self.now = now
        self.zero_until = now + tally.first_zero if live and tally.first_zero else None
        self.changes = Changes()

    def groups(self, outcomes: Iterable[Finished | Vanished]) -> None:
        """Count saved groups; they have no state and no labels."""
        self.add(metrics.GROUP_RESULTS, (), 0)
        for outcome in outcomes:
            if isinstance(outcome, Finished):
                self.add(metrics.GROUP_RESULTS, (), outcome.rows)
                self.newest(metrics.GROUP_LAST_SAVED, (), outcome.done)

    def tasks(self, change: Change) -> None:
        for watch in change.watch.values():
            if watch is not None and watch.unfinished:
                self._admit(watch.task, watch.worker, watch.queue)
        for outcome in change.outcomes:
            if isinstance(outcome, Finished):
                self.finished(outcome)
            else:
                self.add(metrics.VANISHED, self._room((outcome.task, outcome.state)), 1)

    def finished(self, outcome: Finished) -> None:
        own = (outcome.task, outcome.worker, outcome.queue)
        task, worker, queue = admitted = self._admit(*own)
        if admitted != own:
            self.add(metrics.SERIES_FOLDED, (), outcome.rows)
        result = (task, outcome.state, worker, queue)
        self.add(metrics.RESULTS, result, outcome.rows)
        self.exemplar(metrics.RESULTS, result, outcome)
        if outcome.state == FAILURE:
            failure = (task, queue, self._exception(outcome.exception))
            self.add(metrics.FAILURES, failure, outcome.rows)
            self.exemplar(metrics.FAILURES, failure, outcome)
        self.add(metrics.RETRIES, admitted, outcome.retries)
        self.newest(metrics.LAST_FINISHED, (task, outcome.state), outcome.done)
        if outcome.revises is not None:
            old_task, old_state = outcome.revises
            labels = self._room((old_task, old_state, outcome.state))
            self.add(metrics.REVISED, labels, 1)
        if outcome.runtime is not None:
            key = (metrics.RUNTIME, (task,))
            before = self.changes.histograms.get(key) or self.tally.histograms.get(key)
            before = before or Histogram.empty(metrics.RUNTIME_BUCKETS)
            self.changes.histograms[key] = before.observe(outcome.runtime)

    def add(self, metric: Metric, labels: LabelValues, amount: float) -> None:
        key = (metric, labels)
        before = self._total(key)
        if before is None:
            zero_until = self.zero_until if metric in metrics.TASK_METRICS else None
            self.changes.totals[key] = Total(amount, self.now, zero_until)
        elif amount:
            value, created, zero_until = before
            self.changes.totals[key] = Total(value + amount, created, zero_until)

    def newest(self, metric: Metric, labels: LabelValues, done: float | None) -> None:
        if done is None or done > self.now + FUTURE_SLACK:
            return
        key = (metric, labels)
        before = self.changes.newest.get(key) or self.tally.newest.get(key)
        if before is None or done > before:
            self.changes.newest[key] = done

    def exemplar(self, metric: Metric, labels: LabelValues, outcome: Finished) -> None:
        if outcome.task_id:
            self.changes.exemplars[metric, labels] = Exemplar(outcome.task_id, outcome.done)

    def _exception(self, name: str) -> str:
        """Return the class as a label: there is room for MAX_EXCEPTIONS of them."""
        known, new = self.tally.exceptions, self.changes.exceptions
        if name not in known and name not in new:
            if len(known) + len(new) >= MAX_EXCEPTIONS:
                return OTHER
            new.add(name)
        return name

    def _total(self, key: Key) -> Total | None:
        return self.changes.totals.get(key) or self.tally.totals.get(key)

    def _admit(self, task: str, worker: str, queue: str) -> tuple[str, str, str]:
        """Return the label set to count under: its own, or the folded one (R10).

        Every finished state of it is there from then on, at 0, so that the first failure ever is
        an increase (R12).
        """
        if self._total((metrics.RESULTS, (task, SUCCESS, worker, queue))) is not None:
            return task, worker, queue
        if self._full():
            task, worker, queue = OTHER, OTHER, OTHER
        for state in READY_STATES:
            self.add(metrics.RESULTS, (task, state, worker, queue), 0)
        return task, worker, queue

    def _room(self, labels: LabelValues) -> LabelValues:
        """Fold the task, the first of the labels, where there is no room for more (R10)."""
        return (OTHER, *labels[1:]) if self._full() else labels

    def _full(self) -> bool:
        return len(self.tally.totals) + len(self.changes.totals) >= self.tally.series_limit
