"""Counting on every database: rows in, samples out."""

from __future__ import annotations

import time
from collections import Counter
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING
from zoneinfo import ZoneInfo

import pytest
from sqlalchemy import delete, text

from exporter.backends.chunks import NEWEST_ROWS
from exporter.backends.reader import Reader
from exporter.backends.tables import celery
from exporter.checkpoint.checkpoint import open_file
from exporter.counting.audit import AGES
from exporter.counting.gaps import SETTLING
from exporter.counting.lifecycle import Rules
from exporter.counting.step import Batch, Plan
from exporter.errors import BackendError, Reason
from exporter.sql.dialects.postgresql import beyond_all
from tests.conftest import DATABASES
from tests.follow import (
    GROUPS,
    TASKS,
    Follower,
    create_tables,
    insert,
    insert_many,
    update,
    update_many,
)

if TYPE_CHECKING:
    from pathlib import Path

    from sqlalchemy import Connection, Engine

    from tests.servers.database import Database


CONCURRENT = [name for name in DATABASES if name != "sqlite"]  # SQLite has one writer at a time


def _now() -> datetime:
    return datetime.now(UTC).replace(tzinfo=None)


def test_columns_are_celerys_own() -> None:
    """Every column we name exists in Celery's models."""
    for layout, table in ((celery.TASK, TASKS), (celery.GROUP, GROUPS)):
        assert {*layout.required, *layout.optional} <= set(table.c.keys())


def test_each_state_counts_under_its_labels(follower: Follower, engine: Engine) -> None:
    with engine.begin() as connection:
        for state, times in (("SUCCESS", 3), ("FAILURE", 2), ("REVOKED", 1), ("STARTED", 4)):
            for _ in range(times):
                insert(connection, state, retries=2)
    follower.poll()
    labels = {"backend": "celery", "task": "app.add", "worker": "w1@host", "queue": "celery"}
    name = "celery_task_results_total"
    assert follower.value(name, state="SUCCESS", **labels) == 3
    assert follower.value(name, state="FAILURE", **labels) == 2
    assert follower.value(name, state="REVOKED", **labels) == 1
    assert follower.value("celery_task_unfinished", state="STARTED", **labels) == 4
    assert follower.value("celery_task_retries_total", **labels) == 12
    assert follower.value("celery_backend_up") == 1
    interval = follower.poller.settings.poll_interval
    assert follower.value("celery_backend_poll_interval_seconds") == interval
    follower.poll()
    assert follower.states() == {"SUCCESS": 3, "FAILURE": 2, "REVOKED": 1}


def test_only_new_rows_count_from_the_end(database: Database, engine: Engine) -> None:
    with engine.begin() as connection:
        insert(connection)
        started = insert(connection, "STARTED")
        insert(connection, "FAILURE")
    follower = Follower(database.reader_url, start="end").poll()
    assert follower.states() == {}
    assert follower.total("celery_task_unfinished", state="STARTED") == 1
    with engine.begin() as connection:
        update(connection, started, "SUCCESS")
        insert(connection)
    assert follower.poll().states() == {"SUCCESS": 2}
    follower.close()


def test_late_commit_is_counted(follower: Follower, engine: Engine) -> None:
    """An id that becomes visible below the cursor is counted, once."""
    with engine.begin() as connection:
        insert(connection, id=7)
    assert follower.poll().states() == {"SUCCESS": 1}
    with engine.begin() as connection:
        insert(connection, id=10)
    assert follower.poll().states() == {"SUCCESS": 2}
    assert follower.value("celery_backend_gap_ids", table="task") == 2
    with engine.begin() as connection:
        insert(connection, "FAILURE", id=8)
        insert(connection, id=3)
    assert follower.poll().states() == {"SUCCESS": 3, "FAILURE": 1}
    assert follower.poll().states() == {"SUCCESS": 3, "FAILURE": 1}
    assert follower.value("celery_backend_late_rows_total", table="task") == 2


@pytest.mark.parametrize("database", CONCURRENT, indirect=True)
def test_open_transaction_is_waited_for(database: Database, follower: Follower) -> None:
    """The id is drawn before the commit: the real thing, not a simulation."""
    engine = database.engine()
    with engine.connect() as slow, engine.connect() as quick:
        low = insert(slow)
        high = insert(quick)
        assert low < high
        quick.commit()
        assert follower.poll().states() == {"SUCCESS": 1}
        slow.commit()
    assert follower.poll().states() == {"SUCCESS": 2}
    assert follower.value("celery_backend_late_rows_total", table="task") == 1


