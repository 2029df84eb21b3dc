"""What is measured of results, beside counting them. Pure."""

from __future__ import annotations

from typing import NamedTuple

from exporter.metrics import catalogue
from exporter.metrics.catalogue import Metric

PARTS = ("result", "args", "kwargs")  # that a payload may have

Bounds = tuple[float, ...]  # of the buckets of a histogram, ascending


class Measures(NamedTuple):
    """What is measured of each result; what is not asked for is empty."""

    runtimes: Bounds = catalogue.RUNTIME_BUCKETS  # seconds
    retries: Bounds = ()
    payload: tuple[str, ...] = ()  # of PARTS: how many bytes they take

    def bounds(self, metric: Metric) -> Bounds:
        """Return the bounds of a histogram."""
        configured = self.retries if metric is catalogue.RESULT_RETRIES else self.runtimes
        return metric.bounds or configured

    def cover(self, metric: Metric) -> bool:
        """Whether a metric is served."""
        if metric is catalogue.RESULT_RETRIES:
            return bool(self.retries)
        return metric is not catalogue.PAYLOAD_BYTES or bool(self.payload)
