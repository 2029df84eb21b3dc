"""Text that is none: shown by replacement, and its row counts like any other."""

from __future__ import annotations

import contextlib
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from sqlalchemy import text

from exporter.backends.present import count_present
from exporter.commands.check import check
from exporter.config.settings import Config
from tests.follow import Follower, create_tables, insert
from tests.servers.database import SQLite

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from sqlalchemy import Engine

    from tests.servers.database import Database
    from tests.servers.mariadb import MariaDB
    from tests.servers.postgresql import PostgreSQL

TRACEBACK = "Traceback (most recent call last):\n  é\nOSError: {}\n"
RESULTS = "celery_task_results_total"
FAILURES = "celery_task_failures_total"


@contextlib.contextmanager
def any_bytes(server: PostgreSQL, driver: str) -> Iterator[Database]:
    """Make a database that takes any bytes for text."""
    with server.fresh_database(driver) as database:
        name = str(database.owner.database)
        server.drop(name)
        server.create(name, "ENCODING 'SQL_ASCII' LOCALE 'C' TEMPLATE template0")
        # As Celery's own connections need it, too: SQLAlchemy stumbles over bytes.
        yield replace(database, owner=database.owner.update_query_dict({"client_encoding": "utf8"}))


def put(engine: Engine, column: str, row: int, stored: bytes) -> None:
    """Write bytes into a text column of a SQL_ASCII database."""
    with engine.begin() as connection:
        connection.execute(
            text(
                f"UPDATE celery_taskmeta SET {column} = convert_from(CAST(:it AS BYTEA),"
                " 'SQL_ASCII') WHERE id = :row"
            ),
            {"it": stored, "row": row},
        )


@pytest.mark.parametrize("driver", ["postgresql+psycopg", "postgresql+psycopg2"])
@pytest.mark.parametrize("state", ["SUCCESS", "FAILURE"])
def test_any_bytes_on_postgresql(postgresql: PostgreSQL, driver: str, state: str) -> None:
    """What is UTF-8 is read as that; two texts that look alike are summed."""
    with any_bytes(postgresql, driver) as database:
        engine = create_tables(database)
        names = [b"mail.s\xc3\xa9nd", b"mail.s\xe9nd", b"mail.s\xffnd", b"mail.send"]
        with engine.begin() as connection:
            rows = [insert(connection, state) for _ in names]
            started = insert(connection, "STARTED")
        for row, name in zip(rows, names, strict=True):
            put(engine, "name", row, name)
            put(engine, "traceback", row, TRACEBACK.format(row).encode("latin-1"))
            put(engine, "task_id", row, b"\xff%d" % row)
        put(engine, "status", started, b"WAITING\xe9")
        follower = Follower(database.reader_url).poll()
        assert follower.value(RESULTS, state=state, task="mail.sénd") == 1
        assert follower.value(RESULTS, state=state, task="mail.s�nd") == 2
        assert follower.value(RESULTS, state=state, task="mail.send") == 1
        assert follower.total("celery_task_unfinished", state="WAITING�") == 1
        if state == "FAILURE":
            assert follower.value(FAILURES, exception="OSError", task="mail.sénd") == 1
        assert follower.value("celery_backend_id_used_ratio", table="task")
        with engine.begin() as connection:
            insert(connection)
        assert follower.poll().states()["SUCCESS"] == (5 if state == "SUCCESS" else 1)
        assert follower.value("celery_backend_id_resets_total", table="task") == 0
        follower.poller.follower.database.look_again()
        follower.poll()
        follower.close()
        assert check(Config((follower.poller.settings,), None, 0.0)) == 0


@pytest.mark.parametrize("database", ["sqlite"], indirect=True)
def test_any_bytes_on_sqlite(database: Database) -> None:
    """It checks no text; what does not decode counts like any other."""
    with create_tables(database).begin() as connection:
        for name in ("6d61696c2e73c3a96e64", "6d61696c2e73e96e64", "6d61696c2e73ff6e64"):
            row = insert(connection, "FAILURE")
            connection.exec_driver_sql(
                f"UPDATE celery_taskmeta SET name = CAST(x'{name}' AS TEXT),"
                f" traceback = CAST(x'{TRACEBACK.format(row).encode('latin-1').hex()}' AS TEXT)"
                f" WHERE id = {row}"
            )
    follower = Follower(database.reader_url).poll()
    assert follower.value(RESULTS, state="FAILURE", task="mail.sénd") == 1
    assert follower.value(RESULTS, state="FAILURE", task="mail.s�nd") == 2
    assert follower.total(FAILURES, exception="OSError") == 3
    follower.close()