@pytest.mark.parametrize("database", ["postgresql"], indirect=True)
def test_newest_transaction_is_waited_for(follower: Follower, engine: Engine) -> None:
    """The snapshot's xmax is not beyond it while nothing newer has ended."""
    with engine.begin() as connection:
        insert(connection)
    with engine.connect() as newer, engine.connect() as older:
        older.execute(text("SELECT pg_current_xact_id()"))
        low = insert(newer)
        high = insert(older)
        assert low < high
        older.commit()
        deadline = time.monotonic() + SETTLING + 1.0
        while time.monotonic() < deadline:
            assert follower.poll().states() == {"SUCCESS": 2}
        assert follower.value("celery_backend_gap_ids", table="task") == 1
        newer.commit()
    deadline = time.monotonic() + 20.0
    while follower.poll().poller.follower.positions["task"].gaps and time.monotonic() < deadline:
        pass
    assert follower.poller.follower.positions["task"].gaps == ()
    assert follower.states() == {"SUCCESS": 3}


@pytest.mark.parametrize(
    ("ended", "running", "expected"),
    [
        (100, [], 100),
        (100, [40, 99], 100),
        (100, [100], 101),
        (100, [104, 102], 105),
        (2**32 + 5, [2**32 - 3, 7], 2**32 + 8),
        (2**32 - 2, [3], 2**32 + 4),
    ],
)
def test_first_unused_transaction_id(ended: int, running: list[int], expected: int) -> None:
    """Beyond those that ended and those that run, whose ids have 32 bits."""
    assert beyond_all(ended, running) == expected


def test_row_is_followed_to_its_end(follower: Follower, engine: Engine) -> None:
    with engine.begin() as connection:
        row = insert(connection, "STARTED", date_done=None)
    follower.poll()
    assert follower.total("celery_task_unfinished", state="STARTED") == 1
    assert follower.value("celery_task_oldest_unfinished_timestamp_seconds", state="STARTED")
    with engine.begin() as connection:
        update(connection, row, "PROGRESS")
    follower.poll()
    assert follower.total("celery_task_unfinished", state="STARTED") == 0
    assert follower.total("celery_task_unfinished", state="PROGRESS") == 1
    with engine.begin() as connection:
        update(connection, row, "SUCCESS")
    follower.poll()
    assert follower.total("celery_task_unfinished") == 0
    assert follower.states() == {"SUCCESS": 1}


@pytest.mark.parametrize("apart", [1, 5])
def test_many_unfinished_rows_are_watched_together(
    follower: Follower, engine: Engine, apart: int
) -> None:
    """Whatever happens to one of them is seen: another state, another worker, none any more."""
    many = Rules().cohort + 100
    with engine.begin() as connection:
        rows = insert_many(connection, range(apart, apart * many + 1, apart), "STARTED")
    position = follower.poll().poll().poll().poller.follower.positions["task"]
    assert [len(cohort.ids) for cohort in position.rechecks.cohorts] == [Rules().cohort]
    now = datetime.now(UTC).replace(tzinfo=None)
    earlier, later = now - timedelta(hours=1), now + timedelta(seconds=5)
    with engine.begin() as connection:
        update(connection, rows[4], "SUCCESS", date_done=earlier)  # by a worker whose clock is slow
    assert follower.poll().states() == {"SUCCESS": 1}
    with engine.begin() as connection:
        update(connection, rows[0], "SUCCESS", date_done=later)
        update(connection, rows[1], "RETRY", date_done=later)
        update(connection, rows[2], "STARTED", date_done=later, worker="w2@host")
        connection.execute(delete(TASKS).where(TASKS.c.id == rows[3]))
    follower.poll()
    assert follower.states() == {"SUCCESS": 2}
    assert follower.total("celery_task_unfinished", state="RETRY") == 1
    assert follower.total("celery_task_unfinished", state="STARTED") == many - 4
    assert follower.total("celery_task_unfinished", state="STARTED", worker="w2@host") == 1
    assert follower.value("celery_task_unfinished_vanished_total", state="STARTED") == 1
    with engine.begin() as connection:
        update_many(connection, rows[3:], "SUCCESS")
    deadline = time.monotonic() + 20
    while follower.poll().states()["SUCCESS"] < many - 3 and time.monotonic() < deadline:
        pass
    assert follower.states() == {"SUCCESS": many - 3}
    assert follower.total("celery_task_unfinished") == 2


