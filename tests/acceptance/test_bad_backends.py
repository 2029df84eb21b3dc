"""Backends that cannot be read, each beside one that can, which goes on undisturbed.

Every command says in one line what is wrong with each of them. To add one, add a row to ROWS, or
to REFUSED where its URL alone tells, before anything connects.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from datetime import datetime
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import pytest

from tests.acceptance.process import FAST, run, running, write
from tests.follow import create_tables, insert
from tests.scrape import Scrape
from tests.servers.database import READER_PASSWORD, Database, SQLite

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.servers.database import DatabaseServer
    from tests.servers.mariadb import MariaDB
    from tests.servers.postgresql import PostgreSQL

HEALTHY = "healthy"


@dataclass(frozen=True)
class Places:
    """Where the backends of the table are made."""

    postgresql: PostgreSQL
    mariadb: MariaDB
    folder: Path
    closing: contextlib.ExitStack

    def fresh(self, server: DatabaseServer | SQLite, **driver: str) -> Database:
        """Make an empty database."""
        return self.closing.enter_context(server.fresh_database(**driver))


@dataclass(frozen=True)
class Row:
    """One backend."""

    settings: Callable[[Places], dict[str, Any]]  # its keys, without its name
    says: str  # part of the line about it
    reason: str = "connect"
    unexpected: bool = False  # by nobody: the log has its traceback, once


def arguments(driver: str, **connect_args: Any) -> Callable[[Places], dict[str, Any]]:
    """Return a backend with these arguments for its driver."""

    def settings(places: Places) -> dict[str, Any]:
        if driver == "sqlite":
            database = places.fresh(SQLite(places.folder))
            create_tables(database)
        else:
            server = places.postgresql if driver.startswith("postgresql") else places.mariadb
            database = places.fresh(server, driver=driver)
        return {
            "result_backend": database.reader_url,
            "database_engine_options": {"connect_args": connect_args},
        }

    return settings


def of_another_type(column: str, declared: str) -> Callable[[Places], dict[str, Any]]:
    """Return a backend with a column that cannot be read as what Celery has there."""

    def settings(places: Places) -> dict[str, Any]:
        database = places.fresh(places.postgresql)
        with create_tables(database).begin() as connection:
            for change in (f"DROP COLUMN {column}", f"ADD COLUMN {column} {declared}"):
                connection.exec_driver_sql(f"ALTER TABLE celery_taskmeta {change}")
        return {"result_backend": database.reader_url}

    return settings


def ed25519(places: Places) -> dict[str, Any]:
    """Return an account that MariaDB lets in by the plugin `ed25519`."""
    return {"result_backend": account_by_ed25519(places.mariadb)}


def account_by_ed25519(server: MariaDB) -> str:
    server.execute(
        "INSTALL SONAME 'auth_ed25519'",
        "CREATE OR REPLACE USER signer@'%' IDENTIFIED VIA ed25519 "
        f"USING PASSWORD('{READER_PASSWORD}')",
    )
    url = server.url("information_schema", "signer", READER_PASSWORD)
    return url.render_as_string(hide_password=False)


NO_ARGUMENT = "takes no argument 'conect_timeout'; check connect_args, and what follows '?'"
ROWS = {
    **{
        f"misspelt argument, {driver}": Row(arguments(driver, conect_timeout=5), NO_ARGUMENT)
        for driver in (
            "sqlite",
            "postgresql+psycopg",
            "postgresql+psycopg2",
            "mysql+pymysql",
            "mysql+mysqldb",
        )
    },
    "unknown character set": Row(
        arguments("mysql+pymysql", charset="nonsense"),
        "AttributeError: 'NoneType' object has no attribute 'encoding'; check connect_args",
        unexpected=True,
    ),
    "ed25519 without its package": Row(
        ed25519,
        "'pynacl' package is required for ed25519_password auth method: "
        "pip install 'celery-results-exporter[ed25519]'",
    ),
    **{
        f"{name} of another type": Row(
            of_another_type(name, declared), f"column {name!r} holds {declared}, where", "schema"
        )
        for name, declared in (("id", "TEXT"), ("status", "BYTEA"), ("date_done", "DATE"))
    },
}
UNEXPECTED = sum(row.unexpected for row in ROWS.values())
every_row = pytest.mark.parametrize("what", ROWS)


#: URLs that end the program at its start, with exit code 2.
REFUSED = {
    "sqlite:///file:/results.db?mode=ro": "write the path alone: sqlite:////absolute.db",
    "sqlite:///file:/results.db?mode=rx&uri=true": "mode= after the '?' is none of ro, rw, rwc",
    "sqlite:///file:/results.db?immutable=1&uri=true": "new results would never be seen; remove it",
    "pgsql://h/d": "unknown dialect 'pgsql'; did you mean 'postgresql'?",
    "sqla+sqlite:///results.db": "that of a result backend begins with 'db+'",
    "mysql+cymysql://h/d": "never tried with this exporter; write mysql+pymysql://",
    "postgresql+asyncpg://h/d": "is asynchronous; write postgresql+psycopg://",
    "mysql+pymysql://u:${HALF_A_URL}": "give user, password, host and port variables of their own, "
    "or the whole URL one",
    "sqlite:///results.db?mod=ro": "'mod' after the '?' is no parameter of SQLite; remove it",
}


@dataclass(frozen=True)
class Said:
    """What a command said, and how it ended."""

    code: int
    out: str
    err: str

    def lines_about(self, what: str) -> list[str]:
        """Return the lines that name this backend, or stand below its name."""
        lines, about = [], False
        for line in (self.out + self.err).splitlines():
            about = what in line or (about and line.startswith("  "))
            lines += [line] if about and not line.startswith(("#", "celery_")) else []
        return lines


@pytest.fixture(scope="module")
def said(
    postgresql: PostgreSQL, mariadb: MariaDB, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, Said]]:
    """Run each command once, over all rows and the healthy one."""
    folder = tmp_path_factory.mktemp("bad")
    hidden = folder / "hidden"
    hidden.mkdir()
    (hidden / "nacl.py").write_text("raise ModuleNotFoundError('not to be had', name='nacl')\n")
    with contextlib.ExitStack() as closing:
        places = Places(postgresql, mariadb, folder, closing)
        healthy = places.fresh(SQLite(folder))
        fill(healthy)
        backends = [{"name": HEALTHY, "result_backend": healthy.reader_url}]
        backends += [{"name": what} | row.settings(places) for what, row in ROWS.items()]
        config = {
            "checkpoint": {"path": "checkpoint.sqlite"},
            "defaults": FAST,
            "backends": backends,
        }
        file = write(folder, config)
        results = {}
        for command in ("once", "verify", "check"):
            ended = run(command, f"--config.file={file}", PYTHONPATH=str(hidden))
            results[command] = Said(ended.returncode, ended.stdout, ended.stderr)
        with running(folder, config, tracebacks=UNEXPECTED, PYTHONPATH=str(hidden)) as exporter:
            fill(healthy)
            exporter.wait_for("celery_task_results_total", 6, backend=HEALTHY, state="SUCCESS")
            exporter.wait_until(
                lambda: all(n > 3 for n in exporter.polls().values()), "four polls of each"
            )
            metrics = exporter.get("/metrics", "text/plain").body
        results["run"] = Said(0, metrics, "\n".join(exporter.logs()))
        yield results


def fill(database: Database) -> None:
    with create_tables(database).begin() as connection:
        for _ in range(3):
            insert(connection)


@every_row
def test_check(said: dict[str, Said], what: str) -> None:
    verdict, line = said["check"].lines_about(f"backend {what}:")
    assert verdict == f"backend {what}: FAILED"
    assert line.startswith(f"  error: {ROWS[what].reason}: ")
    assert ROWS[what].says in line


@every_row
def test_verify(said: dict[str, Said], what: str) -> None:
    (line,) = said["verify"].lines_about(f"backend {what}:")
    assert line.startswith(f"backend {what}: error: {ROWS[what].reason}: ")
    assert ROWS[what].says in line


@every_row
@pytest.mark.parametrize("command", ["once", "run"])
def test_polls(said: dict[str, Said], command: str, what: str) -> None:
    """The log has it, `run` each time it tries again; the metrics show it."""
    about = [line for line in said[command].err.splitlines() if f'backend="{what}"' in line]
    lines = [line for line in about if "level=info" not in line]
    assert len(lines) == 1 if command == "once" else len(lines) > 1
    for line in lines:
        assert "poll failed" in line
        assert f"reason={ROWS[what].reason}" in line
        assert ROWS[what].says in line
    moments = [datetime.fromisoformat(line.split()[0].removeprefix("time=")) for line in lines]
    pauses = [(late - soon).total_seconds() for soon, late in pairwise(moments)]
    # 0.1, 0.2, 0.4 s, with jitter; a busy machine only makes them longer.
    assert all(pause > 0.09 * 2**n for n, pause in enumerate(pauses[:3])), pauses
    tracebacks = ["Traceback" in line for line in lines]
    assert tracebacks == [ROWS[what].unexpected, *[False] * (len(lines) - 1)]
    scrape = Scrape(said[command].out)
    assert scrape.value("celery_backend_up", backend=what) == 0
    errors = scrape.value(
        "celery_backend_poll_errors_total", backend=what, reason=ROWS[what].reason
    )
    assert errors == scrape.value("celery_backend_polls_total", backend=what)


@pytest.mark.parametrize(
    ("command", "line"),
    [
        ("check", f"backend {HEALTHY}: ok"),
        ("verify", f"backend {HEALTHY}: 3 present, 3 counted, 0 missing"),
    ],
)
def test_healthy_one_is_looked_at(said: dict[str, Said], command: str, line: str) -> None:
    assert line in said[command].out.splitlines()
    assert said[command].code == 1
    assert "Traceback" not in said[command].out + said[command].err


@pytest.mark.parametrize(("command", "code", "results"), [("once", 1, 3), ("run", 0, 6)])
def test_healthy_one_is_counted(
    said: dict[str, Said], command: str, code: int, results: int
) -> None:
    scrape = Scrape(said[command].out)
    assert scrape.value("celery_backend_up", backend=HEALTHY) == 1
    counted = scrape.sums("celery_task_results_total", "backend", "state")
    assert counted == {(HEALTHY, "SUCCESS"): results}
    assert said[command].code == code


@pytest.mark.parametrize("command", ["check", "once", "verify", "run"])
def test_refused_at_start(command: str, tmp_path: Path) -> None:
    """All of them at once, a line each; nothing is read, not even the healthy one."""
    backends = [{"name": HEALTHY, "result_backend": f"sqlite:///{tmp_path}/x.db"}]
    backends += [{"name": f"bad {n}", "result_backend": u} for n, u in enumerate(REFUSED)]
    config = write(tmp_path, {"backends": backends})
    ended = run(command, f"--config.file={config}", HALF_A_URL="hunter2@h/d")
    assert "hunter2" not in ended.stderr
    assert (ended.returncode, ended.stdout) == (2, "")
    for number, (line, says) in enumerate(
        zip(ended.stderr.splitlines(), REFUSED.values(), strict=True), start=1
    ):
        assert f": backends[{number}].result_backend: " in line
        assert line.endswith(says)
