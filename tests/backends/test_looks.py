"""Tables are looked at again only where they, or the rights to read them, may have changed."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

from exporter.backends.database import Database as Source
from exporter.config.loading import from_url
from exporter.errors import BackendError, Reason
from tests.backends.test_work import work

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sqlalchemy import Engine

    from exporter.backends.family import ResultTable
    from tests.servers.database import Database

STAMPED = pytest.mark.parametrize("database", ["sqlite", "postgresql"], indirect=True)
ON_POSTGRESQL = pytest.mark.parametrize("database", ["postgresql"], indirect=True)
CHANGES = {
    "a column more": (
        "ALTER TABLE celery_taskmeta DROP COLUMN queue",
        "ALTER TABLE celery_taskmeta ADD COLUMN queue VARCHAR(155)",
    ),
    "an index more": (
        "DROP INDEX IF EXISTS ix_celery_taskmeta_date_done",
        "CREATE INDEX by_date ON celery_taskmeta (date_done)",
    ),
    "a table more": (
        "ALTER TABLE celery_taskmeta RENAME TO another",
        "ALTER TABLE another RENAME TO celery_taskmeta",
    ),
}


@contextmanager
def looking(database: Database) -> Iterator[Source]:
    (settings,) = from_url(database.reader_url).backends
    source = Source(settings)
    yield source
    source.close()


@pytest.fixture
def source(database: Database) -> Iterator[Source]:
    with looking(database) as source:
        yield source


@pytest.fixture
def another(database: Database) -> Iterator[Source]:
    """As of another process, which has seen nothing yet."""
    with looking(database) as source:
        yield source


def look(source: Source) -> dict[str, ResultTable]:
    source.look_again()
    with source.session() as session:
        return {table.layout.kind: table for table in session.tables}


@STAMPED
@pytest.mark.usefixtures("engine")
def test_a_look_at_the_same_tables_is_one_statement(source: Source) -> None:
    before = look(source)
    with work() as done:
        after = look(source)
    assert after["task"] is before["task"]
    _stamp, _begin, _end = done.statements


@ON_POSTGRESQL
def test_tables_as_celery_makes_them_are_not_reflected(
    source: Source, another: Source, engine: Engine
) -> None:
    with work() as done:
        plain = look(source)
    assert not [words for words in done.statements if "pg_catalog.pg_index" in words]
    with engine.begin() as connection:  # as reflection has it
        connection.exec_driver_sql("ALTER TABLE celery_taskmeta ADD COLUMN another uuid")
    with work() as done:
        reflected = look(another)
    assert [words for words in done.statements if "pg_catalog.pg_index" in words]
    for kind, table in plain.items():
        assert table.shape == reflected[kind].shape
        assert table.date_done_index == reflected[kind].date_done_index


@ON_POSTGRESQL
def test_types_of_the_same_name_are_told_apart(
    source: Source, another: Source, engine: Engine
) -> None:
    change = "ALTER TABLE celery_taskmeta ALTER COLUMN queue TYPE {} USING NULL"
    with engine.begin() as connection:
        connection.exec_driver_sql("CREATE DOMAIN label AS text")
        connection.exec_driver_sql(change.format("label"))
    assert "queue" in look(source)["task"].columns
    with engine.begin() as connection:
        connection.exec_driver_sql(change.format("text"))
        connection.exec_driver_sql("DROP DOMAIN label")
        connection.exec_driver_sql("CREATE DOMAIN label AS bytea")
        connection.exec_driver_sql(change.format("label"))
    with pytest.raises(BackendError, match="column 'queue' holds"):
        look(another)


@pytest.mark.parametrize("change", CHANGES)
def test_a_look_sees_every_change(source: Source, engine: Engine, change: str) -> None:
    seen = [_told(look(source))]
    for statement in CHANGES[change]:
        if engine.dialect.name == "mysql" and "INDEX IF EXISTS" in statement:
            statement += " ON celery_taskmeta"  # noqa: PLW2901
        with engine.begin() as connection:
            connection.exec_driver_sql(statement)
        seen.append(_told(look(source)))
    assert seen[0] == seen[2] != seen[1]


@ON_POSTGRESQL
def test_a_look_sees_every_right(source: Source, engine: Engine, database: Database) -> None:
    reader = database.reader.username
    seen = []
    for change in (
        "REVOKE SELECT ON celery_taskmeta FROM {}",
        "GRANT SELECT (id, status) ON celery_taskmeta TO {}",
        "GRANT SELECT (name) ON celery_taskmeta TO {}",
        "GRANT SELECT ON celery_taskmeta TO {}",
    ):
        with engine.begin() as connection:
            connection.exec_driver_sql(change.format(reader))
        try:
            seen.append(len(look(source)["task"].columns))
        except BackendError as error:
            seen.append(error.reason)
    assert seen == [Reason.PERMISSION, 2, 3, 10]


def _told(tables: dict[str, ResultTable]) -> object:
    task = tables.get("task")
    return len(tables), task and (sorted(task.columns), task.date_done_index)
