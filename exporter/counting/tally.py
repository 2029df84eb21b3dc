"""Outcomes -> totals. Pure: no clock, no database, no Prometheus client."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import chain
from math import inf
from typing import TypeVar

from exporter.counting.folding import OWN_SHARE, Room
from exporter.counting.lifecycle import ZONE_SLACK
from exporter.counting.measures import Measures
from exporter.counting.relabelling import Relabelling
from exporter.counting.results import READY_STATES, SUCCESS, Finished
from exporter.counting.shown import Key, Shown
from exporter.counting.step import Change
from exporter.counting.values import Newest, Total, Value
from exporter.counting.zones import CLOCKS
from exporter.metrics import catalogue
from exporter.metrics.catalogue import Metric
from exporter.metrics.samples import Exemplar, Histogram, LabelValues, Sample

Kind = TypeVar("Kind", Total, Newest, Histogram)
MOST_ENTRIES = 10_000  # of beat, with the task of each, whose last success is kept


@dataclass(slots=True)
class Changes:
    """What one step adds to the totals; all of it or nothing is taken over."""

    values: dict[Key, Value] = field(default_factory=dict)
    exemplars: dict[Key, Exemplar] = field(default_factory=dict)

    def update(self, other: Changes) -> None:
        """Add what another part of the step changes: none changes what another does."""
        self.values |= other.values
        self.exemplars |= other.exemplars


Feed = Callable[["Draft", Change], None]  # adds what a change of one kind of table counts as


class Tally:
    """The numbers of one backend, whose task labels make `series_limit` series at most (R10)."""

    def __init__(
        self,
        series_limit: int,
        first_zero: float,
        relabelled: Relabelling | None = None,
        stale_after: float = 0.0,
        measures: Measures | None = None,
    ) -> None:
        """Durations in seconds; `stale_after` 0: no series ever is."""
        self.measures = measures or Measures()
        self.room = Room.empty(series_limit, self.measures)
        self.first_zero = first_zero
        self.relabelled = relabelled or Relabelling()
        self.values: dict[Key, Value] = {}
        self.exemplars: dict[Key, Exemplar] = {}
        self.by_entry: dict[str, set[str]] = {}  # tasks, with the entries that have sent them
        self.shown = Shown(self.values, self.exemplars, self.relabelled, stale_after)
        # Totals served as 0, each with the end of that, by a clock that was last at `_clock`.
        self._zeros: dict[Key, float] = {}
        self._clock = float("inf")
        self._untold: dict[Metric, dict[LabelValues, None]] = {}  # dates that may be told later

    def count(self, table: str, feed: Feed, change: Change, now: float, *, live: bool) -> Changes:
        """Say what a change of the position in `table`, made at `now`, adds. Touches nothing.

        `feed` adds what is said of the rows, the tally what is said of any table.
        `live`: news, whose first value must be preceded by a 0; else history (R12).
        """
        draft = Draft(self, now, change, live=live)
        for metric, amount in (
            (catalogue.LATE_ROWS, change.late_rows),
            (catalogue.EXPIRED_GAPS, change.expired_ids),
            (catalogue.ID_RESETS, change.resets),
        ):
            draft.add(metric, (table,), amount)
        if change.dates is not None:
            withheld = (o.rows for o in change.outcomes if isinstance(o, Finished) and o.withheld)
            draft.add(catalogue.DATES_WITHHELD, (table,), sum(withheld))
        feed(draft, change)
        return draft.changes

    def reveal(self, now: float) -> Changes:
        """Say which totals have been served as 0 for long enough, and show their value (R12).

        That is a change like any other, kept before it is served: what was shown stays shown.
        """
        if now < self._clock:  # restored, or the clock was set back: nothing waits for its return
            latest = now + self.first_zero
            self._zeros = {key: min(until, latest) for key, until in self._zeros.items()}
        self._clock = now
        self.shown.pass_to(now)
        due = (key for key, until in self._zeros.items() if until <= now)
        values = ((key, self.values[key]) for key in due)
        return Changes(
            {
                key: value._replace(zero_until=None, before=0.0)
                for key, value in values
                if type(value) is Total
            }
        )

    def apply(self, changes: Changes) -> None:
        """Take changes over. Never fails."""
        for key, value in changes.values.items():
            if key not in self.values:
                self.room.take(*key)
            self.values[key] = value
            if isinstance(value, Total):
                if value.zero_until is None:
                    self._zeros.pop(key, None)
                else:
                    self._zeros.setdefault(key, value.zero_until)
            elif isinstance(value, Newest):
                self._note_newest(*key, value)
            elif self.measures.cover(key[0]):
                # What a checkpoint has kept may have other buckets.
                self.values[key] = value.rebucketed(self.measures.bounds(key[0]))
        self.exemplars.update(changes.exemplars)
        self.shown.note(chain(changes.values, changes.exemplars))
        if self._zeros:
            self.shown.follow()  # what comes back is seen before its 0 may end

    def untold(self, metric: Metric) -> list[LabelValues]:
        """Return the labels of times that are not told, and may be once their zone is known."""
        return list(self._untold.get(metric, ()))

    def samples(self) -> dict[Metric, list[Sample]]:
        """List what is served: the same lists while nothing changes.

        What is no longer measured stays as it is, for when it is again.
        """
        shown = self.shown.samples()
        return {metric: of for metric, of in shown.items() if self.measures.cover(metric)}

    @property
    def began(self) -> float | None:
        """When the tasks' table was first read, Unix time; None: never."""
        first = self.values.get((catalogue.SERIES_FOLDED, ()))
        return first.created if isinstance(first, Total) else None

    def by_task(self) -> Iterator[tuple[str, str, int]]:
        """Finished results as (task, state, count), one for each label set, for any thread."""
        for (metric, labels), value in self.values.copy().items():  # while polls go on
            if metric is catalogue.RESULTS and isinstance(value, Total):
                yield labels[0], labels[1], int(value.value)

    def last_finished(self) -> Iterator[tuple[str, float | None]]:
        """Tasks and when they last finished, Unix time, one for each state, for any thread.

        None: that is not told.
        """
        for (metric, labels), value in self.values.copy().items():  # while polls go on
            if metric is catalogue.LAST_FINISHED and isinstance(value, Newest):
                yield labels[0], value.value

    def last_success(self, task: str) -> float | None:
        """Return when a task last succeeded, Unix time; None: never, or it has folded."""
        return self._newest((catalogue.LAST_FINISHED, (task, SUCCESS)))

    def last_success_of(self, entry: str, task: str) -> float | None:
        """Return when what an entry of beat has sent last succeeded; None: never.

        Where no result of the task says which entry it comes from, that is when the task did.
        """
        if task in self.by_entry:
            return self._newest((catalogue.ENTRY_LAST_SUCCESS, (entry, task)))
        return self.last_success(task)

    def _newest(self, key: Key) -> float | None:
        found = self.values.get(key)
        return found.value if isinstance(found, Newest) else None

    def success_seen(self, task: str) -> float | None:
        """Return the same, or when it was seen, where it is not told when that was."""
        found = self.values.get((catalogue.LAST_FINISHED, (task, SUCCESS)))
        if not isinstance(found, Newest):
            return None
        return max((t for t in (found.value, found.seen) if t is not None), default=None)

    def _note_newest(self, metric: Metric, labels: LabelValues, value: Newest) -> None:
        if metric is catalogue.ENTRY_LAST_SUCCESS:
            entry, task = labels
            self.by_entry.setdefault(task, set()).add(entry)
        of_metric = self._untold.setdefault(metric, {})
        if value.untold:
            of_metric[labels] = None
        else:
            of_metric.pop(labels, None)


