"""`check`: what is there, in the order of the file, whatever is wrong with one of them."""

from __future__ import annotations

import re
import threading
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest
from sqlalchemy import text

from exporter.commands.check import AT_ONCE, check, in_order
from exporter.config.loading import from_url
from exporter.config.settings import Backend, Config
from tests.follow import create_tables, insert
from tests.servers.database import SQLite

if TYPE_CHECKING:
    from pathlib import Path

    from tests.servers.database import Database


def backend(url: str, name: str, **settings: object) -> Backend:
    return from_url(url, name=name, **settings).backends[0]


def checked(capsys: pytest.CaptureFixture[str], *backends: Backend) -> tuple[int, str]:
    code = check(Config(backends, None, 0.0))
    return code, capsys.readouterr().out


@pytest.mark.parametrize("database", ["mariadb-pymysql"], indirect=True)
def test_right_to_write_elsewhere_is_none_to_write_here(
    database: Database, capsys: pytest.CaptureFixture[str]
) -> None:
    assert database.server is not None
    name = str(database.owner.database)
    with create_tables(database).begin() as connection:
        insert(connection)
    for where, warned in (("elsewhere.*", False), (f"{name}.celery_tasksetmeta", True)):
        database.server.execute(f"GRANT ALL ON {where} TO reader@'%'")
        try:
            _, out = checked(capsys, backend(database.reader_url, "shop"))
        finally:
            database.server.execute(f"REVOKE ALL ON {where} FROM reader@'%'")
        assert ("this account can write to the group table;" in out) == warned
        assert "can write to the task table" not in out


