"""A scrape of 10,000 series while polls keep changing them."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from functools import partial
from statistics import median

from prometheus_client import generate_latest
from prometheus_client.core import Metric
from prometheus_client.openmetrics.exposition import generate_latest as generate_openmetrics
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text
from prometheus_client.registry import Collector

from bench.figures import Figure, Finding, count, quantile, seconds, timed, typical
from bench.lab import Lab
from bench.process import Scraper, exporter, plain, series
from bench.tables import Shape
from bench.writer import writing

# 2,400 label sets: three states of each, retries, failures, the last of each state.
SHAPE = Shape(rows=100_000, tasks=240)
RATE = 500  # rows a second
PAUSE = 0.05  # seconds between scrapes
MOST = 0.005  # seconds
WAYS = {
    "OpenMetrics, gzip": Scraper,
    "text": plain,
}


def run(lab: Lab) -> Iterator[Finding]:
    """Scrape, PostgreSQL behind it; then render the same series with the client library."""
    database = lab.fresh_database("postgresql", SHAPE)
    times: dict[str, list[float]] = {}
    with (
        exporter(lab, database, poll_interval="1s") as process,
        writing(database, SHAPE, RATE),
    ):
        text = plain(process.address).scrape()
        openmetrics = Scraper(process.address, gzip=False).scrape()
        for way, scraper in WAYS.items():
            times[way] = _scrapes(scraper(process.address), lab.sizes.scrapes)
        changed = plain(process.address).scrape()
    differing = len(set(changed.splitlines()) - set(text.splitlines()))
    if differing < RATE:
        raise RuntimeError("the polls changed next to nothing")
    latest = _client_library(text.decode(), openmetrics.decode(), lab.sizes.rounds)
    for way, took in times.items():
        p99 = quantile(took, 0.99)
        yield Figure(
            f"scrape of {count(series(text))} series, {RATE} rows/s, p99 (p50), {way}",
            f"{seconds(p99)} ({seconds(median(took))})",
            f"client library: {seconds(latest[way])}",
            p99 / latest[way],
            f"≤ {seconds(MOST)}",
            p99 <= MOST,
        )


def _scrapes(scraper: Scraper, times: int) -> list[float]:
    took = []
    scraper.scrape()  # from now on somebody asks for this format
    for _ in range(times):
        took.append(timed(scraper.scrape))
        time.sleep(PAUSE)
    scraper.close()
    return took


class _Same(Collector):
    """The families of an exposition, made beforehand."""

    def __init__(self, families: Iterable[Metric]) -> None:
        self.families = list(families)

    def collect(self) -> list[Metric]:
        return self.families


def _client_library(text: str, openmetrics: str, times: int) -> dict[str, float]:
    """Measure what the client library takes to render the same, in each format."""
    families = _Same(parse_openmetrics(openmetrics))  # type: ignore[no-untyped-call]
    return {
        "OpenMetrics, gzip": typical(partial(generate_openmetrics, families), times),
        "text": typical(partial(generate_latest, _Same(parse_text(text))), times),
    }
