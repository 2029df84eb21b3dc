"""Whatever is wrong is said in one clear line, and is put right without a restart.

What is wrong with the command line or the file ends in exit code 2; what is wrong with a database
is logged, shown by the metrics, and tried again. The lines are logged, as rows of a table.
"""

from __future__ import annotations

import logging
import re
import socket
from datetime import datetime
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from celery.backends.database.session import ResultModelBase
from sqlalchemy import text

from tests.acceptance.process import Exporter, one_backend, refusal, running, without_password
from tests.follow import create_tables, insert
from tests.servers.database import READER_PASSWORD, DatabaseServer, SQLite
from tests.servers.process import HOST

if TYPE_CHECKING:
    from sqlalchemy import Connection, Engine

    from tests.servers.database import Database

log = logging.getLogger(__name__)

SERVERS = ("postgresql", "mariadb-pymysql", "mariadb-mysqlclient")
ON_SERVERS = pytest.mark.parametrize("database", SERVERS, indirect=True)
URL = "postgresql+psycopg://reader:hunter2@db.example/shop"
ONE = f"backends:\n- name: shop\n  result_backend: {URL}\n"
#: What is wrong, the file (None: there is none), and what is said about it.
BAD_FILES = {
    "missing file": (None, ": cannot be read: No such file or directory"),
    "YAML syntax": (
        "backends: [",
        ":2: YAML syntax, column 1: did not find expected node content",
    ),
    "unknown key": (
        ONE + "  pol_interval: 5s\n",
        ":4: backends[0].pol_interval: is no known key; did you mean poll_interval?",
    ),
    "wrong type": (
        ONE + "  series_limit: many\n",
        ":4: backends[0].series_limit: 'many' is not a whole number",
    ),
    "bad duration": (
        ONE + "  poll_interval: 5 parsecs\n",
        ":4: backends[0].poll_interval: '5 parsecs' is not a duration; write it like 15s or 5m",
    ),
    "duplicate backend name": (
        ONE + ONE.removeprefix("backends:\n"),
        ":4: backends[1].name: 'shop' is the name of backends[0] already; each needs its own",
    ),
    "unset variable": (
        ONE.replace("hunter2", "${SHOP_PASSWORD}"),
        ":3: backends[0].result_backend: variable SHOP_PASSWORD is not set",
    ),
    "unknown dialect": (
        ONE.replace("postgresql+psycopg", "mysq"),
        ":3: backends[0].result_backend: unknown dialect 'mysq'; did you mean 'mysql'?",
    ),
}
#: By the module that is missing: the dialect that needs it, and what is said about it.
DRIVERS = {
    "psycopg": (
        "postgresql+psycopg",
        "driver 'psycopg' is not installed: pip install 'celery-results-exporter[postgresql]'",
    ),
    "MySQLdb": (
        "mysql",
        "pip install 'celery-results-exporter[mysqlclient]', or write mysql+pymysql://",
    ),
    "psycopg2": (
        "postgresql+psycopg2",
        "pip install psycopg2-binary, or write postgresql+psycopg://",
    ),
}
#: A task table by somebody else.
FOREIGN = "CREATE TABLE celery_taskmeta ({})"


def record(what: str, line: str) -> None:
    assert "hunter2" not in line
    log.info("| %s | `%s` |", what, line)


# --- at start: exit code 2 ----------------------------------------------------------------------


@pytest.mark.parametrize("what", BAD_FILES)
def test_bad_file(what: str, tmp_path: Path) -> None:
    content, expected = BAD_FILES[what]
    config = tmp_path / "config.yaml"
    if content is not None:
        config.write_text(content)
    line = refusal(f"--config.file={config}").replace(f"{tmp_path}/", "")
    record(what, line)
    assert f"celery-results-exporter: error: config.yaml{expected}" in line


@pytest.mark.parametrize("module", DRIVERS)
def test_missing_driver(module: str, tmp_path: Path) -> None:
    """Python finds the driver's name first in a folder where it is not to be had."""
    dialect, expected = DRIVERS[module]
    (tmp_path / f"{module}.py").write_text(
        f"raise ModuleNotFoundError('not to be had', name={module!r})\n"
    )
    url = URL.replace("postgresql+psycopg", dialect)
    line = refusal(CELERY_RESULT_BACKEND=url, PYTHONPATH=str(tmp_path))
    record(f"missing driver: {dialect}://", line)
    assert expected in line