def test_one_backend_hides_no_other(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Neither a wrong option nor a file that is none, whichever comes first."""
    folder = tmp_path / "folder"
    folder.mkdir()
    with SQLite(tmp_path).fresh_database() as database:
        with create_tables(database).begin() as connection:
            insert(connection)
        url = database.reader_url
        code, out = checked(
            capsys,
            backend(url, "option", database_engine_options={"ecco": True}),
            backend(url, "argument", database_engine_options={"connect_args": {"tiemout": 3}}),
            backend(f"sqlite:///{folder}", "folder"),
            backend(url, "well"),
        )
    assert code == 1
    heads = re.findall(r"^backend .*$", out, re.MULTILINE)
    assert heads == [
        "backend option: FAILED",
        "backend argument: FAILED",
        "backend folder: FAILED",
        "backend well: ok",
    ]
    assert "backends[option].database_engine_options" in out
    assert "tiemout" in out
    assert out.endswith("4 backends, 3 failed: option, argument, folder\n")


def test_many_at_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """In the order of the file; the summary names some."""
    backends = [backend(f"sqlite:///{tmp_path}/{n}.sqlite", f"b{n}") for n in range(100)]
    code, out = checked(capsys, *backends)
    assert code == 1
    assert re.findall(r"^backend (b\d+): FAILED$", out, re.MULTILINE) == [b.name for b in backends]
    assert out.endswith(
        "100 backends, 100 failed: b0, b1, b2, b3, b4, b5, b6, b7, b8, b9 and 90 more\n"
    )


def test_slow_servers_are_waited_for_together() -> None:
    """As many as there may be at once meet here; one after the other they never would."""
    meeting = threading.Barrier(AT_ONCE, timeout=30)

    def work(item: int) -> int:
        meeting.wait()
        return item

    assert list(in_order(work, range(2 * AT_ONCE))) == list(range(2 * AT_ONCE))


def naive_utc() -> datetime:
    return datetime.now(UTC).replace(tzinfo=None)


def test_one_date_that_cannot_be(database: Database, capsys: pytest.CaptureFixture[str]) -> None:
    """It is said to be such, hides no other, and is no reason to set a zone."""
    with create_tables(database).begin() as connection:
        insert(connection, date_done=naive_utc() - timedelta(minutes=5))
        insert(connection, date_done=datetime(9999, 12, 31))  # noqa: DTZ001 - as it is stored
    code, out = checked(capsys, backend(database.reader_url, "a", timezone="UTC"))
    assert code == 0
    assert re.search(r"task newest result +5 min ago, \d{4}-\d\d-\d\d ", out)
    (warning,) = re.findall(r"warning: (.*date_done.*)", out)
    assert warning == (
        "date_done in the future: 9999-12-31 00:00:00 UTC, in 1 of the newest 2 results; "
        "no zone explains that"
    )


@pytest.mark.parametrize("database", ["sqlite"], indirect=True)
def test_columns_that_nobody_fills(database: Database, capsys: pytest.CaptureFixture[str]) -> None:
    """That they are there tells nothing of `result_extended`."""
    engine = create_tables(database)
    config = backend(database.reader_url, "a")
    assert "columns are there, but no rows yet" in checked(capsys, config)[1]
    with engine.begin() as connection:
        for _ in range(3):
            insert(connection, name=None)
    out = checked(capsys, config)[1]
    assert "the columns are there, but not used" in out
    assert "warning: none of the newest 3 rows has a name" in out
    assert "Set result_extended = True in the Celery app" in out
    with engine.begin() as connection:
        insert(connection)
    out = checked(capsys, config)[1]
    assert "yes: of the newest 4 rows 1 have a name" in out
    assert "result_extended" not in out


@pytest.mark.parametrize("database", ["sqlite"], indirect=True)
def test_zone_that_makes_results_look_old(
    database: Database, capsys: pytest.CaptureFixture[str]
) -> None:
    """A question, since idle workers look the same; with the right zone there is none."""
    now = naive_utc()
    with create_tables(database).begin() as connection:
        for row in range(20):
            insert(connection, date_done=now - timedelta(seconds=60 - 3 * row))
    wrong = checked(capsys, backend(database.reader_url, "a", timezone="Asia/Tokyo"))[1]
    (warning,) = re.findall(r"warning: (.*timezone.*)", wrong)
    assert (
        "the newest result is of 9 h ago, and before it there was one at least every 3 s" in warning
    )
    assert "has nothing finished since?" in warning
    right = checked(capsys, backend(database.reader_url, "a", timezone="UTC"))[1]
    assert "timezone" not in right


def test_tables_that_may_be_meant(database: Database, capsys: pytest.CaptureFixture[str]) -> None:
    """Those of Celery and of django-celery-results, with other names."""
    with database.engine().begin() as connection:
        for name in ("shop_taskresult", "Shop_TaskMeta", "tasks"):
            connection.execute(text(f"CREATE TABLE {name} (id INTEGER PRIMARY KEY)"))
    code, out = checked(capsys, backend(database.reader_url, "a"))
    assert code == 1
    (error,) = re.findall(r"error: there is (.*)", out)
    assert "shop_taskresult" in error
    assert "shop_taskmeta" in error.lower()
    assert "set tables, or database_table_names and database_table_schemas" in error
    assert "tasks" not in error.split()


@pytest.mark.parametrize("database", ["sqlite"], indirect=True)
def test_states_of_your_own_are_listed(
    database: Database, capsys: pytest.CaptureFixture[str]
) -> None:
    """Or text that is read wrongly; the most frequent ones, of the newest rows."""
    with create_tables(database).begin() as connection:
        for state in ("SUCCESS", "REJECTED", "PROGRESS", "PROGRESS", "UPLOADED"):
            insert(connection, state)
    config = backend(database.reader_url, "a")
    own = "states of your own  PROGRESS 2, UPLOADED 1 of the newest 5 rows, unfinished to Celery"
    assert own in checked(capsys, config)[1]
    with database.engine().begin() as connection:
        for number in range(20):
            insert(connection, f"STEP {number}")
    assert "…" in checked(capsys, config)[1]


@pytest.mark.parametrize("database", ["sqlite"], indirect=True)
def test_hostile_text_is_only_text(database: Database, capsys: pytest.CaptureFixture[str]) -> None:
    """Nothing in a state is obeyed by a terminal."""
    with create_tables(database).begin() as connection:
        insert(connection, "a\x1b]0;owned\x07\nb\u202e")
    code, out = checked(capsys, backend(database.reader_url, "a"))
    assert code == 0
    assert out.replace("\n", "").isprintable()
    assert r"states of your own  a\x1b]0;owned\x07\nb\u202e 1 of the newest 1 rows" in out
