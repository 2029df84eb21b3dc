"""The work a poll makes, counted: unlike time, it is the same on every machine.

What is asserted are the promises of bench/, which measures the time.
"""

from __future__ import annotations

import sqlite3
import uuid
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import Engine, create_engine, event, func, literal, select
from sqlalchemy.engine.interfaces import CacheStats

from bench.tables import Shape, fill, present
from exporter.backends.database import Database as ResultDatabase
from exporter.config.loading import from_url
from exporter.sql import compiled
from tests.follow import TASKS, Follower, insert

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.servers.database import Database

DATABASES = pytest.mark.parametrize(
    "database", ["sqlite", "postgresql", "mariadb-pymysql"], indirect=True
)
MOST_STATEMENTS = 5  # of an idle poll, those of the transaction included
MOST_ROWS = 10  # of an idle poll
ROWS_A_LABEL_SET = 2  # its group, and the task id of its exemplar
MOST_STATEMENTS_A_CHUNK = 10
MOST_LOOKING = 500  # rows of the catalogue, and of the table's edges: once a minute


class CountingCursor(sqlite3.Cursor):
    """Counts the rows fetched; SQLite's driver does not know them beforehand."""

    fetched = 0

    def fetchone(self) -> Any:
        row = super().fetchone()
        CountingCursor.fetched += row is not None
        return row

    def fetchmany(self, size: int | None = 1) -> list[Any]:
        rows = super().fetchmany(size)
        CountingCursor.fetched += len(rows)
        return rows

    def fetchall(self) -> list[Any]:
        rows = super().fetchall()
        CountingCursor.fetched += len(rows)
        return rows


class CountingConnection(sqlite3.Connection):
    def cursor(self, factory: Any = CountingCursor) -> Any:
        return super().cursor(factory)


@dataclass
class Work:
    """What was sent to the database, and how many rows came back."""

    statements: list[str] = field(default_factory=list)
    rows: int = 0
    compiled: list[str] = field(default_factory=list)

    def chunks(self) -> list[list[str]]:
        """Return the statements of each snapshot."""
        chunks: list[list[str]] = [[]]
        for statement in self.statements:
            chunks[-1].append(statement)
            if statement == "COMMIT":
                chunks.append([])
        return chunks[:-1]


@contextmanager
def work() -> Iterator[Work]:
    """Count what is done inside."""
    done = Work()

    def sent(_: Any, cursor: Any, statement: str, parameters: Any, context: Any, *__: Any) -> None:
        del cursor, parameters
        done.statements.append(statement)
        if context.compiled is not None and context.cache_hit is not CacheStats.CACHE_HIT:
            done.compiled.append(statement)

    def answered(connection: Any, cursor: Any, statement: str, *_: Any) -> None:
        if statement.lstrip().upper().startswith("SELECT") and not _is_sqlite(connection):
            assert cursor.rowcount >= 0, "a driver that does not tell: count as for SQLite"
            done.rows += cursor.rowcount

    CountingCursor.fetched = 0
    event.listen(Engine, "before_cursor_execute", sent)
    event.listen(Engine, "after_cursor_execute", answered)
    try:
        yield done
    finally:
        event.remove(Engine, "before_cursor_execute", sent)
        event.remove(Engine, "after_cursor_execute", answered)
        done.rows += CountingCursor.fetched


def _is_sqlite(connection: Any) -> bool:
    return connection.dialect.name == "sqlite"


def follow(database: Database, **settings: Any) -> Follower:
    if database.owner.get_backend_name() == "sqlite":
        options = {"connect_args": {"factory": CountingConnection}}
        settings["database_engine_options"] = settings.get("database_engine_options", {}) | options
    return Follower(database.reader_url, **settings)


def succeed(engine: Engine, rows: int, label_sets: int) -> None:
    """Insert rows without a hole."""
    values = [
        {
            "task_id": str(uuid.uuid4()),
            "status": "SUCCESS",
            "date_done": datetime.now(UTC).replace(tzinfo=None),
            "name": f"app.task{row % label_sets}",
            "worker": "w1@host",
            "queue": "celery",
            "retries": 0,
        }
        for row in range(rows)
    ]
    with engine.begin() as connection:
        connection.execute(TASKS.insert(), values)


def idle(follower: Follower) -> Work:
    """Poll until nothing is new, then once more."""
    follower.poll().poll().poll()
    with work() as done:
        follower.poll()
    return done


@DATABASES
def test_idle_poll_is_the_same_at_any_size(database: Database, engine: Engine) -> None:
    succeed(engine, 100, label_sets=3)
    follower = follow(database, late_commit_grace=0.0)  # no gap is waited for
    few = idle(follower)
    assert len(few.statements) <= MOST_STATEMENTS, few.statements
    assert few.rows <= MOST_ROWS
    succeed(engine, 19_900, label_sets=3)
    many = idle(follower)
    assert follower.states() == {"SUCCESS": 20_000}
    follower.close()
    assert (many.statements, many.rows) == (few.statements, few.rows)


@pytest.mark.parametrize(
    "database",
    [
        "sqlite",
        "postgresql",
        "mariadb-pymysql",
    ],
    indirect=True,
)
def test_idle_poll_with_an_unfinished_row(database: Database, engine: Engine) -> None:
    with engine.begin() as connection:
        insert(connection)
        insert(connection, "STARTED")
        insert(connection)
    follower = follow(database, late_commit_grace=0.0)
    done = idle(follower)
    assert follower.total("celery_task_unfinished") == 1
    follower.close()
    assert len(done.statements) <= MOST_STATEMENTS, done.statements
    assert done.rows <= MOST_ROWS


