"""Databases that are read right although they are not as Celery makes them, by every command.

Each stands beside one that is as usual; none of them disturbs another.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import pytest

from tests.acceptance.process import FAST, run, running, write
from tests.follow import create_tables, insert
from tests.scrape import Scrape
from tests.servers.database import Database, SQLite
from tests.sql.test_text import any_bytes, put

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.servers.mariadb import MariaDB
    from tests.servers.postgresql import PostgreSQL

STATES = ("SUCCESS", "FAILURE", "STARTED")
COUNTED = {"SUCCESS": 1, "FAILURE": 1}
#: By name: what is altered once rows are there.
POSTGRESQL = {
    "states of an ENUM": (
        "CREATE TYPE state AS ENUM ('STARTED', 'SUCCESS', 'FAILURE')",
        "ALTER TABLE celery_taskmeta ALTER status TYPE state USING status::state",
    ),
    "dates with a zone": ("ALTER TABLE celery_taskmeta ALTER date_done TYPE TIMESTAMPTZ",),
}
MARIADB = {
    "unsigned ids": ("ALTER TABLE celery_taskmeta MODIFY id INT UNSIGNED AUTO_INCREMENT",),
    "medium ids": ("ALTER TABLE celery_taskmeta MODIFY id MEDIUMINT AUTO_INCREMENT",),
    "latin1": ("ALTER TABLE celery_taskmeta CONVERT TO CHARACTER SET latin1",),
}
NAMES = ("as usual", "any bytes", *POSTGRESQL, *MARIADB)


def fill(database: Database, *statements: str) -> None:
    with create_tables(database).begin() as connection:
        for state in STATES:
            insert(connection, state)
        for statement in statements:
            connection.exec_driver_sql(statement)


@pytest.fixture(scope="module")
def said(
    postgresql: PostgreSQL, mariadb: MariaDB, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, tuple[int, str]]]:
    """Run each command once, over all of them; return exit codes and what was printed."""
    folder = tmp_path_factory.mktemp("odd")
    with contextlib.ExitStack() as closing:
        databases = {"as usual": closing.enter_context(SQLite(folder).fresh_database())}
        fill(databases["as usual"])
        raw = closing.enter_context(any_bytes(postgresql, "postgresql+psycopg"))
        fill(raw)
        put(raw.engine(), "name", 1, b"mail.s\xe9nd")
        put(raw.engine(), "traceback", 2, b"Traceback\nOSError: \xff\n")
        databases["any bytes"] = raw
        for server, odd in ((postgresql, POSTGRESQL), (mariadb, MARIADB)):
            for name, statements in odd.items():
                databases[name] = closing.enter_context(server.fresh_database())
                fill(databases[name], *statements)
        config = {
            "checkpoint": {"path": "checkpoint.sqlite"},
            "defaults": FAST,
            "backends": [
                {"name": name, "result_backend": database.reader_url}
                for name, database in databases.items()
            ],
        }
        file = write(folder, config)
        results = {}
        for command in ("once", "verify", "check"):
            ended = run(command, f"--config.file={file}")
            assert "Traceback" not in ended.stderr
            results[command] = (ended.returncode, ended.stdout)
        with running(folder, config) as exporter:
            exporter.wait_until(lambda: len(exporter.polls()) == len(databases), "first polls", 60)
            exporter.poll_again()
            results["run"] = (0, exporter.get("/metrics", "text/plain").body)
        yield results


def test_every_command_ends_well(said: dict[str, tuple[int, str]]) -> None:
    assert {command: code for command, (code, _) in said.items()} == dict.fromkeys(said, 0)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("command", ["once", "run"])
def test_counts(said: dict[str, tuple[int, str]], command: str, name: str) -> None:
    scrape = Scrape(said[command][1])
    assert scrape.value("celery_backend_up", backend=name) == 1
    results = scrape.sums("celery_task_results_total", "backend", "state")
    assert {state: n for (of, state), n in results.items() if of == name} == COUNTED
    unfinished = scrape.sums("celery_task_unfinished", "backend", "state")
    assert {state: n for (of, state), n in unfinished.items() if of == name} == {"STARTED": 1}


@pytest.mark.parametrize("name", NAMES)
def test_check_and_verify(said: dict[str, tuple[int, str]], name: str) -> None:
    assert f"backend {name}: ok" in said["check"][1].splitlines()
    assert f"backend {name}: 2 present, 2 counted, 0 missing" in said["verify"][1].splitlines()
