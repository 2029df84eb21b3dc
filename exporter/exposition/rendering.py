"""Samples -> the lines of an exposition format. The only module that knows the Prometheus client.

The client takes some 15 µs for a line. Here lines are kept while their sample stays the same; a
test compares every byte with the client's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import cache
from itertools import accumulate
from operator import itemgetter
from typing import NamedTuple

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
from prometheus_client.utils import floatToGoString

from exporter.exposition.formats import Format
from exporter.exposition.pieces import Piece
from exporter.metrics.catalogue import CATALOGUE, Metric
from exporter.metrics.samples import Exemplar, Histogram, LabelValues, Sample, Samples

END = {Format.TEXT: b"", Format.OPENMETRICS: b"# EOF\n"}
LONGEST_EXEMPLAR = 128  # characters of names and values: OpenMetrics 1.0, "Exemplars"

_number: Callable[[float], str] = floatToGoString
_line: Callable[[tuple[Sample, str]], str] = itemgetter(1)

_process = CollectorRegistry()
ProcessCollector(registry=_process)
PlatformCollector(registry=_process)


def render_process(form: Format) -> bytes:
    """Render what is known of this process now, and the format's end."""
    return _generate(_process, form)


class _Rendered(NamedTuple):
    """What was made of the samples of a metric."""

    samples: Iterable[Sample]
    lines: dict[LabelValues, tuple[Sample, str]]
    piece: Piece | None  # None: there are no lines


_NOTHING = _Rendered((), {}, None)


class Fixed(NamedTuple):
    """What is said of all series of a backend: labels that they have besides, or have not."""

    extra: tuple[tuple[str, str], ...] = ()
    without: frozenset[str] = frozenset()


NOTHING_FIXED = Fixed()


class Renderer:
    """Renders what one backend has, in one format. What has not changed is not rendered again."""

    def __init__(
        self, form: Format, backend: str | None = None, fixed: Fixed = NOTHING_FIXED
    ) -> None:
        """`backend` None: the exporter itself."""
        self.form = form
        self.rendered = 0  # samples, in all: the work done
        self._own = () if backend is None else (backend,)
        self._without = fixed.without
        self._extra = tuple(name for name, _ in fixed.extra), tuple(text for _, text in fixed.extra)
        self._kept: dict[Metric, _Rendered] = {}

    def render(self, samples: Samples) -> dict[Metric, Piece]:
        """Render the lines of each metric that has some: the same piece while they are the same."""
        before = self._kept
        self._kept = {
            metric: self._render(metric, some, before.get(metric, _NOTHING))
            for metric, some in samples.items()
        }
        return {metric: kept.piece for metric, kept in self._kept.items() if kept.piece}

    def render_whole(self, samples: Samples) -> bytes:
        """Render samples with what stands above each metric, in the catalogue's order."""
        pieces = self.render(samples)
        return b"".join(
            head(metric, self.form) + pieces[metric].text
            for metric in CATALOGUE.values()
            if metric in pieces
        )

    def series(self, metric: Metric, labels: LabelValues) -> str:
        """Return what the line of a sample begins with: its name and labels."""
        return f"{metric.name}{_labels(*self._labels(metric, labels))}"

    def _render(self, metric: Metric, samples: Iterable[Sample], before: _Rendered) -> _Rendered:
        if samples is before.samples:
            return before
        rendered = self.rendered
        lines = {}
        for sample in samples:
            kept = before.lines.get(sample.labels)
            if kept is None or (kept[0] is not sample and kept[0] != sample):
                self.rendered += 1
                kept = sample, "".join(self._sample(metric, sample))
            lines[sample.labels] = kept
        if rendered == self.rendered and [*lines] == [*before.lines]:
            return _Rendered(samples, lines, before.piece)
        # A lone surrogate, which UTF-8 cannot hold, is no reason to go without all the rest.
        text = "".join(map(_line, lines.values())).encode(errors="replace")
        return _Rendered(samples, lines, Piece(text) if text else None)

    def _sample(self, metric: Metric, sample: Sample) -> Iterator[str]:
        names, labels = self._labels(metric, sample.labels)
        if isinstance(sample.value, Histogram):
            yield from _histogram(metric.name, names, labels, sample.value)
            return
        own = _labels(names, labels)
        line = f"{metric.name}{own} {_number(sample.value)}"
        if self.form is Format.TEXT or metric.type == "gauge":
            yield f"{line}\n"
            return
        yield f"{line}{_exemplar(sample.exemplar)}\n"
        if sample.created is not None:
            name = metric.name.removesuffix("_total")
            yield f"{name}_created{own} {_number(sample.created)}\n"

    def _labels(self, metric: Metric, labels: LabelValues) -> tuple[LabelValues, LabelValues]:
        """Return names and values."""
        names, values = metric.label_names, (*self._own, *labels)
        if without := self._without:
            pairs = [(n, v) for n, v in zip(names, values, strict=True) if v or n not in without]
            names, values = (tuple(side) for side in zip(*pairs, strict=True))
        return (*names, *self._extra[0]), (*values, *self._extra[1])


def _histogram(
    name: str, names: tuple[str, ...], labels: tuple[str, ...], value: Histogram
) -> Iterator[str]:
    counts = [*map(_number, accumulate(value.counts))]
    bounds = [*map(_number, value.bounds), "+Inf"]
    for bound, count in zip(bounds, counts, strict=True):
        yield f"{name}_bucket{_labels((*names, 'le'), (*labels, bound))} {count}\n"
    own = _labels(names, labels)
    yield f"{name}_count{own} {counts[-1]}\n"
    yield f"{name}_sum{own} {_number(value.sum)}\n"


def _exemplar(exemplar: Exemplar | None) -> str:
    if exemplar is None or len("task_id") + len(exemplar.task_id) > LONGEST_EXEMPLAR:
        return ""
    done = "" if exemplar.done is None else f" {exemplar.done}"
    return f' # {{task_id="{_escape(exemplar.task_id)}"}} 1.0{done}'


def _labels(names: tuple[str, ...], values: tuple[str, ...]) -> str:
    if not names:
        return ""
    pairs = sorted(zip(names, values, strict=True))
    return "{" + ",".join([f'{name}="{_escape(value)}"' for name, value in pairs]) + "}"


def _escape(value: str) -> str:
    return value.replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"")


_FAMILIES: dict[str, type[CounterMetricFamily | GaugeMetricFamily | HistogramMetricFamily]] = {
    "counter": CounterMetricFamily,
    "gauge": GaugeMetricFamily,
    "histogram": HistogramMetricFamily,
}


@cache
def head(metric: Metric, form: Format) -> bytes:
    """Return HELP and TYPE: what the client writes of a family without samples."""
    family = _FAMILIES[metric.type](metric.name, metric.help, labels=metric.label_names)
    return _generate(_Only(family), form).removesuffix(END[form])


class _Only(Collector):
    def __init__(self, family: Family) -> None:
        self.family = family

    def collect(self) -> list[Family]:
        return [self.family]


def _generate(collector: Collector, form: Format) -> bytes:
    if form is Format.OPENMETRICS:
        return generate_openmetrics(collector)  # type: ignore[no-any-return,no-untyped-call]
    return generate_latest(collector)