@pytest.mark.parametrize("driver", ["mysql+pymysql", "mysql+mysqldb"])
@pytest.mark.parametrize("connection_charset", ["latin1", "utf8mb4"])
@pytest.mark.parametrize("table_charset", ["latin1", "utf8mb4"])
def test_other_character_sets_on_mariadb(
    mariadb: MariaDB, driver: str, connection_charset: str, table_charset: str
) -> None:
    """Bytes of UTF-8 in a latin1 table are latin1 for all that read it; nothing stops."""
    with mariadb.fresh_database(driver) as database:
        engine = create_tables(database)
        stored = "mail.sénd 메일".encode()
        shown = stored.decode("cp1252", "replace") if table_charset == "latin1" else stored.decode()
        with engine.begin() as connection:
            connection.execute(
                text(f"ALTER TABLE celery_taskmeta CONVERT TO CHARACTER SET {table_charset}")
            )
            for state in ("SUCCESS", "FAILURE", "STARTED"):
                row = insert(connection, state)
                read_as = f"CONVERT(CAST(:{{}} AS BINARY) USING {table_charset})"
                connection.execute(
                    text(
                        f"UPDATE celery_taskmeta SET name = {read_as.format('name')},"
                        f" traceback = {read_as.format('traceback')} WHERE id = {row}"
                    ),
                    {"name": stored, "traceback": TRACEBACK.format("메일").encode()},
                )
        url = database.reader.update_query_dict({"charset": connection_charset})
        follower = Follower(url.render_as_string(hide_password=False)).poll()
        assert follower.states() == {"SUCCESS": 1, "FAILURE": 1}
        tasks = {labels["task"] for labels, _ in follower.samples(RESULTS)}
        assert len(tasks) == 1
        if table_charset == "utf8mb4":
            assert tasks == {shown}
        assert follower.value(FAILURES, exception="OSError") == 1
        assert follower.total("celery_task_unfinished", state="STARTED") == 1
        follower.close()


def test_retries_that_are_none_stop_nothing(tmp_path: Path) -> None:
    """SQLite stores what it is given: of numbers beyond all reason no sample can be made."""
    with SQLite(tmp_path).fresh_database() as database:
        engine = create_tables(database)
        follower = Follower(database.reader_url).poll()
        with engine.begin() as connection:
            for state in ("SUCCESS", "FAILURE"):
                for retries in ("1e308", "1e308", "-5", "9e999", "'many'", "x'00'", "2"):
                    row = insert(connection, state)
                    connection.execute(
                        text(f"UPDATE celery_taskmeta SET retries = {retries} WHERE id = {row}")
                    )
        assert follower.poll().states() == {"SUCCESS": 7, "FAILURE": 7}
        assert follower.total("celery_task_retries_total") > 2
        with engine.begin() as connection:
            insert(connection)
        assert follower.poll().states() == {"SUCCESS": 8, "FAILURE": 7}
        follower.close()


def test_label_on_sqlite_ends_at_a_nul(tmp_path: Path) -> None:
    """So SQLite reads it, and `verify` knows."""
    with SQLite(tmp_path).fresh_database() as database:
        with create_tables(database).begin() as connection:
            for state in ("SUCCESS", "FAILURE"):
                for name in ("a", "a\0b", "a\0c"):
                    insert(connection, state, name=name)
        follower = Follower(database.reader_url).poll()
        assert follower.total("celery_task_results_total", task="a") == 6
        present = count_present(follower.poller.follower.database, follower.poller.follower.main)
        assert present == {("a", state, "w1@host", "celery"): 3 for state in ("SUCCESS", "FAILURE")}
        follower.close()
