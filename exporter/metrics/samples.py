"""What is served of a metric: values by labels. Pure."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Mapping
from operator import add
from typing import NamedTuple

from exporter.metrics.catalogue import Metric

LabelValues = tuple[str, ...]

LARGEST_COUNT = 2**53  # no larger whole numbers can be told apart in a sample


class Histogram(NamedTuple):
    """Observations per bucket (not cumulated), the last beyond all bounds, and their sum."""

    bounds: tuple[float, ...]
    counts: tuple[int, ...]
    sum: float

    @classmethod
    def of_bucket(
        cls, bounds: tuple[float, ...], bucket: int, count: int, total: float
    ) -> Histogram:
        """Observations that are all in one bucket, with their sum."""
        counts = [0] * (len(bounds) + 1)
        counts[bucket] = count
        return cls(bounds, tuple(counts), total)

    @classmethod
    def empty(cls, bounds: tuple[float, ...]) -> Histogram:
        """No observations yet."""
        return cls(bounds, (0,) * (len(bounds) + 1), 0.0)

    def observe(self, value: float) -> Histogram:
        """Add one observation."""
        bucket = bisect_left(self.bounds, value)
        counts = (*self.counts[:bucket], self.counts[bucket] + 1, *self.counts[bucket + 1 :])
        return Histogram(self.bounds, counts, self.sum + value)

    def rebucketed(self, bounds: tuple[float, ...]) -> Histogram:
        """Return it with other bounds: what was below one is below the next that is not lower."""
        if bounds == self.bounds:
            return self
        counts = [0] * (len(bounds) + 1)
        for bound, count in zip((*self.bounds, float("inf")), self.counts, strict=True):
            counts[bisect_left(bounds, bound)] += count
        return Histogram(bounds, tuple(counts), self.sum)

    def merged(self, other: Histogram) -> Histogram:
        """Add the observations of another with the same buckets."""
        counts = tuple(map(add, self.counts, other.counts))
        return Histogram(self.bounds, counts, self.sum + other.sum)

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


def merged(metric: Metric, samples: Iterable[Sample]) -> Sample:
    """Return the one sample of those that have the same labels: their sum; of times the latest."""
    first, *others = samples
    for other in others:
        first = _merged(metric, first, other)
    return first


def _merged(metric: Metric, one: Sample, other: Sample) -> Sample:
    if isinstance(one.value, Histogram) and isinstance(other.value, Histogram):
        return one._replace(value=one.value.merged(other.value))
    assert not isinstance(one.value, Histogram)  # noqa: S101 - those of a metric are of one kind
    assert not isinstance(other.value, Histogram)  # noqa: S101
    if metric.type == "gauge":
        return one._replace(value=max(one.value, other.value))
    created = [each.created for each in (one, other) if each.created is not None]
    exemplars = [each.exemplar for each in (one, other) if each.exemplar is not None]
    return Sample(
        one.labels,
        one.value + other.value,
        min(created, default=None),
        max(exemplars, key=lambda each: each.done or 0.0, default=None),
    )
