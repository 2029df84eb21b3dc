"""The exporter as a process: starting, stopping, and the commands that run to their end."""

from __future__ import annotations

import contextlib
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

import pytest
from sqlalchemy import make_url, select, text
from sqlalchemy.exc import DBAPIError

from exporter.checkpoint.checkpoint import Checkpoint
from exporter.checkpoint.ownfile import OwnFile
from exporter.checkpoint.schema import META
from exporter.runtime.polling import TOGETHER
from tests.acceptance.process import (
    FAST,
    Exporter,
    beginning,
    one_backend,
    run,
    running,
    write,
)
from tests.checkpoint.older import copy, written
from tests.follow import create_tables, insert, restored, update
from tests.scrape import Scrape
from tests.servers.database import Database, SQLite
from tests.servers.process import HOST

if TYPE_CHECKING:
    from collections.abc import Iterator

WRITER = Path(__file__).with_name("writer.py")
DRIVERS = ("postgresql+psycopg", "mysql+pymysql", "mysql+mysqldb")
RESULTS = "celery_task_results_total"
ROWS = 200_000
#: Rows that finished just now, so that each one is watched: a slow catch-up.
FILL = f"""
INSERT INTO celery_taskmeta (task_id, status, date_done, name, worker, queue, retries)
WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {ROWS})
SELECT 'task-' || i, 'FAILURE', datetime('now'), 'app.add', 'w1@host', 'celery', 0 FROM n
"""


@pytest.fixture
def sqlite(tmp_path: Path) -> Iterator[Database]:
    """Give a database with one result."""
    with SQLite(tmp_path).fresh_database() as database:
        with create_tables(database).begin() as connection:
            insert(connection)
        yield database


# --- starting and stopping ----------------------------------------------------------------------


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT])
def test_ends_well(sqlite: Database, how: signal.Signals, tmp_path: Path) -> None:
    with running(tmp_path, one_backend(sqlite.reader_url)) as exporter:
        exporter.wait_for(RESULTS, 1, state="SUCCESS")
        exporter.stop(how)
        assert "msg=stopped" in exporter.logs()[-1]


def test_signal_reaches_the_thread_that_waits_for_it(sqlite: Database, tmp_path: Path) -> None:
    """Any thread that does not block a signal may be given it, and the main one sleeps on."""
    with running(tmp_path, one_backend(sqlite.reader_url)) as exporter:
        exporter.wait_for(RESULTS, 1, state="SUCCESS")
        threads = Path(f"/proc/{exporter.pid}/task")
        for how in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            willing = [int(thread.name) for thread in threads.iterdir() if not blocks(thread, how)]
            assert willing == [exporter.pid]


def blocks(thread: Path, how: signal.Signals) -> bool:
    """Look into the thread's signal mask."""
    (mask,) = re.findall(r"^SigBlk:\s(\S+)$", (thread / "status").read_text(), re.MULTILINE)
    return bool(int(mask, 16) >> (how - 1) & 1)


def test_ends_well_during_a_catch_up(sqlite: Database, tmp_path: Path) -> None:
    with sqlite.engine().begin() as connection:
        connection.execute(text(FILL))
    with running(tmp_path, one_backend(sqlite.reader_url)) as exporter:

        def backlog() -> float:
            return exporter.scrape().value("celery_backend_backlog_ids", table="task") or 0

        exporter.wait_until(backlog, "a backlog")
        assert exporter.scrape().sums(RESULTS) == {}  # served at once, in the end
        exporter.stop()


@pytest.mark.parametrize("when", ["migrating", "restoring"])
def test_ends_at_once_while_a_large_checkpoint_is_opened(
    sqlite: Database, tmp_path: Path, when: str
) -> None:
    """As after a kill: the file is whole, and free."""
    rows = {"migrating": 50_000, "restoring": 100_000}[when]  # enough to be met at it
    path = written(tmp_path / "checkpoint.sqlite", 1, more_watched=rows)
    log = path.with_name(f"{path.name}-wal")
    config = one_backend(sqlite.reader_url) | {"checkpoint": {"path": str(path)}}
    config["backends"][0]["name"] = "celery"
    with beginning(tmp_path, config) as exporter:
        if when == "migrating":
            exporter.wait_until(lambda: log.exists() and log.stat().st_size > 10**6, "it migrates")
        else:
            exporter.wait_for_log("brought to this version", timeout=120)
        exporter.send(signal.SIGTERM)
        assert exporter.ended() == 128 + signal.SIGTERM
        assert not exporter.logged("listening")
    store = OwnFile(path)
    checkpoint = Checkpoint(store)
    checkpoint.open()
    with store.transaction() as connection:
        assert connection.execute(text("PRAGMA integrity_check")).scalars().all() == ["ok"]
    positions, _ = restored(checkpoint, "celery")
    assert len(positions["task"].watched) == rows + 5
    checkpoint.close()