def test_port_in_use(tmp_path: Path) -> None:
    with socket.create_server((HOST, 0)) as taken:
        address = f"{HOST}:{taken.getsockname()[1]}"
        line = refusal(
            f"--celery.result-backend=sqlite:///{tmp_path}/x.sqlite",
            f"--web.listen-address={address}",
        )
    record("port in use", line.replace(address, f"{HOST}:10224"))
    assert f"--web.listen-address: cannot listen on {address}: address already in use" in line


# --- while running: said, shown, tried again ----------------------------------------------------


def assert_down(exporter: Exporter, what: str, reason: str, *parts: str) -> None:
    """The log says why, with these parts; the metrics say it, too."""
    line = exporter.wait_for_log("poll failed", f"reason={reason}", *parts)
    record(what, re.sub(r"^time=\S+ ", "", line))
    exporter.wait_for("celery_backend_up", 0)
    reasons = exporter.scrape().sums("celery_backend_poll_errors_total", "reason")
    assert reasons.keys() == {(reason,)}


def assert_up(exporter: Exporter, results: int) -> None:
    """It found back by itself, and has counted what there is."""
    exporter.wait_for("celery_backend_up", 1)
    exporter.wait_for("celery_task_results_total", results, state="SUCCESS")


def fill(engine: Engine, rows: int = 3) -> None:
    with engine.begin() as connection:
        for _ in range(rows):
            insert(connection)


def product(database: Database) -> str:
    return f"{database.owner.get_backend_name()}, {database.owner.get_driver_name()}"


@ON_SERVERS
def test_wrong_password(database: Database, tmp_path: Path) -> None:
    password = tmp_path / "password"
    password.write_text("hunter2")
    fill(create_tables(database))
    config = one_backend(
        without_password(database.reader),
        password_file="password",  # noqa: S106 - the name of a file
    )
    with running(tmp_path, config) as exporter:
        parts = {
            "postgresql": ('password authentication failed for user \\"reader\\"',),
            "mysql": ("Access denied for user 'reader'@'127.0.0.1' (using password: YES) (1045)",),
        }[database.owner.get_backend_name()]
        assert_down(exporter, f"wrong password ({product(database)})", "connect", *parts)
        password.write_text(READER_PASSWORD)
        assert_up(exporter, 3)


@ON_SERVERS
def test_unknown_host(database: Database, tmp_path: Path) -> None:
    url = database.reader.set(host="db.invalid").render_as_string(hide_password=False)
    with running(tmp_path, one_backend(url), RES_OPTIONS="attempts:1 timeout:1") as exporter:
        what = f"unknown host ({product(database)})"
        assert_down(exporter, what, "connect", "db.invalid")
        assert exporter.logged("poll failed", "not known") or exporter.logged("Unknown server host")


@ON_SERVERS
def test_unknown_database(database: Database, tmp_path: Path) -> None:
    assert isinstance(database.server, DatabaseServer)
    name = str(database.owner.database)
    database.server.drop(name)
    with running(tmp_path, one_backend(database.reader_url)) as exporter:
        parts = {
            "postgresql": (f'database \\"{name}\\" does not exist',),
            "mysql": (f"Access denied for user 'reader'@'%' to database '{name}' (1044)",),
        }[database.owner.get_backend_name()]
        assert_down(exporter, f"unknown database ({product(database)})", "connect", *parts)
        database.server.create(name)
        fill(create_tables(database))
        assert_up(exporter, 3)


@pytest.mark.parametrize("database", ["postgresql", "mariadb-pymysql"], indirect=True)
def test_connection_refused(database: Database, tmp_path: Path) -> None:
    """Down before the start, back, down again, back: with longer and longer pauses."""
    assert database.server is not None
    fill(create_tables(database))
    database.server.stop()
    with running(tmp_path, one_backend(database.reader_url)) as exporter:
        assert_down(exporter, f"no server ({product(database)})", "connect", "refused")
        exporter.wait_until(lambda: len(failures(exporter)) >= 4, "four attempts")
        pauses = [(late - soon).total_seconds() for soon, late in pairwise(failures(exporter))]
        # 0.1, 0.2, 0.4 s, with jitter; a busy machine only makes them longer.
        assert all(pause > 0.09 * 2**n for n, pause in enumerate(pauses)), pauses
        database.server.start()
        assert_up(exporter, 3)
        database.server.stop()
        exporter.wait_for("celery_backend_up", 0)
        database.server.start()
        fill(database.engine(), 2)
        assert_up(exporter, 5)


def failures(exporter: Exporter) -> list[datetime]:
    """Return when polls failed."""
    return [
        datetime.fromisoformat(line.split()[0].removeprefix("time="))
        for line in exporter.logs()
        if "poll failed" in line
    ]


