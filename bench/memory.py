"""Resident memory of the process, and whether it stays."""

from __future__ import annotations

import time
from collections.abc import Iterator

from bench.figures import Figure, Finding, count
from bench.lab import KINDS, Lab
from bench.process import Scraper, exporter, plain, series
from bench.tables import Shape
from bench.writer import writing
from tests.acceptance.footprint import rss

MOST_SMALL, MOST_LARGE, MOST_GROWTH, MOST_PEAK = 75, 120, 2.0, 120  # MiB
SMALL = Shape(rows=10_000, tasks=20, workers=4)
HOUR = 3600.0  # seconds
LARGE_TASKS = 175  # times 10 workers, in all their states: 10,000 series
RATE = 200  # rows a second


def run(lab: Lab) -> Iterator[Finding]:
    """Weigh it with one small PostgreSQL backend, with a large one, and with made-up names."""
    with exporter(lab, lab.database("postgresql", SMALL), poll_interval="1s") as process:
        _scrape_on(process.address, lab.sizes.seconds / 2)
        small = rss(process.pid)
        number = series(plain(process.address).scrape())
    yield Figure(
        f"memory, one PostgreSQL backend, {number} series",
        f"{small:.0f} MiB",
        must=f"≤ {MOST_SMALL} MiB",
        met=small <= MOST_SMALL,
    )

    unfinished = lab.sizes.unfinished
    # As many again have finished, so that there are all the label sets.
    shape = Shape(rows=2 * unfinished, unfinished=unfinished, tasks=LARGE_TASKS)
    database = lab.fresh_database("postgresql", shape)
    with exporter(lab, database, poll_interval="1s") as process:
        _scrape_on(process.address, lab.sizes.seconds / 2)
        large = rss(process.pid)
        with writing(database, shape, RATE):
            _scrape_on(process.address, lab.sizes.seconds / 3)
            begun = rss(process.pid)  # what is rendered anew takes room beside what it replaces
            _scrape_on(process.address, lab.sizes.seconds)
        later = rss(process.pid)
        number = series(plain(process.address).scrape())
    yield Figure(
        f"memory, {count(number)} series, {count(unfinished)} unfinished rows",
        f"{large:.0f} MiB",
        must=f"≤ {MOST_LARGE} MiB",
        met=large <= MOST_LARGE,
    )
    yield Figure(
        f"the same after {lab.sizes.seconds * 4 / 3:.0f} s of {RATE} rows/s",
        f"{later:.0f} MiB",
        f"after a third of that: {begun:.0f} MiB",
        later / begun,
        f"grown by ≤ {MOST_GROWTH:g} MiB, ≤ {MOST_LARGE} MiB",
        later - begun <= MOST_GROWTH and later <= MOST_LARGE,
    )

    made_up = Shape(rows=lab.sizes.backlog, made_up=True, age=HOUR)
    for kind in ("postgresql", "sqlite"):
        with exporter(lab, lab.fresh_database(kind, made_up)) as process:
            most = rss(process.pid, peak=True)
        yield Figure(
            f"memory at most, {count(made_up.rows)} made-up task names in an hour, {KINDS[kind]}",
            f"{most:.0f} MiB",
            must=f"≤ {MOST_PEAK} MiB",
            met=most <= MOST_PEAK,
        )


def _scrape_on(address: str, seconds: float) -> None:
    scraper = Scraper(address)
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        scraper.scrape()
        time.sleep(0.5)
    scraper.close()
