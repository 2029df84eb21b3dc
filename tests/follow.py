"""What the tests of counting share: a poller without its thread, and rows for it to read."""

from __future__ import annotations

import time
import uuid
from collections import Counter
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from celery.backends.database.models import TaskExtended, TaskSet
from celery.backends.database.session import ResultModelBase

from exporter.config.loading import from_url
from exporter.counting.lifecycle import Rules
from exporter.counting.position import Position
from exporter.counting.tally import Tally
from exporter.exposition.exposition import Exposition
from exporter.exposition.formats import Format
from exporter.runtime.poller import Poller
from tests.scrape import Scrape

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from sqlalchemy import Connection, Engine

    from exporter.checkpoint.checkpoint import Checkpoint
    from exporter.checkpoint.saved import Saved
    from tests.servers.database import Database

TASKS = TaskExtended.__table__
GROUPS = TaskSet.__table__


def restored(checkpoint: Saved, backend: str) -> tuple[dict[str, Position], Tally]:
    """Return what a process that begins now would go on from."""
    positions = {kind: Position(Rules()) for kind in ("task", "group")}
    tally = Tally(20_000, 0.0)
    checkpoint.restore(backend, positions, tally)
    return positions, tally


class Follower:
    """One backend, polled when the test says so; its numbers as a scrape gives them."""

    def __init__(self, url: str, checkpoint: Checkpoint | None = None, **settings: Any) -> None:
        settings = {"start": "beginning", "poll_interval": 0.1, "first_zero": 0.0} | settings
        self.exposition = Exposition()
        self.poller = Poller(from_url(url, **settings).backends[0], self.exposition, checkpoint)
        self.poller.restore()
        self._due = 0.0  # monotonic

    def poll(self) -> Follower:
        """Poll when everything is due again, and insist that it worked."""
        time.sleep(
            max(0.06, self._due - time.monotonic())
        )  # a little more than half the poll interval
        assert self.poller.try_poll(), self.poller.status.message
        self._due = time.monotonic() + self._longest_recheck() + 0.01
        return self

    def _longest_recheck(self) -> float:
        """Say how long rows wait that are old by now, where the machine was busy meanwhile."""
        now = time.time()
        waits = [
            position.rules.recheck(
                now - min(watch.first_seen for watch in position.watched.values())
            )
            for position in self.poller.follower.positions.values()
            if position.watched
        ]
        return min(max(waits, default=0.0), 1.0)

    def scrape(self) -> Scrape:
        """Return the metrics of this moment."""
        return Scrape(self.exposition.body(Format.TEXT).decode())

    def samples(self, name: str) -> list[tuple[Mapping[str, str], float]]:
        """Return all samples of this name as labels and value."""
        return self.scrape().named(name)

    def value(self, name: str, **labels: str) -> float | None:
        """Return the one sample with these labels, or None."""
        return self.scrape().value(name, **labels)

    def total(self, name: str, **labels: str) -> float:
        """Return the sum over all samples with these labels."""
        return sum(v for have, v in self.samples(name) if labels.items() <= have.items())

    def states(self) -> Counter[str]:
        """Count the results by state."""
        counts: Counter[str] = Counter()
        for labels, value in self.samples("celery_task_results_total"):
            counts[labels["state"]] += int(value)
        return +counts

    def close(self) -> None:
        self.poller.follower.database.close()


def create_tables(database: Database) -> Engine:
    """Create Celery's tables as Celery does; return the owner's engine."""
    engine = database.engine()
    ResultModelBase.metadata.create_all(engine)
    return engine


def insert(connection: Connection, state: str = "SUCCESS", **values: Any) -> int:
    """Insert a row of the task table and return its id."""
    row = _row(state, values)
    return connection.execute(TASKS.insert().values(row)).inserted_primary_key[0]


def insert_many(
    connection: Connection, ids: Sequence[int], state: str = "SUCCESS", **values: Any
) -> Sequence[int]:
    """Insert a row of the task table for each of these ids, and return them."""
    connection.execute(TASKS.insert(), [_row(state, values | {"id": each}) for each in ids])
    return ids


def _row(state: str, values: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "task_id": str(uuid.uuid4()),
        "status": state,
        "date_done": datetime.now(UTC).replace(tzinfo=None),
        "name": "app.add",
        "worker": "w1@host",
        "queue": "celery",
        "retries": 0,
        **values,
    }


def update(connection: Connection, row_id: int, state: str, **values: Any) -> None:
    """Update a row of the task table in place."""
    update_many(connection, [row_id], state, **values)


def update_many(connection: Connection, ids: Sequence[int], state: str, **values: Any) -> None:
    """Update rows of the task table in place."""
    connection.execute(TASKS.update().where(TASKS.c.id.in_(ids)).values(status=state, **values))
