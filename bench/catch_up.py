"""Counting a backlog, against the database's own GROUP BY over the same ids."""

from __future__ import annotations

import time
from collections.abc import Iterator
from statistics import median

from sqlalchemy import TextClause, text

from bench.figures import Figure, Finding, Plot, count, power, seconds, timed
from bench.lab import KINDS, Lab, poll, poller
from bench.tables import Shape, present
from tests.servers.database import Database

MOST_RATIO, MOST_SILENT_RATIO, MOST_CPU = 1.5, 3.0, 2e-6
# The figures that we need, of one range of ids.
GROUP_BY = text(
    "SELECT name, status, worker, queue, count(*), sum(retries), max(date_done), max(id)"
    " FROM celery_taskmeta WHERE id BETWEEN 1 AND :last GROUP BY 1, 2, 3, 4"
)
ROWS = text(
    "SELECT id, name, status, worker, queue, retries, date_done"
    " FROM celery_taskmeta WHERE id BETWEEN 1 AND :last ORDER BY id"
)
ALONE = "SET max_parallel_workers_per_gather = 0"  # as one of our chunks is counted
UNFINISHED_SHARE = 2_000  # one row in so many


def run(lab: Lab) -> Iterator[Finding]:
    """Measure on each database."""
    for kind, name in KINDS.items():
        yield from _on(lab, kind, name)
        yield _silent(lab, kind, name)


def _on(lab: Lab, kind: str, name: str) -> Iterator[Finding]:
    ours, group_bys = [], []
    cpu = 0.0
    for rows in lab.sizes.backlogs:
        database = lab.database(kind, Shape(rows, max(1, rows // UNFINISHED_SHARE)))
        rounds = [
            (_ours(database, rows), _ask(database, GROUP_BY, rows)) for _ in range(lab.sizes.rounds)
        ]
        ours.append((rows, median(took for (took, _), _ in rounds)))
        group_bys.append((rows, median(took for _, took in rounds)))
        cpu = median(spent for (_, spent), _ in rounds) / rows
    rows, took = ours[-1]
    group_by = group_bys[-1][1]
    alone = _alone(lab, kind, database, rows)
    fetching = _ask(database, ROWS, rows)
    compared = [f"GROUP BY by one process: {seconds(alone)}"]
    if kind == "postgresql":
        compared.append(f"by three: {seconds(group_by)}")
    compared.append(f"fetching the rows: {seconds(fetching)}")
    ratio = took / alone
    yield Figure(
        f"catch-up, {power(rows)} rows, {name}",
        f"{seconds(took)}, {count(rows / took)} rows/s",
        "; ".join(compared),
        ratio,
        f"≤ {MOST_RATIO} × GROUP BY",
        ratio <= MOST_RATIO,
    )
    yield Figure(
        f"CPU for each finished task in catch-up, {name}"
        + (", SQLite's own work included" if kind == "sqlite" else ""),
        seconds(cpu),
        must=f"≤ {seconds(MOST_CPU)}",
        met=cpu <= MOST_CPU,
    )
    yield Plot(
        f"catch-up-{kind}",
        f"Counting a backlog, and a GROUP BY over it, {name}",
        "rows in the backlog",
        "seconds",
        {"catch-up": ours, "GROUP BY": group_bys},
    )


def _silent(lab: Lab, kind: str, name: str) -> Figure:
    """Count the largest backlog where only tracebacks tell the class of failures."""
    rows = lab.sizes.backlog
    database = lab.database(kind, Shape(rows, max(1, rows // UNFINISHED_SHARE), silent=True))
    took = median(_ours(database, rows)[0] for _ in range(lab.sizes.rounds))
    alone = _alone(lab, kind, database, rows)
    ratio = took / alone
    return Figure(
        f"the same where only tracebacks tell the class of failures, {name}",
        f"{seconds(took)}, {count(rows / took)} rows/s",
        f"GROUP BY by one process: {seconds(alone)}",
        ratio,
        f"≤ {MOST_SILENT_RATIO:g} × GROUP BY",
        ratio <= MOST_SILENT_RATIO,
    )


def _alone(lab: Lab, kind: str, database: Database, rows: int) -> float:
    before = ALONE if kind == "postgresql" else "SELECT 1"
    return median(_ask(database, GROUP_BY, rows, before) for _ in range(lab.sizes.rounds))


def _ours(database: Database, rows: int) -> tuple[float, float]:
    """Count all there is; return the seconds, and those of this process's CPU."""
    ours = poller(database, start="beginning")
    cpu = time.process_time()
    took = timed(lambda: poll(ours))
    cpu = time.process_time() - cpu
    ours.close()
    counted = sum(number for _, _, number in ours.follower.tally.by_task())
    unfinished = sum(ours.follower.positions["task"].unfinished.values())
    if counted + unfinished != present(rows):
        raise RuntimeError(f"{counted} + {unfinished} of {present(rows)} rows were counted")
    return took, cpu


def _ask(database: Database, query: TextClause, last: int, before: str = "SELECT 1") -> float:
    with database.reader_engine().connect() as connection:
        connection.exec_driver_sql(before)
        return timed(lambda: connection.execute(query, {"last": last}).all())
