"""What is served of a metric: values by labels. Pure."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from exporter.metrics.catalogue import Metric

LabelValues = tuple[str, ...]


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

    def sample(self, labels: LabelValues, exemplar: Exemplar | None) -> Sample:
        """Return what is served."""
        del exemplar
        return Sample(labels, self)


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