def test_deleted_unfinished_row_has_vanished(follower: Follower, engine: Engine) -> None:
    with engine.begin() as connection:
        row = insert(connection, "STARTED")
        insert(connection)
    follower.poll()
    with engine.begin() as connection:
        connection.execute(delete(TASKS).where(TASKS.c.id == row))
    follower.poll()
    assert follower.value("celery_task_unfinished_vanished_total", state="STARTED") == 1
    assert follower.total("celery_task_unfinished") == 0


def test_revised_result_counts_again(follower: Follower, engine: Engine) -> None:
    """FAILURE -> SUCCESS in one row: counter - revised = what the table holds."""
    with engine.begin() as connection:
        row = insert(connection, "FAILURE")
    follower.poll()
    with engine.begin() as connection:
        update(connection, row, "SUCCESS")
    follower.poll()
    assert follower.states() == {"FAILURE": 1, "SUCCESS": 1}
    revised = "celery_task_results_revised_total"
    labels = {"task": "app.add", "from_state": "FAILURE", "to_state": "SUCCESS"}
    assert follower.value(revised, **labels) == 1


def test_overwritten_success_is_found(database: Database, engine: Engine, tmp_path: Path) -> None:
    """Celery up to 5.6 lets FAILURE follow SUCCESS, and revoke() wipes the name; over a restart."""
    with engine.begin() as connection:
        names = ("app.add", "app.mul", "app.mul", None, "")  # the last two make one label
        rows = [insert(connection, name=name) for name in names]
        insert(connection, "FAILURE")
    window = {"revision_window": 16.0, "late_commit_grace": 0.5}  # audited after 0.25 and 1 s
    checkpoint = open_file(tmp_path / "checkpoint.sqlite")
    follower = Follower(database.reader_url, checkpoint, **window).poll()
    follower.close()
    checkpoint.close()
    with engine.begin() as connection:
        update(connection, rows[0], "FAILURE", result=b'{"exc_type": "OSError"}')
        update(connection, rows[1], "REVOKED", name=None, worker=None, queue=None)
        connection.execute(delete(TASKS).where(TASKS.c.id == rows[2]))
    checkpoint = open_file(tmp_path / "checkpoint.sqlite")
    follower = Follower(database.reader_url, checkpoint, **window)
    deadline = time.monotonic() + 20
    while follower.poll().states()["REVOKED"] == 0 and time.monotonic() < deadline:
        pass
    assert follower.states() == {"SUCCESS": 5, "FAILURE": 2, "REVOKED": 1}
    revised = "celery_task_results_revised_total"
    assert follower.value(revised, task="app.add", from_state="SUCCESS", to_state="FAILURE") == 1
    assert follower.value(revised, task="app.mul", from_state="SUCCESS", to_state="REVOKED") == 1
    assert follower.total(revised) == 2
    assert follower.value("celery_task_failures_total", exception="OSError") == 1
    follower.close()
    checkpoint.close()


def test_names_that_differ_in_case_accent_or_blanks_stay_apart(
    follower: Follower, engine: Engine
) -> None:
    names = ["mail.send", "Mail.send", "mail.sénd", "mail.send "]
    with engine.begin() as connection:
        for name in names:
            insert(connection, name=name)
            insert(connection, "FAILURE", name=name)
    follower.poll()
    counted = Counter(
        labels["task"]
        for labels, value in follower.samples("celery_task_results_total")
        if value == 1
    )
    assert counted == dict.fromkeys(names, 2)


def test_missing_labels_are_empty(follower: Follower, engine: Engine) -> None:
    with engine.begin() as connection:
        insert(connection, name=None, worker=None, queue=None, retries=None)
        insert(connection, "FAILURE", name=None, worker=None, queue=None, retries=None)
    follower.poll()
    labels = {"task": "", "worker": "", "queue": ""}
    for state in ("SUCCESS", "FAILURE"):
        assert follower.value("celery_task_results_total", state=state, **labels) == 1


