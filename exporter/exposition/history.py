"""Series of the past -> OpenMetrics with timestamps, for `promtool tsdb create-blocks-from`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import groupby

from exporter.counting.history import Grid, Run, Series
from exporter.exposition.formats import Format
from exporter.exposition.rendering import END, Renderer, head
from exporter.metrics.catalogue import Metric

PORTION = 10_000  # samples that are rendered at once, about

Timeline = tuple[Series, Iterator[Run]]


def rendered(timelines: Iterable[Timeline], renderers: Mapping[str, Renderer]) -> Iterator[bytes]:
    """Yield all of a metric, then of the next; at last the end. Renderers by backend."""
    for metric, some in groupby(timelines, _metric):
        yield head(metric, Format.OPENMETRICS)
        for series, runs in some:
            name = renderers[series.of.name].series(metric, series.labels)
            yield from _lines(name, runs, series.of.grid)
    yield END[Format.OPENMETRICS]


def _metric(timeline: Timeline) -> Metric:
    return timeline[0].metric


def _lines(name: str, runs: Iterable[Run], grid: Grid) -> Iterator[bytes]:
    lines: list[str] = []
    for value, first, last in runs:
        start = f"{name} {value} "
        for lower in range(first, last + 1, PORTION):
            times = grid.times(lower, min(lower + PORTION - 1, last))
            lines += [f"{start}{moment}\n" for moment in times]
            if len(lines) >= PORTION:
                yield "".join(lines).encode(errors="replace")
                lines.clear()
    yield "".join(lines).encode(errors="replace")
