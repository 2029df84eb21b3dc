"""How long after its commit a result shows in a scrape."""

from __future__ import annotations

import re
import time
from bisect import bisect_left
from collections.abc import Iterator
from statistics import median

from bench.figures import Figure, Finding, seconds
from bench.lab import Lab
from bench.process import exporter, plain
from bench.tables import Shape, present
from bench.writer import writing

SHAPE = Shape(rows=100_000)
RATE = 500  # rows a second
INTERVAL = 2.0  # seconds
MOST_MORE = 0.5  # seconds more than the interval
PAUSE = 0.03  # seconds between scrapes
RESULTS = re.compile(rb"^celery_task_results_total\{.*\} (\S+)$", re.MULTILINE)


def run(lab: Lab) -> Iterator[Finding]:
    """Note when each row was committed, and when as many were served."""
    database = lab.fresh_database("postgresql", SHAPE)
    log = lab.new_folder() / "commits"
    with exporter(lab, database, poll_interval=f"{INTERVAL:g}s") as process:
        with writing(database, SHAPE, RATE, log):
            served = _watch(process.address, lab.sizes.seconds)
        served += _watch(process.address, INTERVAL + MOST_MORE)
    commits = [
        (int(row), float(when)) for row, when in map(str.split, log.read_text().splitlines())
    ]
    delays = list(_delays(commits, served))
    (first, begun), (last, ended) = commits[0], commits[-1]
    rate = (last - first) / (ended - begun)  # a busy machine may not manage RATE
    slowest = max(delays)
    yield Figure(
        f"freshness at {rate:.0f} rows/s, poll interval {INTERVAL:g} s: longest (median)",
        f"{seconds(slowest)} ({seconds(median(delays))})",
        must=f"≤ {INTERVAL + MOST_MORE:g} s",
        met=slowest <= INTERVAL + MOST_MORE,
    )


def _watch(address: str, duration: float) -> list[tuple[int, float]]:
    """Scrape; return how many results were served at what time."""
    scraper = plain(address)
    served = []
    end = time.time() + duration
    while time.time() < end:
        body = scraper.scrape()
        now = time.time()
        served.append((round(sum(map(float, RESULTS.findall(body)))), now))
        time.sleep(PAUSE)
    scraper.close()
    return served


def _delays(commits: list[tuple[int, float]], served: list[tuple[int, float]]) -> Iterator[float]:
    """Yield for each commit the time until it was served."""
    totals = [total for total, _ in served]
    for row, committed in commits:
        seen = bisect_left(totals, present(row))
        if seen == len(served):
            raise RuntimeError(f"row {row} was never served")
        yield served[seen][1] - committed