def test_revoked_row_waits_for_its_name(follower: Follower, engine: Engine) -> None:
    """`revoke()` writes REVOKED without labels; the worker adds them a moment later."""
    with engine.begin() as connection:
        insert(connection)
        row = insert(connection, "REVOKED", name=None, worker=None, queue=None)
    assert follower.poll().states() == {"SUCCESS": 1}
    with engine.begin() as connection:
        update(connection, row, "REVOKED", name="app.add", worker="w1@host", queue="celery")
    assert follower.poll().states() == {"SUCCESS": 1, "REVOKED": 1}
    assert follower.value("celery_task_results_total", task="app.add", state="REVOKED") == 1


NAMELESS = {"name": None, "worker": None, "queue": None}


@pytest.mark.parametrize("rows", [1, 1000])  # alone, together
def test_name_that_comes_after_the_grace_is_moved(
    database: Database, engine: Engine, rows: int
) -> None:
    """The date of it may be the old one: whole seconds on MariaDB, or a slow clock."""
    settings = {"late_commit_grace": 0.1, "result_extended": True}
    follower = Follower(database.reader_url, None, **settings)
    moment = datetime.now(UTC).replace(microsecond=0, tzinfo=None)
    with engine.begin() as connection:
        revoked = insert_many(
            connection, range(1, rows + 1), "REVOKED", date_done=moment, **NAMELESS
        )
    time.sleep(0.2)
    for _ in range(3):
        follower.poll()
    results = "celery_task_results_total"
    assert follower.value(results, task="", state="REVOKED") == rows
    with engine.begin() as connection:
        named = {"name": "app.add", "worker": "w1@host", "queue": "celery"}
        update_many(connection, revoked, "REVOKED", **named)
    follower.poll().poll()
    labels = {"task": "app.add", "worker": "w1@host", "queue": "celery"}
    assert follower.value(results, state="REVOKED", **labels) == rows
    assert follower.value(results, task="", state="REVOKED") == rows
    moved = {"task": "", "from_state": "REVOKED", "to_state": "REVOKED"}
    assert follower.value("celery_task_results_revised_total", **moved) == rows
    follower.close()


def test_history_without_names_is_served_with_the_rest(database: Database, engine: Engine) -> None:
    """Not held for names that would make it a spike, nor watched in vain where names can come."""
    hours_ago = datetime.now(UTC).replace(tzinfo=None) - timedelta(hours=20)
    with engine.begin() as connection:
        for _ in range(20):
            insert(connection, "FAILURE", date_done=hours_ago, **NAMELESS)
        for _ in range(5):
            insert(connection)
    follower = Follower(database.reader_url, first_zero=60.0).poll()
    assert follower.states() == {"SUCCESS": 5, "FAILURE": 20}
    follower.close()


def test_revoked_row_of_long_ago_may_get_its_name_yet(database: Database, engine: Engine) -> None:
    """Its task had an ETA of days; what is over is counted in groups, but for such rows."""
    days_ago = datetime.now(UTC).replace(tzinfo=None) - timedelta(days=4)
    with engine.begin() as connection:
        insert(connection, date_done=days_ago)
        insert(connection, "REVOKED", date_done=days_ago)
        row = insert(connection, "REVOKED", date_done=days_ago, **NAMELESS)
    follower = Follower(database.reader_url).poll()
    assert follower.states() == {"SUCCESS": 1, "REVOKED": 2}
    assert follower.value("celery_backend_watched_rows", table="task") == 1
    with engine.begin() as connection:
        update(connection, row, "REVOKED", name="app.add", worker="w1@host", queue="celery")
    follower.poll()
    results = "celery_task_results_total"
    assert follower.value(results, task="app.add", state="REVOKED") == 2
    follower.close()


def test_groups_count(follower: Follower, engine: Engine) -> None:
    follower.poll()
    assert follower.value("celery_group_results_total") == 0
    with engine.begin() as connection:
        for group in ("a", "b"):
            connection.execute(GROUPS.insert().values(taskset_id=group))
    follower.poll().poll()
    assert follower.value("celery_group_results_total") == 2
    assert follower.value("celery_backend_dates_withheld_total", table="group") == 2
    assert follower.value("celery_group_last_saved_timestamp_seconds") is None