class Draft:
    """Changes in the making, on top of what the tally holds."""

    def __init__(self, tally: Tally, now: float, change: Change, *, live: bool) -> None:
        self.tally = tally
        self.now = now
        self._second = int(now)
        self._dates = change.dates
        self._settled = change.settled if change.confirmed else None
        self.zero_until = now + tally.first_zero if live and tally.first_zero else None
        self.room = tally.room.copy()
        self.new_entries = 0
        self.retried = True  # whether rows say how often their tasks were retried
        self.changes = Changes()

    def add(self, metric: Metric, labels: LabelValues, amount: int) -> None:
        """Count under these very labels; 0 makes them known."""
        key = (metric, labels)
        before = self._before(key, Total)
        used = self._second if metric is catalogue.RESULTS else None
        if before is None:
            self._put(key, Total(amount, self.now, self._zero_until(key), used=used))
        elif amount:
            value, created, zero_until, shown, _ = before
            if zero_until is None and (zero_until := self._zero_until(key)) is not None:
                shown = value
            self.changes.values[key] = Total(value + amount, created, zero_until, shown, used)

    def newest(self, metric: Metric, labels: LabelValues, outcome: Finished) -> None:
        """Note when the newest finished; a time that lies ahead is not believed."""
        done, wall, key = outcome.done, outcome.wall, (metric, labels)
        before = self._before(key, Newest) or Newest(None)
        after, latest = before, self.now + ZONE_SLACK
        if done is not None and done <= latest:
            after = before.told(done, inf if self._dates is None else self.now + CLOCKS)
        elif self._dates is not None and wall is not None and wall <= latest:
            after = before.withheld(wall, self._dates)
        if after != before:
            self._put(key, after)

    def tell(self, metric: Metric) -> None:
        """Tell the times that fit the zone that dates are in, if that has become known."""
        if self._settled is None:
            return
        of_metric = (item for item in self.changes.values.items() if item[0][0] is metric)
        own = [key[1] for key, value in of_metric if isinstance(value, Newest) and value.untold]
        for labels in dict.fromkeys([*self.tally.untold(metric), *own]):
            before = self._before((metric, labels), Newest)
            if before is not None:
                after = before.known(self._settled, self.now + CLOCKS)
                if after != before:
                    self._put((metric, labels), after)

    def success_of(self, outcome: Finished) -> None:
        """Note when a task that an entry of beat has sent succeeded, as long as there is room."""
        key = (catalogue.ENTRY_LAST_SUCCESS, (outcome.entry, outcome.task))
        if not self._is_known(key):
            kept = sum(map(len, self.tally.by_entry.values())) + self.new_entries
            if kept >= MOST_ENTRIES:
                return
            self.new_entries += 1
        self.newest(*key, outcome)

    def observe(self, metric: Metric, labels: LabelValues, value: float | Histogram) -> None:
        """Add to a histogram: one observation, or several in its buckets."""
        if metric in catalogue.TASK_METRICS:
            labels = self._place(metric, labels, self.room.width(metric))
        key = (metric, labels)
        empty = Histogram.empty(self.tally.measures.bounds(metric))
        before = self._before(key, Histogram) or empty
        if isinstance(value, Histogram):
            self._put(key, before.merged(value))
        else:
            self._put(key, before.observe(value))

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
        if self._is_known((catalogue.RESULTS, own)):
            return task, worker, queue
        series = len(READY_STATES) + self.retried
        task, _, worker, queue = self._place(catalogue.RESULTS, own, series)
        for state in READY_STATES:
            self.add(catalogue.RESULTS, (task, state, worker, queue), 0)
        if self.retried:
            self.add(catalogue.RETRIES, (task, worker, queue), 0)
        return task, worker, queue

    def _place(self, metric: Metric, labels: LabelValues, series: int = 1) -> LabelValues:
        """Return the finest labels that are known, or have room."""
        if self._is_known((metric, labels)):
            return labels
        if not self.room.has_room(series, OWN_SHARE):
            labels = self.tally.relabelled.coarser(metric, labels)
            if self._is_known((metric, labels)):
                return labels
        return self.room.place(metric, labels, lambda rung: self._is_known((metric, rung)), series)

    def _is_known(self, key: Key) -> bool:
        return key in self.changes.values or key in self.tally.values

    def _zero_until(self, key: Key) -> float | None:
        """Return until when what is added now must wait: it would be no increase yet (R12)."""
        if self.zero_until is None or key[0] not in catalogue.TASK_METRICS:
            return None
        return None if self.tally.shown.serves(key) else self.zero_until

    def _before(self, key: Key, kind: type[Kind]) -> Kind | None:
        """Return the value that is to change; a metric's are all of its kind."""
        found = self.changes.values.get(key) or self.tally.values.get(key)
        return found if isinstance(found, kind) else None

    def _put(self, key: Key, value: Value) -> None:
        if not self._is_known(key):
            self.room.take(*key)
        self.changes.values[key] = value