def news(database: Database, engine: Engine, rows: int, label_sets: int) -> Work:
    """Return the work that counting new rows takes."""
    follower = follow(database, late_commit_grace=0.0)
    idle(follower)
    before = follower.states()["SUCCESS"]
    succeed(engine, rows, label_sets)
    with work() as done:
        follower.poll()
    assert follower.states()["SUCCESS"] - before == rows
    follower.close()
    return done


@DATABASES
def test_new_rows_are_read_as_label_sets(database: Database, engine: Engine) -> None:
    succeed(engine, 10, label_sets=1)
    little = news(database, engine, rows=1_000, label_sets=3)
    assert little.rows <= MOST_ROWS + 3 * ROWS_A_LABEL_SET
    more_rows = news(database, engine, rows=4_000, label_sets=3)
    assert (more_rows.rows, more_rows.statements) == (little.rows, little.statements)
    more_label_sets = news(database, engine, rows=1_000, label_sets=30)
    assert more_label_sets.rows - little.rows <= 27 * ROWS_A_LABEL_SET


@DATABASES
def test_a_missing_id_does_not_make_rows_of_the_others(database: Database, engine: Engine) -> None:
    succeed(engine, 10, label_sets=1)
    follower = follow(database)
    idle(follower)
    with engine.begin() as connection:
        (highest,) = connection.execute(select(func.max(TASKS.c.id))).one()
        for row_id in (*range(1, 400), *range(401, 1_001)):
            insert(connection, id=highest + row_id)
    with work() as done:
        follower.poll()
    gaps = follower.value("celery_backend_gap_ids", table="task")
    follower.close()
    assert gaps
    assert done.rows <= 2 * MOST_ROWS + ROWS_A_LABEL_SET


@contextmanager
def catch_up(database: Database, shape: Shape) -> Iterator[tuple[Follower, Work]]:
    """Count a table with failures, unfinished rows and missing ids."""
    fill(database.engine(), shape)
    follower = follow(database, poll_interval=15.0)  # so that no gap is due before the end
    with work() as done:
        follower.poll()
    assert follower.states().total() == present(shape.rows) - shape.unfinished
    yield follower, done
    follower.close()


HISTORY = Shape(20_000, unfinished=20, tasks=4, workers=2, queues=2)


@DATABASES
def test_catch_up_sends_few_statements_a_chunk(database: Database) -> None:
    with catch_up(database, HISTORY) as (_, done):
        longest = max(done.chunks()[1:], key=len, default=[])  # the first looks at the tables
        assert len(longest) <= MOST_STATEMENTS_A_CHUNK, longest


@DATABASES
def test_catch_up_fetches_rows_only_where_they_matter(database: Database) -> None:
    """Failures, unfinished rows and what tells of missing ids; the rest comes as groups."""
    with catch_up(database, HISTORY) as (follower, done):
        missing = HISTORY.rows - present(HISTORY.rows)
        matter = follower.states()["FAILURE"] + HISTORY.unfinished + missing
        label_sets = HISTORY.tasks * HISTORY.workers * 3  # in three states
        for_each_chunk = 2 * MOST_ROWS + label_sets
        assert done.rows <= 2 * matter + len(done.chunks()) * for_each_chunk + MOST_LOOKING


@DATABASES
def test_a_database_like_another_costs_no_compiling(database: Database, engine: Engine) -> None:
    """To compile is most of a first poll, and what was compiled most of a backend's memory."""
    unlike_others = {"database_engine_options": {"label_length": 61}}  # of other tests
    with engine.begin() as connection:
        for state in ("SUCCESS", "FAILURE", "STARTED"):
            insert(connection, state)
    compiled = []
    for settings in ({}, {}, {"late_commit_grace": 60.0}):
        with work() as done:
            follower = follow(database, **unlike_others, **settings).poll().poll()
        assert follower.states() == {"SUCCESS": 1, "FAILURE": 1}
        follower.close()
        compiled.append(done.compiled)
    assert len(compiled[0]) > 10
    assert compiled[1:] == [[], []]


@pytest.mark.parametrize("database", ["sqlite"], indirect=True)
def test_backends_that_are_alike_have_one_reader(database: Database, engine: Engine) -> None:
    """To make one was a fifth of the look at the tables, once a minute."""
    with engine.begin() as connection:
        insert(connection)
    readers = set()
    for zone in ("UTC", "UTC", "Asia/Seoul"):
        (settings,) = from_url(database.reader_url, timezone=zone).backends
        source = ResultDatabase(settings)
        for _ in range(2):
            with source.session() as session:
                readers.add(session.readers["task"])
            source.look_again()
        source.close()
    assert len(readers) == 2  # dates of another zone are read otherwise


def test_databases_that_differ_share_nothing() -> None:
    """A statement is written as the server's version, and the engine's options, want it."""
    query = select(literal("é").label("asked_nowhere_else"))
    sent = []
    for options in ({}, {}, {"paramstyle": "named"}):
        with create_engine("sqlite://", **options).connect() as connection, work() as done:
            compiled.share(connection)
            assert connection.execute(query).scalar() == "é"
        sent.append(done.compiled)
    first, again, named = sent
    assert first == ["SELECT ? AS asked_nowhere_else"]
    assert again == []
    assert named == ["SELECT :param_1 AS asked_nowhere_else"]
