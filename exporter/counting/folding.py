"""Which labels fold into ``__other__`` where a backend has many series, and when (R10). Pure.

What matters least folds first: the worker, then the queue, the task last.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace
from itertools import chain
from typing import TypeVar

from exporter.counting.measures import Measures
from exporter.counting.relabelling import Relabelling
from exporter.counting.results import OTHER, READY_STATES, ladder
from exporter.metrics import catalogue
from exporter.metrics.catalogue import Metric
from exporter.metrics.samples import Histogram, LabelValues, Sample

MAX_EXCEPTIONS = 100

Number = TypeVar("Number", bound=float)

# Up to this share of the limit labels are as they are, then one folds, then two, ...
SHARES = (0.7, 0.8, 0.9, 1.0)
NAMES_SHARE = 0.9  # up to which a new task keeps its name
# Beyond this one, totals are kept under what the rules of the configuration make of labels.
OWN_SHARE = 0.5

_ORDER = {
    catalogue.RESULTS: ("worker", "queue", "task"),
    catalogue.RETRIES: ("worker", "queue", "task"),
    catalogue.FAILURES: ("queue", "exception", "task"),
    catalogue.REVISED: ("to_state", "task"),
    catalogue.VANISHED: ("state", "task"),
    catalogue.LAST_FINISHED: ("task",),
    catalogue.RUNTIME: ("task",),
    catalogue.EXACT_RUNTIME: ("task",),
    catalogue.RESULT_RETRIES: ("task",),
    catalogue.PAYLOAD_BYTES: ("task",),
    catalogue.UNFINISHED: ("worker", "queue", "state", "task"),
    catalogue.OLDEST_UNFINISHED: ("state", "task"),
}
_FOLDS = {
    metric: tuple(metric.labels.index(name) for name in names) for metric, names in _ORDER.items()
}

# What a task may need whatever else folds: results of each state, and when the last was; revisions
# from each; retries, failures, vanished rows.
SERIES_A_TASK = 3 * len(READY_STATES) + 3
# Beside these, what is measured of its results: as long as there is room, then that of all others.
_MEASURED = (
    catalogue.RUNTIME,
    catalogue.EXACT_RUNTIME,
    catalogue.RESULT_RETRIES,
    catalogue.PAYLOAD_BYTES,
)


def series(samples: Mapping[Metric, Collection[Sample]]) -> int:
    """Count the series of task metrics."""
    return sum(
        sum(map(_width, samples[metric])) if metric.type == "histogram" else len(samples[metric])
        for metric in samples.keys() & catalogue.TASK_METRICS
    )


def _width(sample: Sample) -> int:
    return len(sample.value.counts) + 2 if isinstance(sample.value, Histogram) else 1


@dataclass(slots=True)
class Room:
    """How much of a backend's limit its counters have taken.

    Each task with a name takes SERIES_A_TASK from its first event on, and other series one by one:
    so what was admitted never folds later, whatever else comes.
    """

    limit: int
    measures: Measures
    taken: int = SERIES_A_TASK
    tasks: set[str] = field(default_factory=set)
    exceptions: set[str] = field(default_factory=set)

    @classmethod
    def empty(cls, limit: int, measures: Measures) -> Room:
        """Return what is taken by `OTHER` alone."""
        room = cls(limit, measures, tasks={OTHER})
        histograms = (one for one in _MEASURED if one.type == "histogram" and measures.cover(one))
        room.taken += sum(map(room.width, histograms)) + len(measures.payload)
        return room

    def copy(self) -> Room:
        """Return another, to try what would be."""
        return replace(self, tasks=self.tasks.copy(), exceptions=self.exceptions.copy())

    def width(self, metric: Metric) -> int:
        """Say how many series a label set of this metric is: the last bucket, a sum, a count."""
        return len(self.measures.bounds(metric)) + 3 if metric.type == "histogram" else 1

    def take(self, metric: Metric, labels: LabelValues) -> None:
        """Note that a label set of a counter is there from now on."""
        if metric not in _FOLDS:
            return
        if labels[0] not in self.tasks:
            self.tasks.add(labels[0])
            self.taken += SERIES_A_TASK
        if not _is_a_tasks_own(metric, labels):
            self.taken += self.width(metric)
        if metric is catalogue.FAILURES:
            self.exceptions.add(labels[-1])

    def exception(self, name: str) -> str:
        """Return the class to count under: there is room for MAX_EXCEPTIONS of them."""
        room = len(self.exceptions) < MAX_EXCEPTIONS
        return name if room or name in self.exceptions else OTHER

    def has_room(self, need: int, share: float) -> bool:
        """Whether so many series more are within a share of the limit."""
        return self.taken + need <= share * self.limit

    def place(
        self,
        metric: Metric,
        labels: LabelValues,
        known: Callable[[LabelValues], bool],
        need: int = 1,
    ) -> LabelValues:
        """Return what to count under: the finest labels that are known, or have room."""
        *finer, folded = ladder(labels, _FOLDS[metric])
        if self._name(labels[0]) == OTHER:
            return folded
        for share, rung in zip(SHARES, finer, strict=False):
            if self.has_room(need, share) or known(rung) or _is_a_tasks_own(metric, rung):
                return rung
        return folded

    def _name(self, task: str) -> str:
        has_room = self.has_room(SERIES_A_TASK, NAMES_SHARE)
        return task if has_room or task in self.tasks else OTHER


def _is_a_tasks_own(metric: Metric, labels: LabelValues) -> bool:
    """Whether this is one of the SERIES_A_TASK: all that can fold has folded, but the task."""
    if metric in _MEASURED:
        return labels[0] == OTHER
    return all(labels[index] == OTHER for index in _FOLDS[metric][:-1])


def fold(
    metric: Metric,
    values: Collection[tuple[LabelValues, Number]],
    limit: int,
    merge: Callable[[Number, Number], Number],
) -> Collection[tuple[LabelValues, Number]]:
    """Keep a gauge's label sets to `limit`, or to the one of all others; empty ones go first."""
    if len(values) > limit:
        values = [(labels, value) for labels, value in values if value]
    if len(values) <= limit:
        return values
    shares = SHARES[: len(_FOLDS[metric])]
    bounds = [*(share * (limit - 1) for share in shares), float("inf")]
    others = (OTHER,) * len(metric.labels)
    kept: dict[LabelValues, Number] = {}
    tasks = {OTHER}
    for labels, value in values:
        rung = others
        if labels[0] in tasks or len(kept) < bounds[-2]:  # else it is of no use to look for more
            for bound, rung in zip(bounds, ladder(labels, _FOLDS[metric]), strict=True):
                if rung in kept or len(kept) < bound:
                    break
            tasks.add(rung[0])
        kept[rung] = merge(kept[rung], value) if rung in kept else value
    return kept.items()


def placed(
    present: Mapping[LabelValues, int],
    counted: Mapping[LabelValues, int],
    relabelled: Relabelling | None = None,
) -> Counter[LabelValues]:
    """Say among which of the counted results those that are present must be.

    Some of a label set's may have counted as they are, and others, before or after, folded: what is
    beyond the one is looked for in the other.
    """
    result: Counter[LabelValues] = Counter()
    left = Counter(counted)
    order = _FOLDS[catalogue.RESULTS]
    relabelled = relabelled or Relabelling()
    for labels, count in present.items():
        coarser = relabelled.coarser(catalogue.RESULTS, labels)
        rungs = chain.from_iterable(zip(ladder(labels, order), ladder(coarser, order), strict=True))
        *finer, last = [rung for rung in dict.fromkeys(rungs) if rung in counted] or [labels]
        rest = count
        for home in finer:
            here = min(rest, left[home])
            result[home] += here
            left[home] -= here
            rest -= here
        result[last] += rest
        left[last] = max(left[last] - rest, 0)
    return result
