"""The table that counting is tested with answers as the reader does."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from celery.backends.database.session import ResultModelBase
from hypothesis import settings
from sqlalchemy import create_engine, event

from exporter.backends.database import Database
from exporter.config.loading import from_url
from tests.counting.test_position import TIMES, ManyWriters, Table
from tests.follow import TASKS

if TYPE_CHECKING:
    from sqlalchemy import Engine

    from exporter.counting.step import Batch, Horizon, Plan

ASKED = ("top", "bottom", "last", "held", "keys", "upto", "over", "holes", "late", "late_complete")


@dataclass
class Real:
    """A SQLite file that holds what a table of the tests has committed."""

    folder: tempfile.TemporaryDirectory[str] = field(default_factory=tempfile.TemporaryDirectory)

    def __post_init__(self) -> None:
        url = f"sqlite:///{Path(self.folder.name) / 'results.sqlite'}"
        self.engine: Engine = create_engine(url)
        event.listen(self.engine, "connect", _in_a_hurry)
        ResultModelBase.metadata.create_all(self.engine)
        (backend,) = from_url(url).backends
        self.database = Database(backend)

    def read(self, table: Table, plan: Plan) -> Batch:
        rows = [
            {
                "id": row.id,
                "task_id": row.task_id,
                "status": row.state,
                "name": row.task,
                "worker": row.worker,
                "queue": row.queue,
                "retries": row.retries,
                "date_done": None,
            }
            for row in table.committed.values()
        ]
        with self.engine.begin() as connection:
            connection.execute(TASKS.delete())
            if rows:
                connection.execute(TASKS.insert(), rows)
        with self.database.session() as session:
            return session.readers["task"].read(session.connection, plan)

    def close(self) -> None:
        self.database.close()
        self.engine.dispose()
        self.folder.cleanup()


def _in_a_hurry(connection: object, _record: object) -> None:
    connection.execute("PRAGMA synchronous = OFF")


@dataclass
class Compared(Table):
    """Answers as the model does, once the reader has answered the same."""

    real: Real = field(default_factory=Real)

    def read(self, plan: Plan, horizon: Horizon | None = None) -> Batch:
        expected, batch = super().read(plan, horizon), self.real.read(self, plan)
        for name in ASKED:
            assert getattr(expected, name) == getattr(batch, name), name
        if plan.after is None:
            assert expected.first == batch.first
        assert set(expected.lower) == set(batch.lower)
        assert set(expected.changed) == set(batch.changed)
        assert set(expected.reappeared) == set(batch.reappeared)
        assert sorted(expected.rows) == sorted(batch.rows)
        assert sorted(expected.watched) == sorted(batch.watched)
        assert sorted(group[:5] for group in expected.groups) == sorted(g[:5] for g in batch.groups)
        if expected.found is not None and batch.found is not None:
            assert +expected.found.successes == +batch.found.successes
            assert sorted(expected.found.others) == sorted(batch.found.others)
        return expected


class RealWriters(ManyWriters):
    """The same, with a reader beside the model."""

    new_table = Compared

    def teardown(self) -> None:
        super().teardown()
        self.table.real.close()


RealWriters.TestCase.settings = settings(max_examples=15 * TIMES, stateful_step_count=40)
TestRealWriters = pytest.mark.timeout(1800)(RealWriters.TestCase)