@pytest.mark.timeout(30)
def test_polls_end_where_there_is_nothing_to_audit(database: Database, engine: Engine) -> None:
    """Groups have no state that could change; and the tables may go."""
    window = 64.0  # the first audit is due after a second
    follower = Follower(database.reader_url, revision_window=window).poll()
    with engine.begin() as connection:
        connection.execute(GROUPS.insert().values(taskset_id="a"))
        insert(connection)
    follower.poll()
    time.sleep(AGES[0] * window)
    assert follower.poll().poll().value("celery_group_results_total") == 1
    GROUPS.drop(engine)
    TASKS.drop(engine)
    follower.poller.try_poll()  # it says that a table is missing, and looks again
    follower.poll().poll()
    assert follower.states() == {"SUCCESS": 1}
    follower.close()


def test_tables_may_come_later(database: Database) -> None:
    """The first worker creates the tables; every row in them is news."""
    follower = Follower(database.reader_url, start="end")
    if database.owner.get_backend_name() == "sqlite":
        assert not follower.poller.try_poll()
        assert "does not exist yet" in follower.poller.status.message
        assert follower.value("celery_backend_up") == 0
    else:
        follower.poll()
        assert follower.value("celery_backend_capability", capability="table_task") == 0
    engine = create_tables(database)
    with engine.begin() as connection:
        insert(connection)
    follower.poll()
    assert follower.states() == {"SUCCESS": 1}
    assert follower.value("celery_backend_capability", capability="table_task") == 1
    follower.close()


@pytest.mark.parametrize("rows", [3, Rules().cohort + 100])
def test_rows_vanish_with_their_table(follower: Follower, engine: Engine, rows: int) -> None:
    with engine.begin() as connection:
        insert_many(connection, range(1, rows + 1), "STARTED")
    follower.poll().poll().poll()
    TASKS.drop(engine)
    assert not follower.poller.try_poll()
    follower.poll()
    assert follower.total("celery_task_unfinished") == 0
    assert follower.value("celery_task_unfinished_vanished_total", state="STARTED") == rows
    TASKS.create(engine)
    with engine.begin() as connection:
        insert(connection)
    deadline = time.monotonic() + 20
    while not follower.poll().states() and time.monotonic() < deadline:
        pass
    assert follower.states() == {"SUCCESS": 1}


def test_table_of_an_old_celery(database: Database) -> None:
    """Celery 4.0 to 4.3 has no labels; and SQLAlchemy before 1.4 no sequence."""
    with database.engine().begin() as connection:
        connection.execute(
            text(
                "CREATE TABLE celery_taskmeta (id INTEGER PRIMARY KEY, task_id VARCHAR(155),"
                " status VARCHAR(50), traceback TEXT)"
            )
        )
        for row, state in enumerate(("SUCCESS", "FAILURE", "STARTED"), start=1):
            connection.execute(
                text("INSERT INTO celery_taskmeta (id, task_id, status) VALUES (:i, :t, :s)"),
                {"i": row, "t": str(row), "s": state},
            )
    follower = Follower(database.reader_url).poll()
    assert follower.states() == {"SUCCESS": 1, "FAILURE": 1}
    assert follower.value("celery_backend_capability", capability="extended") == 0
    assert follower.value("celery_backend_capability", capability="table_group") == 0
    follower.close()


def _table_of_bigints(database: Database) -> Engine:
    """Make a table of ids and states only."""
    sqlite = database.owner.get_backend_name() == "sqlite"
    table = f"id {'INTEGER' if sqlite else 'BIGINT'} PRIMARY KEY, status VARCHAR(50)"
    engine = database.engine()
    with engine.begin() as connection:
        connection.execute(text(f"CREATE TABLE celery_taskmeta ({table})"))
    return engine


def _store(connection: Connection, row: int, state: str) -> None:
    query = text("INSERT INTO celery_taskmeta (id, status) VALUES (:i, :s)")
    connection.execute(query, {"i": row, "s": state})


def test_negative_and_huge_ids(database: Database) -> None:
    """Ids may begin at the smallest bigint, as on SQL Server."""
    engine = _table_of_bigints(database)
    with engine.begin() as connection:
        for row in (-(2**63), -(2**63) + 1, -5, 0, 2**62):
            _store(connection, row, "SUCCESS")
    follower = Follower(database.reader_url).poll()
    assert follower.states() == {"SUCCESS": 5}
    assert follower.value("celery_backend_id_used_ratio", table="task") == pytest.approx(0.5)
    with engine.begin() as connection:
        _store(connection, 2**63 - 1, "FAILURE")
    assert follower.poll().states() == {"SUCCESS": 5, "FAILURE": 1}
    follower.close()


