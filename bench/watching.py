"""Polls that watch many unfinished rows, on average over their lives."""

from __future__ import annotations

from collections.abc import Iterator
from statistics import fmean

from sqlalchemy import text

from bench.clock import clock
from bench.figures import Figure, Finding, Plot, count, seconds, timed
from bench.lab import KINDS, Lab, poll, poller
from bench.tables import Shape
from tests.servers.database import Database

INTERVAL = 15.0  # seconds; the default
LIFE = 20 * 60.0  # seconds; from 10 minutes on each row is asked for once a minute
MOST = 0.05  # seconds
FETCH = text("SELECT id, status, name, worker, queue FROM celery_taskmeta WHERE status = 'STARTED'")


SHARES = 2, 10  # one row in so many is unfinished


def run(lab: Lab) -> Iterator[Finding]:
    """Watch on each database."""
    for kind, name in KINDS.items():
        for share in SHARES:
            yield from _on(lab, kind, name, share)


def _on(lab: Lab, kind: str, name: str, share: int) -> Iterator[Finding]:
    unfinished = lab.sizes.unfinished
    database = lab.database(kind, Shape(rows=share * unfinished, unfinished=unfinished))
    ours = poller(database)
    polls = []
    with clock() as now:
        poll(ours)
        for number in range(1, round(LIFE / INTERVAL) + 1):
            now.forward(INTERVAL)
            polls.append((number * INTERVAL, timed(lambda: poll(ours))))
    watched = len(ours.follower.positions["task"].watched)
    ours.close()
    mean = fmean(took for _, took in polls)
    fetching = _fetch(database)
    rows = f"{count(watched)} unfinished rows, 1 in {share}"
    yield Figure(
        f"watching {rows}, mean of {len(polls)} polls, {name}",
        seconds(mean),
        f"reading them all: {seconds(fetching)}",
        mean / fetching,
        f"≤ {seconds(MOST)}",
        mean <= MOST,
    )
    yield Plot(
        f"watching-{kind}-{share}",
        f"Watching {rows}, {name}",
        "seconds since first seen",
        "seconds a poll",
        {"poll": polls},
    )


def _fetch(database: Database) -> float:
    with database.reader_engine().connect() as connection:
        return timed(lambda: connection.execute(FETCH).all())
