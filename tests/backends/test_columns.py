"""Columns of other types than Celery's own: read right, or refused in one line."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING
from zoneinfo import ZoneInfo

import pytest
from sqlalchemy import text

from exporter.backends.present import count_present
from tests.follow import TASKS, Follower, insert

if TYPE_CHECKING:
    from sqlalchemy import Engine

    from tests.servers.database import Database

ON = {
    name: pytest.mark.parametrize("database", [name], indirect=True)
    for name in ("postgresql", "sqlite")
}
ON_POSTGRESQL = ON["postgresql"]
ON_MARIADB = pytest.mark.parametrize(
    "database", ["mariadb-pymysql", "mariadb-mysqlclient"], indirect=True
)
DONE = datetime(2026, 1, 2, 12, 0, 0)  # noqa: DTZ001 - wall time, as it is stored


def alter(engine: Engine, *statements: str) -> None:
    with engine.begin() as connection:
        for statement in statements:
            connection.exec_driver_sql(statement)


def retype(engine: Engine, column: str, declared: str) -> None:
    """Give a column another type; without rows there is nothing to convert."""
    name = TASKS.name
    alter(
        engine,
        f"ALTER TABLE {name} DROP COLUMN {column} CASCADE",
        f"ALTER TABLE {name} ADD COLUMN {column} {declared}",
    )


def store(engine: Engine, *states: str, **values: str) -> None:
    """Insert rows whose values are words of SQL: a driver would say what type they are of."""
    row = {"name": "'app.add'", "worker": "'w1@host'", "queue": "'celery'", "retries": "1"} | values
    for number, state in enumerate(states, 1):
        whole = {"id": str(number), "task_id": f"'t{number}'", "status": f"'{state}'"} | row
        columns, words = ", ".join(whole), ", ".join(whole.values())
        alter(engine, f"INSERT INTO celery_taskmeta ({columns}) VALUES ({words})")


STORED = ("SUCCESS", "SUCCESS", "FAILURE", "REVOKED", "STARTED")


def assert_read(follower: Follower) -> None:
    follower.poll()
    assert follower.states() == {"SUCCESS": 2, "FAILURE": 1, "REVOKED": 1}
    labels = {"task": "app.add", "worker": "w1@host", "queue": "celery"}
    assert follower.value("celery_task_results_total", state="SUCCESS", **labels) == 2
    assert follower.value("celery_task_unfinished", state="STARTED", **labels) == 1
    assert follower.total("celery_task_retries_total") == 4


STATES = "'PENDING', 'STARTED', 'SUCCESS', 'FAILURE', 'REVOKED'"


@ON_POSTGRESQL
@pytest.mark.parametrize(
    "declared", ["state", "CHAR(50)", "shout", "TEXT COLLATE no_case"], ids=lambda d: d.split()[0]
)
def test_texts_of_postgresql(follower: Follower, engine: Engine, declared: str) -> None:
    """ENUM, text padded with blanks, a domain, a collation that ignores case."""
    alter(
        engine,
        f"CREATE TYPE state AS ENUM ({STATES})",
        "CREATE DOMAIN shout AS VARCHAR(50) CHECK (VALUE = upper(VALUE))",
        "CREATE COLLATION no_case"
        " (provider = icu, locale = 'und-u-ks-level2', deterministic = false)",
    )
    retype(engine, "status", declared)
    states = (*STORED, "success") if "no_case" in declared else STORED
    store(engine, *states)
    assert_read(follower)
    if "no_case" in declared:
        assert follower.total("celery_task_unfinished", state="success") == 1


@ON_POSTGRESQL
def test_domains_are_what_they_are_made_of(database: Database, engine: Engine) -> None:
    """Of one another, with a collation, of numbers, of moments: these are not shifted."""
    alter(
        engine,
        "CREATE COLLATION no_case"
        " (provider = icu, locale = 'und-u-ks-level2', deterministic = false)",
        "CREATE DOMAIN word AS VARCHAR(50) COLLATE no_case",
        "CREATE DOMAIN state AS word CHECK (VALUE <> '')",
        "CREATE DOMAIN number AS BIGINT",
        "CREATE DOMAIN moment AS TIMESTAMPTZ",
    )
    retype(engine, "status", "state")
    retype(engine, "name", "state")
    retype(engine, "date_done", "moment")
    alter(engine, "ALTER TABLE celery_taskmeta ALTER id TYPE number")
    done = datetime.now(UTC).replace(microsecond=0) - timedelta(minutes=1)
    store(engine, *STORED, date_done=f"'{done}'")
    store(engine, "success", id="9", task_id="'t9'", date_done=f"'{done}'")
    follower = Follower(database.reader_url, timezone=ZoneInfo("Asia/Tokyo"))
    assert_read(follower)
    assert follower.total("celery_task_unfinished", state="success") == 1
    last = follower.value("celery_task_last_finished_timestamp_seconds", state="SUCCESS")
    assert last == done.timestamp()
    follower.close()


@ON_MARIADB
@pytest.mark.parametrize("declared", [f"ENUM({STATES})", "CHAR(50)", "LONGTEXT"])
def test_texts_of_mariadb(follower: Follower, engine: Engine, declared: str) -> None:
    alter(engine, f"ALTER TABLE celery_taskmeta MODIFY status {declared}")
    store(engine, *STORED)
    assert_read(follower)


@ON_MARIADB
def test_task_ids_of_type_uuid(follower: Follower, engine: Engine) -> None:
    alter(engine, "ALTER TABLE celery_taskmeta MODIFY task_id UUID")
    with engine.begin() as connection:
        for state in STORED:
            insert(connection, state, retries=1)
    assert_read(follower)
    assert follower.value("celery_backend_id_resets_total", table="task") == 0


@ON_POSTGRESQL
@pytest.mark.parametrize("declared", ["NUMERIC(20, 0)", "SMALLINT", "BIGINT"])
def test_whole_numbers(follower: Follower, engine: Engine, declared: str) -> None:
    alter(engine, f"ALTER TABLE celery_taskmeta ALTER id TYPE {declared}")
    with engine.begin() as connection:
        insert(connection, id=1)
        insert(connection, "STARTED", id=5)
    assert follower.poll().states() == {"SUCCESS": 1}
    assert follower.value("celery_backend_gap_ids", table="task") == 3
    with engine.begin() as connection:
        insert(connection, id=3)
        connection.execute(text("UPDATE celery_taskmeta SET status = 'SUCCESS' WHERE id = 5"))
    assert follower.poll().states() == {"SUCCESS": 3}


@ON_POSTGRESQL
def test_moment_is_not_shifted(database: Database, engine: Engine) -> None:
    """What has a zone of its own is right whatever `timezone` says."""
    retype(engine, "date_done", "TIMESTAMPTZ")
    done = datetime.now(UTC) - timedelta(minutes=1)
    with engine.begin() as connection:
        insert(connection, date_done=None)
        connection.execute(text("UPDATE celery_taskmeta SET date_done = :done"), {"done": done})
    follower = Follower(database.reader_url, timezone=ZoneInfo("Asia/Tokyo")).poll()
    last = follower.value("celery_task_last_finished_timestamp_seconds", state="SUCCESS")
    assert last == pytest.approx(done.timestamp())
    oldest = follower.value("celery_backend_oldest_result_timestamp_seconds", table="task")
    assert oldest == last
    follower.close()


@ON["sqlite"]
def test_offset_in_a_text_is_kept(database: Database, engine: Engine) -> None:
    with engine.begin() as connection:
        insert(connection, date_done=None)
        connection.execute(
            text("UPDATE celery_taskmeta SET date_done = '2026-01-02 12:00:00+02:00'")
        )
    follower = Follower(database.reader_url, timezone=ZoneInfo("Asia/Tokyo")).poll()
    last = follower.value("celery_task_last_finished_timestamp_seconds", state="SUCCESS")
    assert last == datetime(2026, 1, 2, 10, tzinfo=UTC).timestamp()
    follower.close()


@ON_POSTGRESQL
@pytest.mark.parametrize("declared", ["TEXT", "JSON", "JSONB"])
def test_class_is_read_from_results_of_any_type(
    follower: Follower, engine: Engine, declared: str
) -> None:
    retype(engine, "result", declared)
    stored = '{"exc_type": "OSError", "exc_message": ["é"]}'
    store(engine, "FAILURE", result=f"CAST('{stored}' AS {declared})")
    follower.poll()
    assert follower.value("celery_task_failures_total", exception="OSError") == 1


REFUSED = {
    "id": ("TEXT", "holds TEXT, where a whole number is wanted"),
    "status": ("INTEGER", "holds INTEGER, where text is wanted"),
    "name": ("BYTEA", "holds BYTEA, where text is wanted"),
    "retries": ("TEXT", "holds TEXT, where a number is wanted"),
    "date_done": ("DATE", "holds DATE, where a date and time is wanted"),
    "result": ("OID", "holds OID, where bytes or text is wanted"),
    "queue": ("BPCHAR", "holds a type that is not known here, where text is wanted"),
}


@ON_POSTGRESQL
@pytest.mark.filterwarnings("ignore:Did not recognize type")
@pytest.mark.parametrize("column", REFUSED)
def test_what_cannot_be_read_is_refused(follower: Follower, engine: Engine, column: str) -> None:
    declared, words = REFUSED[column]
    retype(engine, column, declared)
    assert not follower.poller.try_poll()
    message = follower.poller.status.message
    assert message == (
        f"table 'celery_taskmeta': column {column!r} {words}: change the column, or name a view "
        "that converts it in database_table_names.task"
    )


@ON_POSTGRESQL
def test_view_that_converts_is_read(database: Database, engine: Engine) -> None:
    """As the message advises."""
    retype(engine, "retries", "TEXT")
    alter(
        engine,
        "CREATE VIEW results AS SELECT id, task_id, status, name, worker, queue, date_done,"
        " CAST(retries AS INTEGER) AS retries FROM celery_taskmeta",
    )
    store(engine, "SUCCESS", retries="'7'")
    names = {"task": "results", "group": "celery_tasksetmeta"}
    follower = Follower(database.reader_url, database_table_names=names).poll()
    assert follower.states() == {"SUCCESS": 1}
    assert follower.total("celery_task_retries_total") == 7
    follower.close()


@pytest.mark.parametrize("database", ["postgresql", "mariadb-pymysql"], indirect=True)
def test_label_is_bounded_where_its_column_is_not(follower: Follower, engine: Engine) -> None:
    """As on SQLite. Two that are alike so far are one, and `verify` knows."""
    for column in ("name", "worker", "queue", "task_id"):
        retype(engine, column, "TEXT")
    for number, state in enumerate(STORED, 1):
        whole = f"{number}, '{state}', 1"
        texts = ", ".join(f"CONCAT(REPEAT('é', 600), '{number}{c}')" for c in "abcd")
        columns = "id, status, retries, name, worker, queue, task_id"
        alter(engine, f"INSERT INTO celery_taskmeta ({columns}) VALUES ({whole}, {texts})")
    follower.poll()
    assert follower.states() == {"SUCCESS": 2, "FAILURE": 1, "REVOKED": 1}
    cut = "é" * 512
    labels = {"task": cut, "worker": cut, "queue": cut}
    assert follower.value("celery_task_results_total", state="SUCCESS", **labels) == 2
    assert follower.value("celery_task_unfinished", state="STARTED", **labels) == 1
    present = count_present(follower.poller.follower.database, follower.poller.follower.main)
    assert present == {(cut, s, cut, cut): n for s, n in follower.states().items()}


def test_column_that_bounds_its_label_is_read_as_it_is(follower: Follower) -> None:
    """To cut each value again takes a server half as long again."""
    follower.poll()
    table = follower.poller.follower.readers.by_kind["task"].table
    labels = ("status", "name", "worker", "queue", "task_id")
    assert [name for name in labels if table.columns[name] is not table.table.c[name]] == []
