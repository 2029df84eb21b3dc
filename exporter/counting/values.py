"""What is counted under the labels of a metric: one kind of value for each type of metric. Pure.

A kind says how it is served; the checkpoint keeps its fields by their names.
"""

from __future__ import annotations

from typing import NamedTuple

from exporter.metrics.catalogue import Type
from exporter.metrics.samples import Exemplar, Histogram, LabelValues, Sample


class Total(NamedTuple):
    """A counter's value, its birth, and what is served in its place until when (R12)."""

    value: float
    created: float  # Unix time, seconds
    zero_until: float | None = None  # Unix time, seconds; None: the value is shown, for good
    before: float = 0.0  # what is served until then: more than 0 where it comes back
    used: int | None = None  # of results: when there was one last, Unix time, seconds

    def sample(self, labels: LabelValues, exemplar: Exemplar | None) -> Sample:
        """Return what is served; only the value itself has an exemplar."""
        if self.zero_until is not None:
            return Sample(labels, self.before, self.created)
        return Sample(labels, self.value, self.created, exemplar if self.value else None)


class Newest(NamedTuple):
    """A gauge: the latest of the times that were seen, Unix time in seconds."""

    value: float

    def sample(self, labels: LabelValues, exemplar: Exemplar | None) -> Sample:
        """Return what is served."""
        del exemplar
        return Sample(labels, self.value)


Value = Total | Newest | Histogram
KINDS: dict[Type, type[Value]] = {"counter": Total, "gauge": Newest, "histogram": Histogram}
