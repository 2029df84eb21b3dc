"""Expected tasks, from the rows to the metrics and the status."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest

from exporter.checkpoint.checkpoint import open_file
from tests.follow import Follower, insert
from tests.runtime.test_clock import Clock

if TYPE_CHECKING:
    from pathlib import Path

    from sqlalchemy import Engine

    from tests.servers.database import Database

pytestmark = pytest.mark.parametrize("database", ["sqlite"], indirect=True)

EXPECTED = [{"task": "app.*", "within": 60.0}, {"task": "reports.nightly", "within": 100.0}]


def overdue(follower: Follower) -> dict[str, float]:
    return {of["task"]: value for of, value in follower.samples("celery_task_overdue")}


def succeed(engine: Engine, name: str) -> None:
    with engine.begin() as connection:
        insert(connection, name=name)


def test_overdue_until_it_succeeds(
    database: Database, engine: Engine, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    clock = Clock(monkeypatch)
    checkpoint = open_file(tmp_path / "checkpoint.sqlite")
    follower = Follower(database.reader_url, checkpoint, expected=EXPECTED)
    assert overdue(follower) == {}
    assert overdue(follower.poll()) == {"app.*": 0, "reports.nightly": 0}
    with engine.begin() as connection:
        insert(connection, name="app.add")
        insert(connection, "FAILURE", name="app.broken")
        insert(connection, name="other.task")
        insert(connection, name=None)
    none = {"app.add": 0, "app.broken": 0, "reports.nightly": 0}
    assert overdue(follower.poll()) == none
    assert follower.value("celery_task_expected_within_seconds", task="app.add") == 60
    follower.close()
    # What was seen is kept, and since when somebody has been looking.
    clock.set_by = 90.0
    follower = Follower(database.reader_url, checkpoint, expected=EXPECTED).poll()
    assert overdue(follower) == none | {"app.add": 1, "app.broken": 1}
    clock.set_by = 120.0
    assert overdue(follower.poll()) == {"app.add": 1, "app.broken": 1, "reports.nightly": 1}
    late = {each.task: each.within for each in follower.poller.status.overdue}
    assert late == {"app.add": 60, "app.broken": 60, "reports.nightly": 100}
    with engine.begin() as connection:
        now = datetime.now(UTC).replace(tzinfo=None) + timedelta(seconds=clock.set_by)
        insert(connection, name="app.add", date_done=now)
    assert overdue(follower.poll())["app.add"] == 0
    follower.close()
    checkpoint.close()


def test_what_is_overdue_stays_so_while_the_database_is_down(
    database: Database, engine: Engine, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Nobody knows better: celery_backend_up tells."""
    clock = Clock(monkeypatch)
    follower = Follower(database.reader_url, expected=EXPECTED).poll()
    succeed(engine, "app.add")
    before = overdue(follower.poll())
    clock.set_by = 1_000.0
    engine.dispose()
    (tmp_path / str(database.owner.database)).unlink()
    follower.poller.follower.database.close()
    assert not follower.poller.try_poll()
    assert overdue(follower) == before
    follower.close()


def test_tasks_that_become_one_by_a_rule(database: Database, engine: Engine) -> None:
    rules = [{"source": "task", "regex": r"app\.(.*)_\d+", "replacement": "app.$1"}]
    follower = Follower(database.reader_url, expected=EXPECTED, labels=rules)
    succeed(engine, "app.add_1")
    succeed(engine, "app.add_2")
    assert overdue(follower.poll()) == {"app.add": 0, "reports.nightly": 0}
    follower.close()
