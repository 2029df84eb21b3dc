"""What is counted under the labels of a metric: one kind of value for each type of metric. Pure.

A kind says how it is served; the checkpoint keeps its fields by their names.
"""

from __future__ import annotations

from math import inf
from typing import NamedTuple

from exporter.counting.zones import Dates, Settled, placed
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

    value: float | None  # None: none that is told
    # The latest of those that are not told yet: in seconds as if it were UTC, and between which
    # looks its result has finished, if that is known.
    wall: float | None = None
    after: float | None = None
    seen: float | None = None

    @property
    def untold(self) -> bool:
        """Whether there is a later time, which may be told once its zone is known."""
        return self.after is not None

    def told(self, moment: float, latest: float = inf) -> Newest:
        """Return the same, after such a time; one beyond `latest` was read in another zone."""
        stays = self.value is not None and moment <= self.value <= latest
        value = self.value if stays else moment
        passed = self.seen is not None and self.seen <= moment
        return Newest(value) if passed else self._replace(value=value)

    def withheld(self, wall: float, dates: Dates) -> Newest:
        """Return the same, after a time that is not told yet."""
        later = dates.fresh and self.seen != dates.now  # than whatever was there before
        if self.wall is not None and wall <= self.wall and not later:
            return self
        return Newest(self.value, wall, dates.after, dates.now)

    def known(self, settled: Settled, latest: float) -> Newest:
        """Return the same, with what was not told, if it fits what is settled."""
        if self.wall is None or self.seen is None:
            return self
        moment = placed(self.wall, settled, self.after, self.seen)
        return self if moment is None else Newest(self.told(moment, latest).value)

    def sample(self, labels: LabelValues, exemplar: Exemplar | None) -> Sample | None:
        """Return what is served."""
        del exemplar
        return None if self.value is None else Sample(labels, self.value)


Value = Total | Newest | Histogram
KINDS: dict[Type, type[Value]] = {"counter": Total, "gauge": Newest, "histogram": Histogram}