@pytest.mark.parametrize("database", ["postgresql", "mariadb-pymysql"], indirect=True)
def test_ends_well_while_a_large_checkpoint_in_a_database_is_migrated(
    database: Database, sqlite: Database, tmp_path: Path
) -> None:
    """Nothing of it is done."""
    copy(written(tmp_path / "old.sqlite", 1, more_watched=50_000), database.engine())
    url = database.owner.render_as_string(hide_password=False)
    config = one_backend(sqlite.reader_url) | {"checkpoint": {"url": url}}

    def begun() -> bool:
        """Whether the version is locked."""
        version = select(META.c.value).with_for_update(nowait=True)
        with database.engine().connect() as connection:
            try:
                connection.execute(version)
            except DBAPIError:
                return True
        return False

    with running(tmp_path, config) as exporter:
        exporter.wait_until(begun, "it has begun")
        time.sleep(0.2)
        exporter.stop()
        assert not exporter.logged("brought to this version")
    with database.engine().connect() as connection:
        assert connection.execute(select(META.c.value)).scalar_one() == "1"


@contextlib.contextmanager
def silent_server() -> Iterator[socket.socket]:
    """Run a server that accepts connections, the kernel does it, and never answers."""
    with socket.create_server((HOST, 0)) as server:
        server.settimeout(10)
        yield server


def test_silence_of_some_backends_is_no_trouble_to_another(
    sqlite: Database, tmp_path: Path
) -> None:
    """Not even at the end: what hangs in a driver is left behind, and so is a deaf client."""
    with contextlib.ExitStack() as stack:
        silent = {driver: stack.enter_context(silent_server()) for driver in DRIVERS}
        ports = {driver: server.getsockname()[1] for driver, server in silent.items()}
        silence = [
            {"name": driver, "result_backend": f"{driver}://u:p@{HOST}:{port}/d"}
            for driver, port in ports.items()
        ]
        config = {
            "defaults": FAST | {"connect_timeout": "60s", "query_timeout": "60s"},
            "backends": [*silence, {"name": "shop", "result_backend": sqlite.reader_url}],
        }
        with running(tmp_path, config) as exporter:
            for server in silent.values():
                stack.enter_context(server.accept()[0])  # so it is waiting now
            exporter.wait_for(RESULTS, 1, state="SUCCESS", backend="shop")
            with sqlite.engine().begin() as connection:
                insert(connection)
            exporter.wait_for(RESULTS, 2, state="SUCCESS", backend="shop")
            ready = exporter.get("/-/ready")
            assert ready.status == 503
            assert ready.body == f"not ready: not tried yet: {', '.join(DRIVERS)}\n"
            stack.enter_context(deaf_client(exporter))
            exporter.stop()


@contextlib.contextmanager
def deaf_client(exporter: Exporter) -> Iterator[None]:
    """Ask for the metrics without ever taking an answer, until nothing can be sent any more."""
    host, port = exporter.address.split(":")
    with socket.create_connection((host, int(port)), timeout=0.5) as client:
        with contextlib.suppress(TimeoutError):
            client.sendall(b"GET /metrics HTTP/1.1\r\nHost: exporter\r\n\r\n" * 200_000)
            pytest.fail("its answers have all been sent")
        yield


def test_locked_table_does_not_keep_it_from_ending(sqlite: Database, tmp_path: Path) -> None:
    config = one_backend(sqlite.reader_url, query_timeout="60s")
    with running(tmp_path, config) as exporter, sqlite.engine().connect() as connection:
        exporter.wait_for(RESULTS, 1, state="SUCCESS")
        connection.exec_driver_sql("BEGIN EXCLUSIVE")
        exporter.wait_until(lambda: hangs(exporter), "a poll that hangs")
        exporter.stop()


def test_many_backends_are_all_up_soon_and_end_in_time(tmp_path: Path) -> None:
    """And what names them names a few."""
    number = 300
    with silent_server() as server:
        silent = f"mysql+pymysql://u:p@{HOST}:{server.getsockname()[1]}/d"
        urls = [silent] * 20 + [f"sqlite:///{tmp_path}/{n}.sqlite" for n in range(number)]
        for n in range(number):
            shutil.copy(create_empty(tmp_path), tmp_path / f"{n}.sqlite")
        backends = [{"name": f"shop-{n}", "result_backend": url} for n, url in enumerate(urls)]
        patient = {"connect_timeout": "60s", "query_timeout": "60s"}
        config = {"defaults": patient, "backends": backends}
        with running(tmp_path, config) as exporter:
            exporter.wait_until(lambda: up(exporter) == number, "all that answer are up")
            ready = exporter.get("/-/ready").body
            assert ready.endswith("shop-9 and 10 more\n")
            threads = [*Path(f"/proc/{exporter.pid}/task").iterdir()]
            assert len(threads) < 40  # some for those that hang, and few for all others
            exporter.stop()


