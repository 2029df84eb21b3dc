"""What the status page learns from polls: what is so now, and what was in the last hour."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from sqlalchemy import text

from exporter.counting.trends import Trend
from exporter.runtime.poller import Poller
from exporter.web.status import BackendStatus, TaskStatus
from tests.follow import TASKS, Follower, insert, update

if TYPE_CHECKING:
    from sqlalchemy import Engine

    from tests.servers.database import Database

pytestmark = pytest.mark.parametrize("database", ["sqlite"], indirect=True)


def status(follower: Follower) -> BackendStatus:
    return follower.poller.status


def task(follower: Follower, name: str = "app.add") -> TaskStatus:
    (found,) = [task for task in status(follower).tasks if task.task == name]
    return found


def of_the_hour(follower: Follower) -> tuple[int, int]:
    hour = status(follower).hour
    assert hour is not None
    assert len(hour.results) == len(hour.failures) == len(hour.down) == 60
    assert -3600 <= hour.began - time.time() <= -3540
    return sum(hour.results), sum(hour.failures)


def test_the_last_hour_is_what_polls_saw_come(database: Database, engine: Engine) -> None:
    """Not the history that they begin with."""
    with engine.begin() as connection:
        insert(connection)
    follower = Follower(database.reader_url)
    assert status(follower).hour is None
    follower.poll()
    assert status(follower).hour is None
    with engine.begin() as connection:
        for _ in range(3):
            insert(connection)
        insert(connection, "FAILURE", result=b'{"exc_type": "KeyError", "exc_message": []}')
        insert(connection, name="app.other")
    follower.poll()
    assert of_the_hour(follower) == (5, 1)
    hour = status(follower).hour
    assert hour is not None
    assert hour.known in (1, 2)
    assert hour.results[: 60 - hour.known] == (0,) * (60 - hour.known)
    found = task(follower)
    assert (sum(found.results), sum(found.failures)) == (4, 1)
    assert found.exceptions == {"KeyError": 1}
    assert found.finished["SUCCESS"] == 4
    assert task(follower, "app.other").failures == ()
    follower.poll()
    assert of_the_hour(follower) == (5, 1)
    follower.close()


def test_the_last_hour_goes_on_with_other_settings(database: Database, engine: Engine) -> None:
    follower = Follower(database.reader_url).poll()
    with engine.begin() as connection:
        insert(connection)
    follower.poll()
    settings = follower.poller.settings.model_copy(update={"poll_interval": 0.2})
    new = Poller(settings, follower.exposition)
    new.succeed(follower.poller)
    follower.poller = new
    assert of_the_hour(follower) == (1, 0)
    follower.poll()
    with engine.begin() as connection:
        insert(connection)
    follower.poll()
    assert of_the_hour(follower) == (2, 0)
    follower.close()


def test_since_when_it_is_up_or_down_and_why(database: Database, engine: Engine) -> None:
    follower = Follower(database.reader_url)
    before = status(follower)
    assert (before.up, before.since, before.outages) == (None, None, ())
    follower.poll()
    up = status(follower)
    assert up.up
    assert time.time() - 5 < (up.since or 0) <= time.time()
    follower.poll()
    assert status(follower).since == up.since
    engine.dispose()
    file, aside = Path(str(database.owner.database)), Path(f"{database.owner.database}.aside")
    file.rename(aside)
    for _ in range(2):
        assert not follower.poller.try_poll()
        down = status(follower)
        assert not down.up
        (outage,) = down.outages
        assert (outage.since, outage.until, outage.message) == (down.since, None, down.message)
        assert "waiting for Celery to create it" in down.message
        assert down.reason == "absent"
        assert down.hour is not None
        assert any(down.hour.down[-2:])
        assert not any(down.hour.down[:-2])
    aside.rename(file)
    follower.poll()
    again = status(follower)
    assert (again.up, again.reason) == (True, "")
    (outage,) = again.outages
    assert outage.until == again.since
    follower.close()


def test_unfinished_tasks_have_their_age(database: Database, engine: Engine) -> None:
    with engine.begin() as connection:
        row = insert(connection, "STARTED")
        insert(connection, "RETRY")
    follower = Follower(database.reader_url).poll()
    found = task(follower)
    assert found.unfinished == {"STARTED": 1, "RETRY": 1}
    assert found.oldest.keys() == {"STARTED", "RETRY"}
    assert time.time() - 5 < found.oldest["STARTED"] <= time.time()
    with engine.begin() as connection:
        update(connection, row, "SUCCESS")
    follower.poll()
    found = task(follower)
    assert (found.unfinished, found.oldest.keys()) == ({"RETRY": 1}, {"RETRY"})
    follower.close()


def test_what_the_table_lacks(database: Database, engine: Engine) -> None:
    """Once that is known; a table without rows tells nothing of names."""
    follower = Follower(database.reader_url)
    assert status(follower).missing == ()
    follower.poll()
    assert "names" not in status(follower).missing
    with engine.begin() as connection:
        insert(connection, name=None, worker=None, queue=None)
    follower.poll()
    assert "names" in status(follower).missing
    with engine.begin() as connection:
        insert(connection)
    follower.poll()
    assert "names" not in status(follower).missing
    with engine.begin() as connection:
        connection.execute(text("DROP TABLE celery_tasksetmeta"))
    follower.poller.follower.database.close()
    follower.poll()
    found = status(follower)
    assert "table_group" in found.missing
    assert [table.present for table in found.tables] == [True, False]
    follower.close()


def test_catching_up_has_its_progress(database: Database, engine: Engine) -> None:
    with engine.begin() as connection:
        connection.execute(
            text(
                "INSERT INTO celery_taskmeta (task_id, status, name) "
                "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 12000) "
                "SELECT 'task-' || i, 'SUCCESS', 'app.add' FROM n"
            )
        )
    follower = Follower(database.reader_url)
    assert status(follower).catching_up is None
    follower.poller.follower.step()
    found = status(follower).catching_up
    assert found is not None
    assert (found.ids_left, found.done, found.seconds_left) == (7000, 0.0, None)
    follower.poller.follower.step()
    found = status(follower).catching_up
    assert found is None or (found.ids_left < 7000 and found.done > 0)
    follower.poll()
    assert status(follower).catching_up is None
    follower.close()


def test_where_unfinished_rows_are_looked_for_is_left_to_read(
    database: Database, engine: Engine
) -> None:
    with engine.begin() as connection:
        connection.execute(TASKS.insert(), [{"task_id": f"t{n}"} for n in range(12_000)])
    follower = Follower(database.reader_url, start="end")
    follower.poller.follower.step()
    found = status(follower).catching_up
    assert found is not None
    assert found.ids_left == 7000
    follower.close()


def test_ids_have_their_end(database: Database, engine: Engine) -> None:
    """At the rate at which they have been used of late, once that is known."""
    with engine.begin() as connection:
        insert(connection)
    follower = Follower(database.reader_url).poll()
    table = status(follower).tables[0]
    assert (table.highest_id, table.ids_run_out) == (1, None)
    assert table.id_used_ratio is not None
    trend = follower.poller.follower.recent.ids["task"] = Trend(over=3600.0, least=600.0)
    trend.note(0.5, 1000.0)
    trend.note(0.6, 4600.0)
    end = status(follower).tables[0].ids_run_out
    assert end == pytest.approx(time.time() + 4 * 3600, abs=5)
    follower.close()


def test_retention(database: Database, engine: Engine) -> None:
    with engine.begin() as connection:
        insert(connection)
    follower = Follower(database.reader_url, timezone="UTC").poll()
    assert status(follower).tables[0].oldest_result == pytest.approx(time.time(), abs=60)
    follower.close()


@pytest.mark.usefixtures("engine")
def test_dates_ahead_of_the_clock_are_doubted(database: Database) -> None:
    follower = Follower(database.reader_url, timezone="UTC").poll()
    assert status(follower).doubts == ()
    follower.poller.follower.skew = 9 * 3600.0
    (doubt,) = status(follower).doubts
    assert "set timezone (now UTC)" in doubt
    follower.close()
