"""The grants of docs/accounts.md are enough, on the servers themselves."""

from __future__ import annotations

import contextlib
import re
from typing import TYPE_CHECKING

import pytest

from exporter.commands.check import check
from exporter.config.loading import from_url
from tests.backends.test_django import Shop
from tests.djangoshop import migrate
from tests.docs.test_readme import ACCOUNTS, blocks
from tests.follow import Follower, create_tables, insert

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.servers.database import Database, DatabaseServer

#: The statements by the comment in their first line, such as "postgresql: tables".
GRANTS = {
    block.partition("\n")[0].removeprefix("-- "): re.findall(r"^[A-Z].*(?=;$)", block, re.MULTILINE)
    for block in blocks(ACCOUNTS, "sql")
}
REMOVE = {
    "postgresql": ("DROP OWNED BY celery_reader", "DROP ROLE celery_reader"),
    "mysql": ("DROP USER celery_reader@'%'",),
}
CELERY = "id, status, name, worker, queue, retries, date_done"
DJANGO = "id, status, task_name, worker, date_done"
DATABASES = ["postgresql", "mariadb-pymysql", "mariadb-mysqlclient"]


@contextlib.contextmanager
def granted(database: Database, what: str) -> Iterator[str]:
    """Run the statements as the administrator; give the account's URL."""
    kind = database.owner.get_backend_name()
    server: DatabaseServer = database.server
    name = str(database.owner.database)
    # SQLAlchemy's own quoting of % does not touch these: there is none in them.
    statements = [re.sub(r"\bshop\b", name, one) for one in GRANTS[f"{kind}: {what}"]]
    server.execute(*statements, database=name)
    try:
        account = database.owner.set(username="celery_reader", password="change-me")  # noqa: S106
        yield account.render_as_string(hide_password=False)
    finally:
        server.execute(*REMOVE[kind], database=name)


def assert_enough(
    url: str, capsys: pytest.CaptureFixture[str], columns: str = CELERY, **more: str
) -> None:
    assert check(from_url(url)) == 0
    printed = capsys.readouterr().out
    assert "warning" not in printed
    assert columns in printed
    follower = Follower(url)
    labels = {"task": "app.add", "worker": "w1@host", "queue": "celery", "state": "FAILURE"} | more
    assert follower.poll().value("celery_task_results_total", **labels) == 1
    follower.close()


def fill(database: Database) -> None:
    with create_tables(database).begin() as connection:
        insert(connection, "FAILURE")


@pytest.mark.parametrize(
    ("database", "what"),
    [*((database, "tables") for database in DATABASES), ("postgresql", "columns")],
    indirect=["database"],
)
def test_grants_are_enough(
    database: Database, what: str, capsys: pytest.CaptureFixture[str]
) -> None:
    fill(database)
    with granted(database, what) as url:
        assert_enough(url, capsys)


@pytest.mark.parametrize("database", ["postgresql"], indirect=True)
def test_grants_on_django_s_tables_are_enough(
    database: Database, capsys: pytest.CaptureFixture[str]
) -> None:
    migrate(database.owner)
    Shop(database).insert("FAILURE", task_name="app.add")
    with granted(database, "django columns") as url:
        assert_enough(url, capsys, DJANGO, queue="")


@pytest.mark.parametrize("database", ["postgresql"], indirect=True)
def test_default_privileges_cover_tables_that_are_made_again(
    database: Database, capsys: pytest.CaptureFixture[str]
) -> None:
    fill(database)
    with granted(database, "tables") as url:
        with database.engine().begin() as connection:
            connection.exec_driver_sql("DROP TABLE celery_taskmeta, celery_tasksetmeta")
        fill(database)
        assert_enough(url, capsys)


def test_every_block_is_known() -> None:
    """So that none is left out: SQL Server's cannot be run here."""
    assert set(GRANTS) == {
        *("postgresql: tables", "postgresql: columns", "postgresql: django columns"),
        *("mysql: tables", "mssql: tables"),
    }
    assert all(GRANTS.values())