def test_polls_are_spread_over_the_interval_some_together(tmp_path: Path) -> None:
    """Each by itself, every scrape would find news of one, and join what all have."""
    number, interval = 3 * TOGETHER, 3.0
    backends = [
        {"name": str(n), "result_backend": f"sqlite:///{create_empty(tmp_path)}"}
        for n in range(number)
    ]
    config = {"defaults": {"poll_interval": f"{interval:g}s"}, "backends": backends}
    with running(tmp_path, config) as exporter:
        exporter.wait_until(lambda: up(exporter) == number, "all are up")
        exporter.poll_again()
        scrape = exporter.scrape()
    polled = [
        scrape.value("celery_backend_last_poll_timestamp_seconds", backend=str(n))
        for n in range(number)
    ]
    phases = [
        median((moment or 0.0) % interval for moment in polled[first : first + TOGETHER])
        for first in range(0, number, TOGETHER)
    ]
    apart = [(later - phases[0]) % interval for later in phases[1:]]
    assert apart == pytest.approx([1.0, 2.0], abs=0.4)


def create_empty(folder: Path) -> Path:
    """Make a database with Celery's tables and nothing in them."""
    path = folder / "empty.sqlite"
    if not path.exists():
        url = make_url(f"sqlite:///{path}")
        create_tables(Database(url, url))
    return path


def up(exporter: Exporter) -> int:
    return sum(exporter.scrape().sums("celery_backend_up", "backend").values())


def hangs(exporter: Exporter) -> bool:
    """Tell whether several polls' time goes by without one."""
    before = exporter.polls()
    time.sleep(0.5)
    return exporter.polls() == before


def test_ready_once_each_backend_was_tried(tmp_path: Path) -> None:
    """Healthy all the while: no restart of the exporter mends a database."""
    with silent_server() as server:
        port = server.getsockname()[1]
        config = one_backend(f"mysql+pymysql://u:p@{HOST}:{port}/d")
        with running(tmp_path, config) as exporter:
            connection, _ = server.accept()
            server.close()
            before = exporter.get("/-/ready")
            assert (before.status, before.body) == (503, "not ready: not tried yet: shop\n")
            assert exporter.get("/-/healthy").status == 200
            connection.close()
            exporter.wait_for("celery_backend_up", 0)
            assert exporter.get("/-/ready").status == 200
            assert exporter.get("/-/healthy").status == 200


@pytest.mark.parametrize("place", ["path", "url"])
def test_first_scrape_shows_what_the_checkpoint_has_kept(
    sqlite: Database, tmp_path: Path, place: str
) -> None:
    """However long the first poll takes: a gap would hide an outage, or look like one."""
    with sqlite.engine().begin() as connection:
        insert(connection, "STARTED")
    kept = tmp_path / "checkpoint.sqlite"
    config = one_backend(sqlite.reader_url, query_timeout="60s")
    config["checkpoint"] = {place: str(kept) if place == "path" else f"sqlite:///{kept}"}
    with running(tmp_path, config) as exporter:
        exporter.wait_for(RESULTS, 1, state="SUCCESS")
    with sqlite.engine().connect() as connection:
        connection.exec_driver_sql("BEGIN EXCLUSIVE")
        with running(tmp_path, config) as exporter:
            if place == "url":
                exporter.wait_for("celery_results_exporter_leader", 1)
                exporter.wait_until(lambda: exporter.scrape().sums(RESULTS), "what was kept")
            scrape = exporter.scrape()
            assert scrape.value(RESULTS, state="SUCCESS") == 1
            assert scrape.value("celery_task_unfinished", state="STARTED") == 1
            assert scrape.value("celery_backend_polls_total") in {0, 1}
            assert scrape.value("celery_backend_up") is None  # nobody knows yet
            connection.rollback()
            exporter.wait_for("celery_backend_up", 1)
            assert exporter.scrape().value(RESULTS, state="SUCCESS") == 1


# --- commands -----------------------------------------------------------------------------------


def test_once_prints_the_metrics(sqlite: Database, tmp_path: Path) -> None:
    """Exit code 1 where a backend could not be read; what could be is printed all the same."""
    config = one_backend(sqlite.reader_url)
    good = run("once", f"--config.file={write(tmp_path, config)}")
    assert (good.returncode, good.stderr) == (0, "")
    assert Scrape(good.stdout).value(RESULTS, state="SUCCESS") == 1

    config["backends"].append({"name": "mail", "result_backend": "sqlite:////nowhere/x.sqlite"})
    bad = run("once", f"--config.file={write(tmp_path, config)}")
    assert bad.returncode == 1
    assert (
        'backend=mail reason=connect error="the database file /nowhere/x.sqlite does not exist'
        in bad.stderr
    )
    printed = Scrape(bad.stdout)
    assert printed.value(RESULTS, state="SUCCESS", backend="shop") == 1
    assert printed.value("celery_backend_up", backend="mail") == 0


