"""One process for 1 to 200 backends: when all are up, what they cost idle, how a scrape fares."""

from __future__ import annotations

import re
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from statistics import median

from sqlalchemy import URL

from bench.figures import Figure, Finding, Plot, count, quantile, seconds, timed
from bench.lab import KINDS, Lab
from bench.process import LONGEST, TICK, Scraper, cpu_seconds, series
from bench.tables import DAY, Shape
from tests.acceptance.footprint import rss
from tests.acceptance.process import PROMISED_END, Exporter, running
from tests.servers.database import Database, DatabaseServer
from tests.servers.process import wait_until

# 20 label sets, and what a backend has of its own: the figures tell how many series that makes.
# Failures of the last day would be asked for again for an hour, and this is to be idle.
SHAPE = Shape(rows=1_000, tasks=5, workers=4, age=30 * DAY)
SCRAPE_INTERVAL = 15.0  # seconds; so are polls
PAUSE = 0.05  # seconds between scrapes that are timed
MOST_UP, MOST_CPU, MOST_MEMORY, MOST_SCRAPE = 5.0, 0.03, 0.5, 0.015


@dataclass(frozen=True)
class Cost:
    """What some backends cost one process."""

    up: float  # seconds until all are
    cpu: float  # share of a core, idle
    memory: float  # MiB
    scrape: float  # seconds, p99
    median_scrape: float
    end: float  # seconds from the signal on
    series: int


def run(lab: Lab) -> Iterator[Finding]:
    """Measure with more and more of them, on a database of each of two kinds."""
    costs = {}
    for kind in ("sqlite", "postgresql"):
        costs[kind] = _costs(lab, kind)
        yield from _figures(KINDS[kind], costs[kind])
    for name, title, of in (
        ("up", "seconds from the start until all are up", lambda cost: cost.up),
        ("cpu", "share of a core, idle", lambda cost: cost.cpu),
        ("memory", "MiB", lambda cost: cost.memory),
        ("scrape", "seconds a scrape takes, p99", lambda cost: cost.scrape),
    ):
        lines = {KINDS[kind]: _line(found, of) for kind, found in costs.items()}
        yield Plot(f"backends-{name}", f"One process: {title}", "backends", title, lines)


def _line(costs: dict[int, Cost], of: Callable[[Cost], float]) -> list[tuple[float, float]]:
    return [(number, of(cost)) for number, cost in costs.items()]


def _figures(name: str, costs: dict[int, Cost]) -> Iterator[Finding]:
    (fewest, one), (number, all_) = min(costs.items()), max(costs.items())
    what = f"{number} backends, {name}"
    yield Figure(
        f"start to all up, {what}",
        seconds(all_.up),
        f"{fewest}: {seconds(one.up)}",
        all_.up / one.up,
        f"≤ {MOST_UP:g} s",
        all_.up <= MOST_UP,
    )
    yield Figure(
        f"CPU while nothing happens, {what}",
        f"{all_.cpu:.2%} of a core",
        f"{fewest}: {one.cpu:.2%}",
        all_.cpu / max(one.cpu, TICK),
        f"≤ {MOST_CPU:.0%}",
        all_.cpu <= MOST_CPU,
    )
    each = (all_.memory - one.memory) / (number - fewest)
    yield Figure(
        f"memory for each further backend, {what}",
        f"{each:.2f} MiB",
        f"{fewest}: {one.memory:.0f} MiB, all: {all_.memory:.0f} MiB",
        must=f"≤ {MOST_MEMORY} MiB",
        met=each <= MOST_MEMORY,
    )
    yield Figure(
        f"scrape of {count(all_.series)} series, p99 (p50), {what}",
        f"{seconds(all_.scrape)} ({seconds(all_.median_scrape)})",
        f"{fewest}: {seconds(one.scrape)}",
        all_.scrape / one.scrape,
        f"≤ {seconds(MOST_SCRAPE)}",
        all_.scrape <= MOST_SCRAPE,
    )
    yield Figure(
        f"SIGTERM to the end, {what}",
        seconds(all_.end),
        f"{fewest}: {seconds(one.end)}",
        all_.end / one.end,
        f"≤ {PROMISED_END:g} s",
        all_.end <= PROMISED_END,
    )


def _costs(lab: Lab, kind: str) -> dict[int, Cost]:
    numbers = lab.sizes.backends
    with _copies(lab.fresh_database(kind, SHAPE), numbers[-1]) as urls:
        return {number: _cost(lab, urls[:number]) for number in numbers}


def _cost(lab: Lab, urls: Sequence[URL]) -> Cost:
    """Run one process; the scrapes are all of the kind that Prometheus makes."""
    settings = {"defaults": {"start": "beginning"}}
    backends = [
        {"name": f"shop-{n}", "result_backend": url.render_as_string(hide_password=False)}
        for n, url in enumerate(urls)
    ]
    begun = time.monotonic()
    with running(lab.new_folder(), settings | {"backends": backends}) as process:
        wait_until(lambda: _ready(process), "all backends to be tried", LONGEST)
        up = time.monotonic() - begun
        scraper = Scraper(process.address, gzip=False)  # the format that is timed: one is rendered
        body = scraper.scrape()
        scraper.close()
        if len(re.findall(rb'^celery_backend_up{.*"} 1.0$', body, re.MULTILINE)) != len(urls):
            raise RuntimeError("not all backends are up\n" + "\n".join(process.logs()[-30:]))
        scraper = Scraper(process.address)
        cpu = _idle(process.pid, scraper, lab.sizes.seconds)
        memory = rss(process.pid)
        took = []
        for _ in range(lab.sizes.scrapes // 2):
            took.append(timed(scraper.scrape))
            time.sleep(PAUSE)
        scraper.close()
        end = timed(process.stop)
    return Cost(up, cpu, memory, quantile(took, 0.99), median(took), end, series(body))


def _ready(process: Exporter) -> bool:
    return process.get("/-/ready").status == HTTPStatus.OK


def _idle(pid: int, scraper: Scraper, seconds: float) -> float:
    """Return the share of a core that is used, with a scrape now and then."""
    scraper.scrape()
    before, begun = cpu_seconds(pid), time.monotonic()
    while (left := begun + seconds - time.monotonic()) > 0:
        time.sleep(min(left, SCRAPE_INTERVAL))
        scraper.scrape()
    return (cpu_seconds(pid) - before) / (time.monotonic() - begun)


@contextmanager
def _copies(original: Database, number: int) -> Iterator[list[URL]]:
    """Copy a database so often; the copies are gone at the end."""
    if isinstance(original.server, DatabaseServer):
        names = [f"copy{n}" for n in range(number)]
        template = original.reader.database
        for name in names:
            original.server.execute(f"CREATE DATABASE {name} TEMPLATE {template}")
        yield [original.reader.set(database=name) for name in names]
        for name in names:
            original.server.drop(name)
        return
    path = Path(str(original.reader.database))
    paths = [path.with_name(f"{path.stem}-{n}{path.suffix}") for n in range(number)]
    for copy in paths:
        shutil.copy(path, copy)
    yield [original.reader.set(database=str(copy)) for copy in paths]
    for copy in paths:
        copy.unlink()
