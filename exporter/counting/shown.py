"""Which samples are served of the totals: the like ones added up, no stale ones. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from operator import itemgetter

from exporter.counting.relabelling import Relabelling
from exporter.counting.values import Total, Value
from exporter.metrics import catalogue
from exporter.metrics.catalogue import Metric
from exporter.metrics.samples import Exemplar, LabelValues, Sample, merged

Key = tuple[Metric, LabelValues]
Users = tuple[str, ...]  # the labels that results need to have, so that a series is in use

LOOK = 60.0  # seconds between looks for what has become stale
_NEVER = float("inf")


class Shown:
    """Follows the totals, and makes samples of what has changed."""

    def __init__(
        self,
        values: Mapping[Key, Value],
        exemplars: Mapping[Key, Exemplar],
        relabelled: Relabelling,
        stale_after: float,
    ) -> None:
        """`values` and `exemplars` are the tally's; `stale_after` in seconds, 0 is never."""
        self._values = values
        self._exemplars = exemplars
        self._relabelled = relabelled
        self._stale_after = stale_after or _NEVER
        # By the labels that are served: the totals behind them, where there are rules.
        self._members: dict[Key, dict[LabelValues, None]] = {}
        self._dropped: dict[Key, None] = {}  # results
        self._revealed: set[Key] = set()  # what is added to these, as served, is an increase
        self._noted: dict[Key, None] = {}  # an ordered set: totals that have changed
        self._changed: dict[Key, None] = {}  # likewise, by the labels that are served
        self._served: dict[Metric, dict[LabelValues, Sample]] = {}
        self._samples: dict[Metric, list[Sample]] = {}
        # When there was a result last, Unix time in seconds; None: before anybody took note.
        self._used: dict[Users, float | None] = {}
        self._stale: set[Users] = set()
        self._looked = _NEVER
        if relabelled.drops:
            self._changed[catalogue.RESULTS_DROPPED, ()] = None

    def note(self, keys: Iterable[Key]) -> None:
        """Take note of totals that have changed, to look at them once that matters.

        In a backlog most change with each step, and none is served before its end.
        """
        self._noted.update(dict.fromkeys(keys))

    def follow(self) -> None:
        """Look at what was noted."""
        if not self._noted:
            return
        back: set[Users] = set()
        noted, self._noted = self._noted, {}
        for key in noted:
            metric, own = key
            labels = self._relabelled(metric, own)
            if labels is None:
                if metric is catalogue.RESULTS:
                    self._dropped[key] = None
                    self._changed[catalogue.RESULTS_DROPPED, ()] = None
                continue
            served = key if labels is own else (metric, labels)
            if self._relabelled:
                self._members.setdefault(served, {})[own] = None
            self._changed[served] = None
            value = self._values[key]
            if metric not in catalogue.TASK_METRICS or not isinstance(value, Total):
                continue
            if value.zero_until is None:
                self._revealed.add(served)
            if metric is catalogue.RESULTS:
                back.update(self._used_by((users_of(*served), labels[:1]), value.used))
        if back:
            again = dict.fromkeys(self._of(back))
            self._changed |= again
            self._revealed -= again.keys()

    def _used_by(self, each: Iterable[Users], moment: float | None) -> Iterator[Users]:
        """Note when a result came; yield those who were stale."""
        for users in each:
            before = self._used.setdefault(users, moment)
            if moment is None or (before is not None and before >= moment):
                continue
            self._used[users] = moment
            if users in self._stale:
                self._stale.remove(users)
                yield users

    def serves(self, key: Key) -> bool:
        """Whether what is added to this total would be an increase of a series that is served."""
        self.follow()
        metric, own = key
        labels = self._relabelled(metric, own)
        if labels is None:
            return True
        return (metric, labels) in self._revealed and users_of(metric, labels) not in self._stale

    def pass_to(self, now: float) -> None:
        """Leave out what nobody has used for long; `now`: Unix time, seconds."""
        if 0.0 <= now - self._looked < LOOK:
            return
        self._looked = now
        self.follow()
        stale = set()
        for users, used in self._used.items():
            if used is None:
                self._used[users] = now
            elif now - used > self._stale_after and users not in self._stale:
                stale.add(users)
        if stale:
            self._stale |= stale
            self._changed.update(dict.fromkeys(self._of(stale)))

    def samples(self) -> dict[Metric, list[Sample]]:
        """List what is served: the same lists while nothing changes."""
        self.follow()
        for metric, labels in self._changed:
            samples = self._served.setdefault(metric, {})
            if metric in catalogue.TASK_METRICS and users_of(metric, labels) in self._stale:
                samples.pop(labels, None)
            elif (sample := self._sample(metric, labels)) is not None:
                samples[labels] = sample
        touched = {metric for metric, _ in self._changed}
        self._changed.clear()
        lists = {metric: list(self._served[metric].values()) for metric in touched}
        self._samples = {**self._samples, **lists}
        return self._samples

    def _of(self, users: set[Users]) -> Iterator[Key]:
        """Yield the series that these use. It looks at all: that is rare."""
        for metric, labels in self._members or self._values:
            if metric in catalogue.TASK_METRICS and users_of(metric, labels) in users:
                yield metric, labels

    def _sample(self, metric: Metric, labels: LabelValues) -> Sample | None:
        if metric is catalogue.RESULTS_DROPPED:
            return self._all_dropped()
        members: Iterable[LabelValues] = self._members.get((metric, labels), (labels,))
        samples = (
            self._values[metric, own].sample(labels, self._exemplars.get((metric, own)))
            for own in members
        )
        known = [sample for sample in samples if sample is not None]
        return merged(metric, known) if known else None

    def _all_dropped(self) -> Sample:
        counted = [total for key in self._dropped if isinstance(total := self._values[key], Total)]
        created = min((total.created for total in counted), default=None)
        return Sample((), sum(total.value for total in counted), created)


_RESULT_USERS = itemgetter(0, 2, 3)


def users_of(metric: Metric, labels: LabelValues) -> Users:
    """Return task, worker and queue of results and retries, the task of all else."""
    if metric is catalogue.RESULTS:
        task, worker, queue = _RESULT_USERS(labels)
        return task, worker, queue
    return labels if metric is catalogue.RETRIES else labels[:1]