def test_once_counts_what_may_get_its_name_later(sqlite: Database, tmp_path: Path) -> None:
    """There is no later poll to wait for; where there is, a name that has come is a revision."""
    nameless = {"name": None, "worker": None, "queue": None}
    with sqlite.engine().begin() as connection:
        row = insert(connection, "REVOKED", **nameless)
    config = one_backend(sqlite.reader_url) | {"checkpoint": {"path": "checkpoint.sqlite"}}
    command = ("once", f"--config.file={write(tmp_path, config)}")
    first = Scrape(run(*command).stdout)
    assert first.sums(RESULTS, "task", "state") == {
        ("app.add", "SUCCESS"): 1,
        ("", "REVOKED"): 1,
    }
    with sqlite.engine().begin() as connection:
        update(connection, row, "REVOKED", name="app.add", worker="w1@host", queue="celery")
    second = Scrape(run(*command).stdout)
    assert second.value(RESULTS, task="app.add", state="REVOKED") == 1
    assert second.value("celery_task_results_revised_total", task="") == 1
    assert run("verify", *command[1:]).returncode == 0


def test_check_describes_each_backend(database: Database, tmp_path: Path) -> None:
    with create_tables(database).begin() as connection:
        insert(connection)
    accounts = {"reader": database.reader_url, "owner": database.celery_url}
    backends = [{"name": name, "result_backend": url} for name, url in accounts.items()]
    done = run("check", f"--config.file={write(tmp_path, {'backends': backends})}")
    assert (done.returncode, done.stderr) == (0, "")
    of_reader, of_owner = done.stdout.removeprefix("backend reader: ").split("backend owner: ")
    product = {"sqlite": "SQLite", "postgresql": "PostgreSQL", "mysql": "MariaDB"}
    for lines in (of_reader, of_owner):
        assert lines.startswith("ok\n")
        found = dict(line.split(maxsplit=1) for line in lines.splitlines()[1:] if "  " in line)
        assert found["server"].startswith(product[database.owner.get_backend_name()])
    assert "read only" in of_reader
    assert "warning" not in of_reader
    if database.server is None:  # opened read-only, whatever the account
        assert "warning" not in of_owner
    else:
        assert "warning: this account can write to the task table and the group" in of_owner


def test_check_says_what_is_wrong(sqlite: Database, tmp_path: Path) -> None:
    backends = [
        {"name": "shop", "result_backend": sqlite.reader_url},
        {
            "name": "mail",
            "result_backend": sqlite.reader_url,
            "database_table_names": {"task": "elsewhere"},
        },
        {"name": "news", "result_backend": "sqlite:////nowhere/x.sqlite"},
    ]
    wrong = run("check", f"--config.file={write(tmp_path, {'backends': backends})}")
    assert wrong.returncode == 1
    assert "backend shop: ok\n" in wrong.stdout
    assert "backend mail: FAILED\n" in wrong.stdout
    assert "error: table 'elsewhere' does not exist yet, or this account may not" in wrong.stdout
    assert "check database_table_names.task\n" in wrong.stdout
    assert (
        "backend news: FAILED\n  error: connect: the database file /nowhere/x.sqlite does not ex"
        in wrong.stdout
    )

    unusable = run("check", f"--config.file={tmp_path}/nothing.yaml")
    assert (unusable.returncode, unusable.stdout) == (2, "")
    assert unusable.stderr.count("\n") == 1


# --- manners ------------------------------------------------------------------------------------


def test_writers_never_find_a_sqlite_file_locked(tmp_path: Path) -> None:
    """Celery's own backend writes 1,000 results, less patient than usual, while we read."""
    with SQLite(tmp_path).fresh_database() as database:
        create_tables(database)
        with running(tmp_path, one_backend(database.reader_url)) as exporter:
            written = subprocess.run(
                [sys.executable, WRITER, f"{database.celery_url}?timeout=1", "1", "1000"],
                capture_output=True,
                text=True,
                timeout=120,
                check=False,
            )
            assert (written.returncode, written.stdout, written.stderr) == (0, "", "")
            exporter.wait_until(
                lambda: exporter.scrape().sums(RESULTS)[()] == 1000, "1,000 results"
            )
            assert exporter.scrape().sums("celery_backend_poll_errors_total") == {}