@ON_SERVERS
def test_no_right_to_read(database: Database, tmp_path: Path) -> None:
    assert isinstance(database.server, DatabaseServer)
    fill(create_tables(database))
    name = str(database.owner.database)
    reader, grant = {
        "postgresql": ("reader", "GRANT SELECT ON celery_taskmeta TO reader"),
        "mysql": ("reader@'%'", f"GRANT SELECT ON {name}.celery_taskmeta TO reader@'%'"),
    }[database.owner.get_backend_name()]
    if reader == "reader":
        database.server.execute("REVOKE SELECT ON celery_taskmeta FROM reader", database=name)
    else:
        database.server.execute(
            f"REVOKE SELECT ON {name}.* FROM {reader}",
            f"GRANT SELECT ON {name}.celery_tasksetmeta TO {reader}",
        )
    with running(tmp_path, one_backend(database.reader_url)) as exporter:
        what = f"no SELECT right ({product(database)})"
        assert_down(exporter, what, "permission", "celery_taskmeta")
        database.server.execute(grant, database=name)
        assert_up(exporter, 3)
    if reader != "reader":  # the fixture takes back what it gave
        database.server.execute(f"GRANT SELECT ON {name}.* TO {reader}")


def test_table_that_is_not_celery_s(database: Database, tmp_path: Path) -> None:
    execute(database, FOREIGN.format("number INTEGER, status VARCHAR(50)"))
    with running(tmp_path, one_backend(database.reader_url)) as exporter:
        advice = "it is not a result table of Celery; check database_table_names.task"
        what = f"table without {{}} ({product(database)})"
        no_id = "table 'celery_taskmeta' has no column 'id': " + advice
        assert_down(exporter, what.format("id"), "schema", no_id)
        execute(
            database,
            "DROP TABLE celery_taskmeta",
            FOREIGN.format("id INTEGER PRIMARY KEY, state INTEGER"),
        )
        no_status = "table 'celery_taskmeta' has no column 'status': " + advice
        assert_down(exporter, what.format("status"), "schema", no_status)
        execute(database, "DROP TABLE celery_taskmeta")
        fill(create_tables(database))
        assert_up(exporter, 3)


def execute(database: Database, *statements: str) -> None:
    with database.engine().begin() as connection:
        for statement in statements:
            connection.execute(text(statement))


def test_tables_that_are_not_there_yet(database: Database, tmp_path: Path) -> None:
    """It waits; what comes with them is counted from the first row."""
    config = one_backend(database.reader_url, start="end")
    with running(tmp_path, config) as exporter:
        if database.server is None:
            path = database.reader.database
            waiting = f"the database file {path} does not exist yet; waiting for Celery to create"
            assert_down(exporter, "SQLite file missing", "connect", waiting)
        else:
            line = exporter.wait_for_log("table does not exist yet; waiting for Celery to create")
            assert "level=info" in line
            record("tables missing", re.sub(r"^time=\S+ ", "", line))
            exporter.poll_again()
            scrape = exporter.scrape()
            assert scrape.value("celery_backend_up") == 1
            assert scrape.value("celery_backend_capability", capability="table_task") == 0
        engine = database.engine()
        with engine.begin() as connection:
            create_with_rows(connection)
        assert_up(exporter, 3)


def create_with_rows(connection: Connection) -> None:
    """Create the tables and the first rows at once, so that there is no time between to look."""
    ResultModelBase.metadata.create_all(connection)
    for _ in range(3):
        insert(connection)


def test_table_that_is_locked(database: Database, tmp_path: Path) -> None:
    fill(create_tables(database))
    with running(tmp_path, one_backend(database.reader_url, query_timeout="400ms")) as exporter:
        assert_up(exporter, 3)
        with database.engine().connect() as connection:
            raw = connection.connection.driver_connection
            assert raw is not None
            lock = {
                "sqlite": "BEGIN EXCLUSIVE",
                "postgresql": "LOCK TABLE celery_taskmeta IN ACCESS EXCLUSIVE MODE",
                "mysql": "LOCK TABLES celery_taskmeta WRITE",
            }[database.owner.get_backend_name()]
            connection.exec_driver_sql(lock)
            what = f"locked table ({product(database)})"
            assert_down(exporter, what, "timeout")
        assert_up(exporter, 3)


def test_file_that_is_no_database(tmp_path: Path) -> None:
    with SQLite(tmp_path).fresh_database() as database:
        file = Path(str(database.owner.database))
        file.write_text("This is a text.\n" * 100)
        with running(tmp_path, one_backend(database.reader_url)) as exporter:
            assert_down(exporter, "no SQLite file", "connect", "file is not a database")
            file.unlink()
            fill(create_tables(database))
            assert_up(exporter, 3)
