"""Samples -> the bytes of /metrics. The only module that knows the Prometheus client.

Rendered once after each change, and only in the formats that somebody asks for.
"""

from __future__ import annotations

import gzip
import threading
from collections.abc import Callable, Iterator, Mapping
from itertools import accumulate

from prometheus_client import CollectorRegistry, PlatformCollector, ProcessCollector
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
)
from prometheus_client.core import Metric as Family
from prometheus_client.exposition import generate_latest
from prometheus_client.openmetrics.exposition import generate_latest as generate_openmetrics
from prometheus_client.registry import Collector
from prometheus_client.samples import Exemplar
from prometheus_client.utils import floatToGoString

from exporter import tally
from exporter.formats import Format
from exporter.metrics import CATALOGUE, Metric
from exporter.tally import Histogram, Sample, Samples

EOF = b"# EOF\n"
LONGEST_EXEMPLAR = 128  # characters of names and values: OpenMetrics 1.0, "Exemplars"
GZIP_LEVEL = 1  # a scrape over a network gains most from the first level


class Exposition:
    """What each part of the exporter has published last."""

    def __init__(self, fresh: Callable[[], Samples] = dict) -> None:
        """`fresh`: what is asked for anew at each scrape."""
        self._parts: dict[str | None, Samples] = {}
        self._lock = threading.Lock()
        self._rendered: dict[Format, bytes] = {}
        self._process = CollectorRegistry()
        ProcessCollector(registry=self._process)
        PlatformCollector(registry=self._process)
        self._process.register(_Fresh(fresh))

    def publish(self, backend: str | None, samples: Samples) -> None:
        """Serve these samples from now on; `backend` None: those of the exporter itself."""
        with self._lock:
            self._parts = {**self._parts, backend: samples}
            self._rendered = {}

    def body(self, form: Format, *, compressed: bool = False) -> bytes:
        """Return the exposition in this format."""
        body = self._main(form).removesuffix(EOF) + _render(self._process, form)
        return gzip.compress(body, GZIP_LEVEL) if compressed else body

    def _main(self, form: Format) -> bytes:
        with self._lock:
            rendered = self._rendered
            parts = self._parts
        body = rendered.get(form)
        if body is None:
            body = _render(_Families(parts, created=form is Format.OPENMETRICS), form)
            rendered[form] = body
        return body


def _render(collector: Collector, form: Format) -> bytes:
    if form is Format.OPENMETRICS:
        return generate_openmetrics(collector)  # type: ignore[no-any-return,no-untyped-call]
    return generate_latest(collector)


class _Fresh(Collector):
    """Families made at each scrape."""

    def __init__(self, samples: Callable[[], Samples]) -> None:
        self.samples = samples

    def collect(self) -> Iterator[Family]:
        """Yield what there is now."""
        return _Families({None: self.samples()}, created=False).collect()


class _Families(Collector):
    """The published samples as the client library's families, in the catalogue's order."""

    def __init__(self, parts: Mapping[str | None, Samples], *, created: bool) -> None:
        self.parts = parts
        self.created = created  # the text format would turn it into further gauges

    def collect(self) -> Iterator[Family]:
        """Yield each family that has samples, those of all backends together."""
        for metric in CATALOGUE.values():
            family = None
            for backend, samples in self.parts.items():
                prefix = () if backend is None else (backend,)
                for sample in samples.get(metric, ()):
                    family = family or _family(metric)
                    self._add(family, (*prefix, *sample.labels), sample)
            if family is not None:
                yield family

    def _add(self, family: Family, labels: tuple[str, ...], sample: Sample) -> None:
        value = sample.value
        if isinstance(value, Histogram):
            assert isinstance(family, HistogramMetricFamily)  # noqa: S101  # see `_family`
            bounds = [*map(floatToGoString, value.bounds), "+Inf"]
            buckets = list(zip(bounds, accumulate(value.counts), strict=True))
            family.add_metric(labels, buckets, value.sum)
        elif isinstance(family, CounterMetricFamily):
            created = sample.created if self.created else None
            family.add_metric(labels, value, created, exemplar=_exemplar(sample.exemplar))
        elif isinstance(family, GaugeMetricFamily):
            family.add_metric(labels, value)


def _exemplar(exemplar: tally.Exemplar | None) -> Exemplar | None:
    if exemplar is None or len("task_id") + len(exemplar.task_id) > LONGEST_EXEMPLAR:
        return None
    return Exemplar({"task_id": exemplar.task_id}, 1.0, exemplar.done)


_FAMILIES: dict[str, Callable[..., Family]] = {
    "counter": CounterMetricFamily,
    "gauge": GaugeMetricFamily,
    "histogram": HistogramMetricFamily,
}


def _family(metric: Metric) -> Family:
    return _FAMILIES[metric.type](metric.name, metric.help, labels=metric.label_names)
