"""What ten rules for labels cost: the same series, with and without."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from bench.figures import Figure, Finding, count, quantile, seconds, timed
from bench.lab import Lab
from bench.process import Scraper, cpu_seconds, exporter, series
from bench.scrape import MOST, PAUSE, RATE, SHAPE
from bench.writer import writing
from tests.acceptance.footprint import rss

Rules = Sequence[Mapping[str, str]]
RULES: Rules = [
    {"source": "worker", "regex": "(.+)@(.+)", "replacement": "$1@$2"} for _ in range(10)
]


class Cost(NamedTuple):
    """Of an exporter whose series change all the while."""

    series: int
    core: float  # share of one
    scrape: float  # p99, seconds
    memory: float  # MiB


def run(lab: Lab) -> Iterator[Finding]:
    """Poll and scrape, PostgreSQL behind it."""
    without, with_ten = (_cost(lab, rules) for rules in ((), RULES))
    yield Figure(
        f"ten rules, {count(with_ten.series)} series, {RATE} rows/s: CPU",
        f"{with_ten.core:.1%} of a core",
        f"no rules: {without.core:.1%}",
        with_ten.core / without.core,
    )
    yield Figure(
        "ten rules: scrape, p99, OpenMetrics, gzip",
        seconds(with_ten.scrape),
        f"no rules: {seconds(without.scrape)}",
        with_ten.scrape / without.scrape,
        f"≤ {seconds(MOST)}",
        with_ten.scrape <= MOST,
    )
    yield Figure(
        "ten rules: memory",
        f"{with_ten.memory:.0f} MiB",
        f"no rules: {without.memory:.0f} MiB",
        with_ten.memory / without.memory,
    )


def _cost(lab: Lab, rules: Rules) -> Cost:
    database = lab.fresh_database("postgresql", SHAPE)
    settings: dict[str, Any] = {"poll_interval": "1s", "labels": [*rules]}
    with exporter(lab, database, **settings) as process, writing(database, SHAPE, RATE):
        scraper = Scraper(process.address)
        body = Scraper(process.address, gzip=False).scrape()
        scraper.scrape()
        began, used = time.monotonic(), cpu_seconds(process.pid)
        took = []
        for _ in range(lab.sizes.scrapes):
            took.append(timed(scraper.scrape))
            time.sleep(PAUSE)
        core = (cpu_seconds(process.pid) - used) / (time.monotonic() - began)
        scraper.close()
        return Cost(series(body), core, quantile(took, 0.99), rss(process.pid))