def test_highest_id_of_all(database: Database) -> None:
    """The first look begins at the highest id there can be."""
    with _table_of_bigints(database).begin() as connection:
        for row in (-(2**63), 2**63 - 1):
            _store(connection, row, "STARTED")
    follower = Follower(database.reader_url, start="end").poll()
    assert follower.total("celery_task_unfinished", state="STARTED") == 2
    follower.close()


@pytest.mark.parametrize("database", ["sqlite"], indirect=True)
@pytest.mark.parametrize("retries", ["9e999", "4611686018427387904", "'many'"])
def test_retries_that_are_no_number_of_retries(
    follower: Follower, engine: Engine, retries: str
) -> None:
    """SQLite stores anything in any column, and its SUM raises on overflow."""
    with engine.begin() as connection:
        for state in ("SUCCESS", "SUCCESS", "FAILURE"):
            insert(connection, state)
        connection.execute(text(f"UPDATE celery_taskmeta SET retries = {retries}"))
    assert follower.poll().states() == {"SUCCESS": 2, "FAILURE": 1}


def test_date_done_is_wall_time_in_the_configured_zone(database: Database, engine: Engine) -> None:
    done = datetime(2026, 1, 2, 12, 0, 0)  # noqa: DTZ001 - naive, as it is stored
    with engine.begin() as connection:
        insert(connection, date_done=done)
    follower = Follower(database.reader_url, timezone=ZoneInfo("Asia/Tokyo")).poll()
    expected = (done - timedelta(hours=9) - datetime(1970, 1, 1)).total_seconds()  # noqa: DTZ001
    last = follower.value("celery_task_last_finished_timestamp_seconds", state="SUCCESS")
    assert last == expected
    oldest = follower.value("celery_backend_oldest_result_timestamp_seconds", table="task")
    assert oldest == expected
    follower.close()


def _history(engine: Engine, done: datetime, newer: int) -> None:
    """Insert ids 1 to 5, a hole at 6, and 7, which finished then; and newer ones that just did."""
    with engine.begin() as connection:
        for row, state in enumerate(("FAILURE", "FAILURE", "REVOKED", "STARTED", "SUCCESS"), 1):
            error = b'{"exc_type": "OSError"}'
            insert(connection, state, id=row, date_done=done, result=error, retries=2)
        insert(connection, id=7, date_done=done)
        if newer:
            new = [{"id": i, "task_id": str(i), "status": "SUCCESS"} for i in range(8, 8 + newer)]
            connection.execute(TASKS.insert(), new)


