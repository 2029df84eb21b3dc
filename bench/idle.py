"""A poll that finds nothing new, against the size of the table."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from statistics import fmean

from sqlalchemy import text

from bench.clock import clock
from bench.figures import Figure, Finding, Plot, power, quantile, seconds, timed, typical
from bench.lab import KINDS, Lab, poll, poller
from bench.statements import statements
from bench.tables import Shape
from exporter.runtime.poller import Poller
from tests.servers.database import Database

INTERVAL = 15.0  # seconds; the default
MOST_SECONDS, MOST_STATEMENTS, MOST_GROWTH = 0.005, 5, 1.5
# Of the polls of a minute up to two look at the tables or at beat's, after a slow start apart.
CALM = 0.25
GROUP_BY = text(
    "SELECT name, status, worker, queue, count(*) FROM celery_taskmeta GROUP BY 1,2,3,4"
)


def run(lab: Lab) -> Iterator[Finding]:
    """Measure on each database."""
    for kind, name in KINDS.items():
        yield from _on(lab, kind, name)


def _on(lab: Lab, kind: str, name: str) -> Iterator[Finding]:
    sizes = lab.sizes.tables
    databases = [lab.database(kind, Shape(rows)) for rows in sizes]
    group_bys = [_group_by(database) for database in databases]
    pollers = [poller(database) for database in databases]
    first_look = [timed(partial(poll, each)) for each in pollers]
    durations, sent = _polls(pollers, lab.sizes.polls)
    for each in pollers:
        each.close()

    smallest, largest = power(sizes[0]), power(sizes[-1])
    idle = [quantile(some, CALM) for some in durations]
    group_by = group_bys[-1]
    yield Figure(
        f"idle poll, {largest} rows, {name}",
        seconds(idle[-1]),
        f"GROUP BY over the table: {seconds(group_by)}",
        idle[-1] / group_by,
        f"≤ {seconds(MOST_SECONDS)}",
        idle[-1] <= MOST_SECONDS,
    )
    yield Figure(
        f"statements of it, {name}",
        f"{sent:g}",
        must=f"≤ {MOST_STATEMENTS}",
        met=sent <= MOST_STATEMENTS,
    )
    growth = idle[-1] / idle[0]
    yield Figure(
        f"idle poll, {largest} against {smallest} rows, {name}",
        seconds(idle[-1]),
        f"{smallest} rows: {seconds(idle[0])}",
        growth,
        f"≤ {MOST_GROWTH} ×",
        growth <= MOST_GROWTH,
    )
    yield Figure(
        f"idle poll, mean, with the look at the tables once a minute, {name}",
        seconds(fmean(durations[-1])),
    )
    yield Figure(f"first poll of {largest} rows with start: end, {name}", seconds(first_look[-1]))
    yield Plot(
        f"idle-{kind}",
        f"An idle poll, and a GROUP BY over the table, {name}",
        "rows in the table",
        "seconds",
        {
            "idle poll": list(zip(sizes, idle, strict=True)),
            "GROUP BY": list(zip(sizes, group_bys, strict=True)),
        },
    )


def _polls(pollers: list[Poller], times: int) -> tuple[list[list[float]], float]:
    """Poll all of them in turn, so that noise meets them alike; return how long each poll took.

    And how many statements an idle poll of the last of them sends.
    """
    durations: list[list[float]] = [[] for _ in pollers]
    counts = []
    with clock() as now, statements() as sent:
        for _ in range(times):
            now.forward(INTERVAL)
            for each, took in zip(pollers, durations, strict=True):
                sent.clear()
                took.append(timed(partial(poll, each)))
            counts.append(len(sent))
    return durations, quantile(counts, CALM)


def _group_by(database: Database) -> float:
    """Measure what an SQL exporter does at each scrape."""
    with database.reader_engine().connect() as connection:
        return typical(lambda: connection.execute(GROUP_BY).all(), 3)
