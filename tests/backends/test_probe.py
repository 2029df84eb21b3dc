"""What is taken for granted of a server is asked; where it is otherwise the backend is down."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import LargeBinary, String, cast, func, literal, null
from sqlalchemy.dialects import mssql

from exporter.backends import probe
from exporter.backends.family import build
from exporter.backends.tables import celery
from exporter.errors import Reason
from exporter.sql import dialects
from exporter.sql.dialects import Limits
from exporter.sql.inspection import Facts
from tests.follow import Follower, insert
from tests.sql.test_sql_server import DECLARED

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from sqlalchemy import Engine

    from tests.servers.database import Database


@pytest.fixture
def follower(database: Database, engine: Engine) -> Iterator[Follower]:
    with engine.begin() as connection:
        insert(connection)
        insert(connection, "FAILURE")
    follower = Follower(database.reader_url)
    yield follower
    follower.close()


def test_servers_do_as_assumed(follower: Follower) -> None:
    follower.poll()
    assert follower.states() == {"SUCCESS": 1, "FAILURE": 1}


#: What administrators set for all sessions, and Celery does not mind.
SET = {
    "postgresql": {
        "options": "-c extra_float_digits=-15 -c bytea_output=escape -c datestyle=German"
        " -c standard_conforming_strings=off -c timezone=Asia/Tokyo"
    },
    "mysql": {
        "init_command": "SET SESSION sql_mode = 'ANSI_QUOTES,PAD_CHAR_TO_FULL_LENGTH,"
        "NO_BACKSLASH_ESCAPES', max_join_size = 1, sql_select_limit = 1, time_zone = '+09:00'"
    },
}


@pytest.mark.parametrize(
    "database", ["postgresql", "mariadb-pymysql", "mariadb-mysqlclient"], indirect=True
)
def test_settings_of_a_server_change_nothing(database: Database, engine: Engine) -> None:
    with engine.begin() as connection:
        if engine.name == "mysql":
            connection.exec_driver_sql("ALTER TABLE celery_taskmeta MODIFY status CHAR(50)")
        for name in ("app.add", "app.other", "app.third"):
            insert(connection, name=name, date_done=probe.MOMENT.replace(tzinfo=None))
            insert(connection, "FAILURE", name=name)
    arguments = {"connect_args": SET[engine.name]}
    settings = {"database_engine_options": arguments, "timezone": "UTC"}
    follower = Follower(database.reader_url, **settings).poll()
    assert follower.states() == {"SUCCESS": 3, "FAILURE": 3}
    last = follower.samples("celery_task_last_finished_timestamp_seconds")
    assert {value for has, value in last if has["state"] == "SUCCESS"} == {probe.MOMENT.timestamp()}
    follower.close()


#: By what is broken: the method, what a server that does otherwise makes of it, what is said then.
BROKEN: dict[str, tuple[str, Callable[..., Any], str]] = {
    "case": ("exact", func.upper, "'success', 'SUCCESS' should be 'SUCCESS', and it answers 'succ"),
    "padding": (
        "exact",
        func.rtrim,
        "status 'SUCCESS ' should be 'SUCCESS ', and it answers 'SUCCESS'",
    ),
    "value": (
        "exact_value",
        lambda value: value.lower() + "!",
        "should be 'SUCCESS', and it answers None",
    ),
    "label": ("label", func.lower, "status 'SUCCESS ' should be 'SUCCESS '"),
    "text": ("text", lambda value: str(value)[::2], "should be 'SUCCESS ', and it answers"),
    "no text": ("label", lambda _: cast(null(), String), "should be 'SUCCESS ', and it answers ''"),
    "moment": ("moment", lambda _: null(), "Unix time of 2026-01-02 03:04:05 UTC should be"),
    "seconds": ("seconds", lambda value, zone=None: (value, zone) and 1.5, "it answers 1.5"),
    "bytes": (
        "start_of_bytes",
        lambda column, length: func.substr(column, 2, length, type_=LargeBinary),
        "the first 3 bytes of",
    ),
    "octets": ("octets", lambda *_, **__: literal(4), "should be 5, and it answers 4"),
    "end": (
        "end_of_text",
        lambda column, length: func.substr(cast(column, String), 1, length),
        "the last 11 characters of 'ends with these words' should be 'these words', and",
    ),
    "total": ("total", func.max, "the sum of 2 and 3 should be 5"),
}


def otherwise(follower: Follower, method: str, instead: Callable[..., Any]) -> None:
    """Let the dialect of a follower be one whose server does otherwise."""
    database = follower.poller.follower.database
    methods = {method: lambda _, *given, **named: instead(*given, **named)}
    database.dialect = type("Other", (type(database.dialect),), methods)(database.dialect.limits)


@pytest.mark.parametrize("what", BROKEN)
@pytest.mark.parametrize("database", ["sqlite", "postgresql"], indirect=True)
def test_other_servers_are_down_with_the_reason(
    follower: Follower,
    what: str,
) -> None:
    method, instead, words = BROKEN[what]
    otherwise(follower, method, instead)
    assert not follower.poller.try_poll()
    message = follower.poller.status.message
    assert message.startswith("the server cannot be read: ")
    assert words in message
    assert "\n" not in message
    errors = follower.value("celery_backend_poll_errors_total", reason=Reason.ASSUMPTION)
    assert errors == 1


@pytest.mark.parametrize("database", ["postgresql"], indirect=True)
def test_collation_of_the_column_is_asked(database: Database, engine: Engine) -> None:
    """A constant has another collation than the table's column: asked is that of the column."""
    with engine.begin() as connection:
        connection.exec_driver_sql(
            "CREATE COLLATION no_case"
            " (provider = icu, locale = 'und-u-ks-level2', deterministic = false)"
        )
        connection.exec_driver_sql(
            "ALTER TABLE celery_taskmeta ALTER queue TYPE VARCHAR(155) COLLATE no_case"
        )
    follower = Follower(database.reader_url)
    otherwise(follower, "adapt", lambda column, *_: column)
    assert not follower.poller.try_poll()
    assert (
        "queue 'SUCCESS ', 'success', 'SUCCESS' should be 'SUCCESS', and it answers 'success'"
        in follower.poller.status.message
    )
    follower.close()


def test_sql_server_is_asked_in_its_own_words() -> None:
    """None can be run here: the statement is compiled."""
    dialect = dialects.of("mssql", Limits(connect=5.0, query=10.0))
    table = build(
        celery.TASK,
        "celery_taskmeta",
        None,
        Facts(DECLARED, frozenset()),
        set(DECLARED),
        dialect.adapt,
    )
    _, question = probe.expectations(dialect, table)
    asked = str(question.compile(dialect=mssql.dialect()))
    assert asked.count("COLLATE Latin1_General_BIN2) + N'.'") > len(probe.WORDS)
    assert "LIMIT" not in asked
