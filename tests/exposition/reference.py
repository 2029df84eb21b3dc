"""What prometheus_client itself writes of published samples."""

from __future__ import annotations

from itertools import accumulate
from typing import TYPE_CHECKING

from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.exposition import generate_latest
from prometheus_client.openmetrics.exposition import generate_latest as generate_openmetrics
from prometheus_client.registry import Collector
from prometheus_client.samples import Exemplar
from prometheus_client.utils import floatToGoString

from exporter.exposition.formats import Format
from exporter.metrics.catalogue import CATALOGUE
from exporter.metrics.samples import Histogram

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from exporter.metrics import catalogue
    from exporter.metrics.samples import Sample, Samples

LONGEST_EXEMPLAR = 128  # of OpenMetrics 1.0; the client writes longer ones, Prometheus refuses them
FAMILIES = {
    "counter": CounterMetricFamily,
    "gauge": GaugeMetricFamily,
    "histogram": HistogramMetricFamily,
}


def render(parts: Mapping[str | None, Samples], form: Format) -> bytes:
    """Render with the client; without the end mark of OpenMetrics."""
    if form is Format.TEXT:
        return generate_latest(Families(parts, created=False))
    return generate_openmetrics(Families(parts, created=True)).removesuffix(b"# EOF\n")


class Families(Collector):
    """Samples as the client's families. Its text format makes gauges of `created`: left out."""

    def __init__(self, parts: Mapping[str | None, Samples], *, created: bool) -> None:
        self.parts = parts
        self.created = created

    def collect(self) -> Iterator[Metric]:
        for metric in CATALOGUE.values():
            samples = [
                (() if backend is None else (backend,), sample)
                for backend, published in self.parts.items()
                for sample in published.get(metric, ())
            ]
            if samples:
                yield self._family(metric, samples)

    def _family(
        self, metric: catalogue.Metric, samples: list[tuple[tuple[str, ...], Sample]]
    ) -> Metric:
        family = FAMILIES[metric.type](metric.name, metric.help, labels=metric.label_names)
        for backend, sample in samples:
            labels, value = (*backend, *sample.labels), sample.value
            if isinstance(value, Histogram):
                bounds = [*map(floatToGoString, value.bounds), "+Inf"]
                buckets = list(zip(bounds, accumulate(value.counts), strict=True))
                family.add_metric(labels, buckets, value.sum)
            elif metric.type == "counter":
                created = sample.created if self.created else None
                family.add_metric(labels, value, created, exemplar=exemplar(sample))
            else:
                family.add_metric(labels, value)
        return family


def exemplar(sample: Sample) -> Exemplar | None:
    """Return the client's exemplar; none where OpenMetrics does not allow it."""
    ours = sample.exemplar
    if ours is None or len("task_id") + len(ours.task_id) > LONGEST_EXEMPLAR:
        return None
    return Exemplar({"task_id": ours.task_id}, 1.0, ours.done)