def test_history_that_is_over_is_counted_and_let_go(
    database: Database, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the newest rows show that the zone is right, old ones are not watched or waited for."""
    monkeypatch.setattr("exporter.runtime.pace.CHUNK_ROWS", 6)
    _history(engine, _now() - timedelta(hours=20), NEWEST_ROWS)
    follower = Follower(database.reader_url).poll()
    assert follower.states() == {"FAILURE": 2, "REVOKED": 1, "SUCCESS": 2 + NEWEST_ROWS}
    assert follower.value("celery_task_failures_total", exception="OSError") == 2
    assert follower.total("celery_task_retries_total") == 8
    assert follower.value("celery_backend_watched_rows", table="task") == 1  # STARTED
    assert follower.value("celery_backend_gap_ids", table="task") == 0
    follower.close()


def test_history_is_not_blamed_for_successes_that_were_deleted(
    database: Database, engine: Engine
) -> None:
    """An audit takes only those for revised that nobody has counted as what they are."""
    _history(engine, _now() - timedelta(hours=20), NEWEST_ROWS)
    window = {"revision_window": 16.0, "late_commit_grace": 0.1}
    follower = Follower(database.reader_url, **window).poll()
    with engine.begin() as connection:
        connection.execute(delete(TASKS).where(TASKS.c.id.in_([5, 7, 8, 9])))
    deadline = time.monotonic() + 16.0 * AGES[1]
    while time.monotonic() < deadline:
        follower.poll()
    assert follower.states() == {"FAILURE": 2, "REVOKED": 1, "SUCCESS": 2 + NEWEST_ROWS}
    assert follower.total("celery_task_results_revised_total") == 0
    follower.close()


@pytest.mark.parametrize("newer", [0, NEWEST_ROWS - 7])
def test_zone_that_is_wrong_loses_nothing(database: Database, engine: Engine, newer: int) -> None:
    """All workers, or one of many, write a time that looks older by hours."""
    wrong = _now() - timedelta(hours=12)
    _history(engine, wrong, newer)
    follower = Follower(database.reader_url).poll()
    with engine.begin() as connection:
        update(connection, 1, "SUCCESS", date_done=wrong)
        insert(connection, "FAILURE", id=6, date_done=wrong)
    assert follower.poll().states() == {"FAILURE": 3, "REVOKED": 1, "SUCCESS": 3 + newer}
    assert follower.total("celery_task_results_revised_total", from_state="FAILURE") == 1
    assert follower.value("celery_backend_late_rows_total", table="task") == 1
    follower.close()


def _insert_all(engine: Engine, rows: list[dict[str, object]]) -> None:
    with engine.begin() as connection:
        for start in range(0, len(rows), 5000):
            connection.execute(TASKS.insert(), rows[start : start + 5000])


def test_first_look_at_a_large_table(
    database: Database, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every unfinished row is found, by chunks that grow, and hold only so many of them."""
    monkeypatch.setattr("exporter.backends.chunks.MOST_ROWS", 500)
    rows = [
        {"id": i, "task_id": str(i), "status": "STARTED" if i % 11 == 0 else "SUCCESS"}
        for i in range(1, 30_001)
    ]
    _insert_all(engine, rows)
    follower = Follower(database.reader_url, start="end").poll()
    assert follower.states() == {}
    assert follower.total("celery_task_unfinished", state="STARTED") == 30_000 // 11
    follower.close()


@pytest.mark.parametrize(("apart", "one_by_one"), [(1, 50_000), (1, 500), (50_000, 50_000)])
def test_long_history_is_read_in_chunks(
    database: Database,
    engine: Engine,
    monkeypatch: pytest.MonkeyPatch,
    apart: int,
    one_by_one: int,
) -> None:
    """More ids than a chunk spans, with holes that cleanup left; more failures than fit in one."""
    monkeypatch.setattr("exporter.backends.chunks.MOST_ROWS", one_by_one)
    rows = [
        {"id": apart * i, "task_id": str(i), "status": "FAILURE" if i % 5 == 0 else "SUCCESS"}
        for i in range(1, 24_001)
        if i % 7
    ]
    _insert_all(engine, rows)
    follower = Follower(database.reader_url).poll()
    assert follower.states() == Counter(row["status"] for row in rows)
    assert follower.value("celery_backend_backlog_ids", table="task") == 0
    follower.close()


@pytest.mark.parametrize("database", ["sqlite"], indirect=True)
def test_less_is_asked_for_after_a_failure(
    follower: Follower, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or what takes longer than a query may take would do so for ever."""
    with engine.begin() as connection:
        insert_many(connection, range(1, 1_001))
    asked = []

    def slow(_: Reader, __: object, plan: Plan) -> Batch:
        asked.append(plan.chunk)
        raise BackendError(Reason.TIMEOUT, "too much")

    with monkeypatch.context() as patch:
        patch.setattr(Reader, "read", slow)
        assert not follower.poller.try_poll()
        assert not follower.poller.try_poll()
    assert asked[1] < asked[0]
    assert follower.poll().states() == {"SUCCESS": 1_000}


@pytest.mark.parametrize("rows", [3, 8])
def test_table_emptied_and_filled_between_two_polls(
    follower: Follower, engine: Engine, rows: int
) -> None:
    """Ids begin again, unseen: all there is now is new, even past the cursor (R6)."""
    with engine.begin() as connection:
        for row in range(1, 6):
            insert(connection, id=row)
    follower.poll()
    with engine.begin() as connection:
        connection.execute(delete(TASKS))
        for row in range(1, rows + 1):
            insert(connection, "FAILURE", id=row)
    assert follower.poll().states() == {"SUCCESS": 5, "FAILURE": rows}
    assert follower.value("celery_backend_id_resets_total", table="task") == 1
    with engine.begin() as connection:
        insert(connection, id=rows + 1)
    assert follower.poll().states() == {"SUCCESS": 6, "FAILURE": rows}


def test_without_snapshots_rows_are_counted_one_by_one(database: Database, engine: Engine) -> None:
    """The way of a SQL Server that allows no snapshots gives the same numbers (R9)."""
    measured = {"retries_buckets": [1, 7], "payload_bytes": ["result"]}
    slow, fast = (Follower(database.reader_url, **measured) for _ in range(2))
    states = ["SUCCESS", "FAILURE", "STARTED", "REVOKED", "SUCCESS"]
    with engine.begin() as connection:
        for row, state in enumerate(states * 3, start=1):
            values = {"retries": row, "name": f"app.t{row % 2}", "result": b"1" * row}
            insert(connection, state, id=2 * row, **values)
    source = slow.poller.follower.database
    with source.session():
        source.dialect.snapshot = False  # connected: it is not asked again
    source.look_again()
    for late in ("SUCCESS", "FAILURE"):
        slow.poll()
        fast.poll()
        for name in (
            "celery_task_results_total",
            "celery_task_retries_total",
            "celery_task_result_retries_bucket",
            "celery_task_payload_bytes_total",
            "celery_task_unfinished",
            "celery_backend_gap_ids",
            "celery_backend_late_rows_total",
            "celery_task_last_finished_timestamp_seconds",
        ):
            assert _values(slow, name) == _values(fast, name)
        assert slow.value("celery_backend_capability", capability="snapshot") == 0
        with engine.begin() as connection:
            insert(connection, late, id=3 if late == "SUCCESS" else 5)
    assert slow.poll().states() == {"SUCCESS": 7, "FAILURE": 4, "REVOKED": 3}
    slow.close()
    fast.close()


def _values(follower: Follower, name: str) -> dict[tuple[str, ...], float]:
    return {tuple(labels.values()): value for labels, value in follower.samples(name)}


@pytest.mark.parametrize("database", ["postgresql", "mariadb-pymysql"], indirect=True)
def test_column_grants_are_enough(database: Database, engine: Engine) -> None:
    """Without a right to `name` the label is empty, without the group table its counter is not."""
    reader, name = "reader", database.owner.database
    with engine.begin() as connection:
        insert(connection)
        insert(connection, "FAILURE")
    grant = "GRANT SELECT (id, status) ON {}celery_taskmeta TO {}"
    if database.owner.get_backend_name() == "postgresql":
        with engine.begin() as connection:
            for table in ("celery_taskmeta", "celery_tasksetmeta"):
                connection.execute(text(f"REVOKE SELECT ON {table} FROM {reader}"))
            connection.execute(text(grant.format("", reader)))
    else:
        assert database.server
        account = "'reader'@'%'"
        database.server.execute(
            f"REVOKE SELECT ON {name}.* FROM {account}",
            f"GRANT SHOW VIEW ON {name}.* TO {account}",  # some right, for the fixture to revoke
            grant.format(f"{name}.", account),
        )
    follower = Follower(database.reader_url).poll()
    assert follower.value("celery_task_results_total", state="SUCCESS", task="") == 1
    assert follower.value("celery_task_failures_total", exception="") == 1
    assert follower.value("celery_backend_capability", capability="extended") == 0
    assert follower.value("celery_backend_capability", capability="table_group") == 0
    follower.close()


def test_says_which_tables_may_be_meant(
    database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    """Else one waits for ever, without knowing that the results are elsewhere."""
    name = "shop_taskresult"
    with database.engine().begin() as connection:
        connection.execute(text(f"CREATE TABLE {name} (id INTEGER PRIMARY KEY)"))
    follower = Follower(database.reader_url).poll().poll()
    assert follower.value("celery_backend_up") == 1
    message = follower.poller.status.message
    assert message.startswith("celery_taskmeta: table does not exist yet; waiting for Celery")
    assert f"{name}: if one of them is meant, set tables, or database_table" in message
    (record,) = [r for r in caplog.records if r.levelname == "WARNING"]
    assert name in record.similar
    create_tables(database)
    follower.poll()
    assert follower.poller.status.message == ""
    follower.close()


def test_clock_skew_ignores_dates_that_cannot_be(database: Database, engine: Engine) -> None:
    follower = Follower(database.reader_url, timezone="UTC").poll()
    with engine.begin() as connection:
        insert(connection)
        odd = datetime(9999, 12, 31)  # noqa: DTZ001 - naive, as it is stored
        insert(connection, "FAILURE", date_done=odd)
    follower.poll()
    assert abs(follower.value("celery_backend_clock_skew_seconds")) < 3600
    follower.close()
