"""The ground that the other tests stand on holds."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING

import pytest
from sqlalchemy import column, func, select, table, text
from sqlalchemy.exc import DBAPIError

from tests.conftest import WORKED
from tests.servers.database import Database, SQLite
from tests.servers.process import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.servers.postgresql import PostgreSQL
    from tests.servers.prometheus import Prometheus
    from tests.servers.worker import Workers

TASKS = table("celery_taskmeta", column("name"), column("worker"), column("queue"))
GROUPS = table("celery_tasksetmeta")

#: Where there is a server to stop and an account that may only read.
ON_SERVERS = pytest.mark.parametrize(
    "database", ["postgresql", "mariadb-pymysql", "mariadb-mysqlclient"], indirect=True
)

FILL = (
    "CREATE TABLE numbers (id INTEGER PRIMARY KEY)",
    "INSERT INTO numbers VALUES (1)",
)


def fill(database: Database) -> None:
    with database.engine().begin() as connection:
        for statement in FILL:
            connection.execute(text(statement))


def count(database: Database) -> int | None:
    with database.reader_engine().connect() as connection:
        return connection.scalar(text("SELECT count(*) FROM numbers"))


def test_reader_reads_what_the_owner_creates_later(database: Database) -> None:
    fill(database)
    assert count(database) == 1


@ON_SERVERS
@pytest.mark.parametrize(
    "statement",
    [
        "INSERT INTO numbers VALUES (2)",
        "UPDATE numbers SET id = 2",
        "DELETE FROM numbers",
        "DROP TABLE numbers",
        "CREATE TABLE others (id INTEGER)",
        "CREATE TEMPORARY TABLE others (id INTEGER)",
    ],
)
def test_reader_cannot_write(database: Database, statement: str) -> None:
    fill(database)
    with (
        pytest.raises(DBAPIError, match=r"denied|must be owner"),
        database.reader_engine().begin() as connection,
    ):
        connection.execute(text(statement))
    assert count(database) == 1


@ON_SERVERS
@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_a_stopped_server_comes_back_with_its_data(database: Database, how: signal.Signals) -> None:
    assert database.server is not None
    fill(database)
    database.server.stop(how)
    with pytest.raises(DBAPIError, match=r"(?i)refused|can't connect"):
        count(database)
    database.server.start()
    assert count(database) == 1


def test_databases_are_apart(database: Database) -> None:
    """Each test begins with an empty database, whatever the one before left."""
    fill(database)


@pytest.mark.parametrize("database", WORKED, indirect=True)
def test_worker_writes_every_kind_of_row(database: Database, celery_worker: Workers) -> None:
    with celery_worker(database) as worker:
        worker.send("reports.archive", 60, queue="reports", time_limit=0.5)
        worker.send("reports.build", 1, 0.5, queue="reports")
        worker.send("payments.charge", 1)
        worker.send("orders.place")
        worker.send("mail.send", "ValueError")
        worker.send("images.import", queue="reports")
        worker.send("newsletters.send")
        worker.send("orders.fulfil")
        worker.send("orders.withdraw", 0.5)
        worker.send("orders.place", countdown=0.5, expires=0.1)
        seen = database.wait_for({"SUCCESS": 16, "FAILURE": 4, "REVOKED": 2})
    assert seen >= {"STARTED", "PROGRESS", "RETRY"}

    with database.engine().connect() as connection:
        rows = connection.execute(select(TASKS.c.name, TASKS.c.worker, TASKS.c.queue).distinct())
        labels = {tuple(row) for row in rows}
        groups = connection.scalar(select(func.count()).select_from(GROUPS))
    assert groups == 1
    assert labels == {
        ("images.import", worker.name, "reports"),
        ("images.publish", worker.name, "reports"),
        ("images.resize", worker.name, "reports"),
        ("mail.send", worker.name, "orders"),
        ("newsletters.send", worker.name, "orders"),
        ("orders.fulfil", worker.name, "orders"),
        ("orders.place", worker.name, "orders"),
        ("orders.withdraw", worker.name, "orders"),
        ("payments.charge", worker.name, "orders"),
        ("reports.archive", worker.name, "reports"),
        ("reports.build", worker.name, "reports"),
        ("reports.build", None, None),  # the link of a chain that was never reached
    }


def test_worker_without_extended_results(tmp_path: Path, celery_worker: Workers) -> None:
    with SQLite(tmp_path).fresh_database() as database:
        with celery_worker(database, extended=False, track_started=False) as worker:
            worker.send("reports.archive", 0.5, queue="reports")
            seen = database.wait_for({"SUCCESS": 1})
        assert "STARTED" not in seen
        with database.engine().connect() as connection:
            row = connection.execute(select(TASKS.c.name, TASKS.c.worker, TASKS.c.queue)).one()
        assert tuple(row) == (None, None, None)


def test_settings_reach_the_worker(postgresql: PostgreSQL, celery_worker: Workers) -> None:
    """Any of Celery's settings can be given: here table names and schemas."""
    with postgresql.fresh_database() as database:
        with database.engine().begin() as connection:
            connection.execute(text("CREATE SCHEMA shop"))
        with celery_worker(
            database,
            database_table_names={"task": "tasks", "group": "groups"},
            database_table_schemas={"task": "shop", "group": "shop"},
        ) as worker:
            worker.send("orders.place")
            database.wait_for({"SUCCESS": 1}, table="shop.tasks")
        with database.reader_engine().connect() as connection:
            assert connection.scalar(text("SELECT count(*) FROM shop.groups")) == 0


def test_prometheus_scrapes_and_answers(prometheus: Callable[[str], Prometheus]) -> None:
    config = """
        scrape_configs:
          - job_name: itself
            scrape_interval: 1s
            static_configs: [{targets: ["%s"]}]
    """
    watched = prometheus("{}")
    watching = prometheus(config % watched.url.removeprefix("http://"))
    wait_until(lambda: watching.query("up") != {}, "a scrape")
    assert list(watching.query('up{job="itself"}').values()) == [1.0]
