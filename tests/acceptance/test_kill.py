"""``kill -9`` at any moment, start again: the counters equal the table, and none ever went back."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from sqlalchemy import text

from exporter.checkpoint.checkpoint import open_file
from tests.acceptance.process import beginning, one_backend, run, running, write
from tests.acceptance.watchdog import Watchdog
from tests.checkpoint.older import written
from tests.follow import create_tables, insert, restored
from tests.servers.database import SQLite
from tests.soak.sizes import LONG
from tests.soak.written import CELERY, DJANGO

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.acceptance.process import Exporter
    from tests.scrape import Scrape
    from tests.servers.database import Database
    from tests.soak.written import Written

KILLS = int(os.environ.get("KILLS", "3"))
PAUSE = 0.0 if LONG else 0.05  # seconds after each result; see process.EVERY
MEASURES = {"retries_buckets": [0, 1], "payload_bytes": ["result", "args", "kwargs"]}
RESULTS = "celery_task_results_total"
LABELS = ("task", "state", "worker", "queue")
MANY = 5_000  # watched rows, so that to write them takes a while
ROOT = Path(__file__).parents[2]
#: Rows that finished just now, so that each one is watched.
FILL = f"""
INSERT INTO celery_taskmeta (task_id, status, date_done, name, worker, queue, retries)
WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {MANY})
SELECT 'task-' || i, 'FAILURE', datetime('now'), 'app.add', 'w1@host', 'celery', 0 FROM n
"""


@contextlib.contextmanager
def writers(database: Database, processes: int, *flags: str) -> Iterator[None]:
    """Let real Celery backends write all the while."""
    command = [sys.executable, "-m", "tests.acceptance.writer", database.celery_url]
    command += [str(processes), f"--pause={PAUSE}", *flags]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, cwd=ROOT) as child:
        assert child.stdin is not None
        assert child.stdout is not None
        assert child.stdout.readline() == b"writing\n"
        yield
        child.stdin.close()
        assert child.wait(60) == 0


def truth(database: Database) -> Counter[tuple[str, ...]]:
    """Count the finished rows of the table by all labels."""
    query = (
        "SELECT name, status, worker, queue, count(*) FROM celery_taskmeta"
        " WHERE status IN ('SUCCESS', 'FAILURE', 'REVOKED') GROUP BY name, status, worker, queue"
    )
    with database.engine().connect() as connection:
        return Counter({tuple(row[:4]): row[4] for row in connection.execute(text(query))})


def assert_all_counts(
    exporter: Exporter, database: Database, kept: Written = CELERY
) -> Counter[tuple[str, ...]]:
    """Wait for what nobody writes to any more to be counted, and insist that it stays so."""
    expected = kept.results(database)
    exporter.wait_until(
        lambda: exporter.scrape().sums(RESULTS, *LABELS) == expected,
        f"all {expected.total()} results count",
        timeout=30,
    )
    exporter.poll_again()
    assert exporter.scrape().sums(RESULTS, *LABELS) == expected
    return expected


def assert_all_are_measured(scrape: Scrape, database: Database, kept: Written) -> None:
    """Of each finished row how often it was retried, where there is a column, and its bytes."""
    stored = +kept.sizes(database)
    assert scrape.sums("celery_task_payload_bytes_total", "task", "part") == stored
    counted, retried = (
        scrape.sums(f"celery_task_{of}", "task") for of in ("results_total", "retries_total")
    )
    if kept is CELERY:
        assert scrape.sums("celery_task_result_retries_count", "task") == counted
    assert scrape.sums("celery_task_result_retries_sum", "task") == retried


@pytest.mark.timeout(1800)
@pytest.mark.parametrize(
    ("database", "kept"),
    [
        ("sqlite", CELERY),
        ("postgresql", CELERY),
        ("mariadb-pymysql", CELERY),
        ("postgresql", DJANGO),
    ],
    indirect=["database"],
    ids=lambda value: getattr(value, "name", value),
)
def test_kill_at_any_moment(database: Database, kept: Written, tmp_path: Path) -> None:
    kept.create(database)
    config = one_backend(database.reader_url, first_zero="200ms", **MEASURES)
    config["checkpoint"] = {"path": str(tmp_path / "checkpoint.sqlite")}
    dice = random.Random(7)  # noqa: S311
    with Watchdog() as watchdog, writers(database, 4, *kept.flags):
        for _ in range(KILLS):
            with running(tmp_path, config) as exporter:
                watchdog.exporter = exporter
                time.sleep(dice.uniform(0.0, 1.5))
                exporter.kill()
        with running(tmp_path, config) as exporter:
            watchdog.exporter = exporter
            time.sleep(1.0)
    # The writers have ended; a last exporter catches up with what they wrote meanwhile.
    with running(tmp_path, config) as exporter:
        expected = assert_all_counts(exporter, database, kept)
        assert exporter.scrape().value("celery_group_results_total") == kept.groups(database) > 0
        assert_all_are_measured(exporter.scrape(), database, kept)
        late = exporter.scrape().value("celery_backend_late_rows_total", table="task")
    verified = run("verify", f"--config.file={tmp_path / 'config.yaml'}")
    assert verified.returncode == 0, verified.stdout
    assert ", 0 missing" in verified.stdout
    print(  # noqa: T201 - the figures, shown with -s
        f"{expected.total()} results, {KILLS} kills, {late:g} late, {watchdog.scrapes} scrapes"
    )
    assert watchdog.went_back == []
    assert watchdog.scrapes > KILLS


@pytest.mark.timeout(3600)
def test_kill_while_a_checkpoint_is_migrated(tmp_path: Path) -> None:
    """It is of one version or the other, and holds what it held."""
    config = one_backend(f"sqlite:///{tmp_path}/not-there.sqlite") | {
        "checkpoint": {"path": str(tmp_path / "checkpoint.sqlite")}
    }
    dice = random.Random(8)  # noqa: S311
    schemas: Counter[str] = Counter()
    longest = 0.0
    for number in range(KILLS + 1):
        for file in tmp_path.glob("checkpoint.sqlite*"):
            file.unlink()
        path = written(tmp_path / "checkpoint.sqlite", 1, more_watched=4 * MANY)
        log = path.with_name(f"{path.name}-wal")
        with beginning(tmp_path, config) as exporter:
            exporter.wait_until(log.exists, "it connects")
            if number:
                time.sleep(dice.uniform(0.0, longest))
            else:
                connected = time.monotonic()
                exporter.wait_for_log("listening", timeout=120)
                longest = time.monotonic() - connected
            exporter.kill()
        with contextlib.closing(sqlite3.connect(path)) as raw:
            query = "SELECT value FROM celery_results_exporter_meta WHERE key = 'schema'"
            schemas[raw.execute(query).fetchone()[0]] += 1
        checkpoint = open_file(path)
        positions, tally = restored(checkpoint, "celery")
        checkpoint.close()
        assert len(positions["task"].watched) == 4 * MANY + 5
        assert len(tally.values) == 33
    print(f"{KILLS} kills; versions found: {dict(schemas)}")  # noqa: T201 - shown with -s


def put_older_copy(path: Path, older: Path, *, over: bool) -> None:
    """Put it in the place of all that is there, or copy it over the file alone."""
    if over:
        shutil.copyfile(older, path)
        return
    for file in path.parent.glob(f"{path.name}*"):
        file.unlink()
    shutil.copyfile(older, path)


@pytest.mark.timeout(3600)
@pytest.mark.parametrize("over", [False, True])
def test_kill_while_a_checkpoint_is_written_anew(tmp_path: Path, *, over: bool) -> None:
    """It goes on from what was put there, or from what was in memory; in the end all counts."""
    path, older = tmp_path / "kept" / "checkpoint.sqlite", tmp_path / "older.sqlite"
    path.parent.mkdir()
    dice = random.Random(9)  # noqa: S311
    rewritten = 0
    with SQLite(tmp_path).fresh_database() as database:
        with create_tables(database).begin() as connection:
            insert(connection)
        config = one_backend(database.reader_url) | {"checkpoint": {"path": str(path)}}
        assert run("once", f"--config.file={write(tmp_path, config)}").returncode == 0
        shutil.copy(path, older)
        with database.engine().begin() as connection:
            connection.execute(text(FILL))
        with writers(database, 1):
            for _ in range(KILLS):
                with running(tmp_path, config) as exporter:
                    exporter.wait_until(
                        lambda: exporter.scrape().sums(RESULTS)[()] > MANY, "all counts"
                    )
                    put_older_copy(path, older, over=over)
                    if over:  # before it has noticed, SQLite would mix both
                        exporter.wait_for_log("what was there is kept")
                    time.sleep(dice.uniform(0.0, 0.4))
                    rewritten += bool(exporter.logged("written anew"))
                    exporter.kill()
        with running(tmp_path, config) as exporter:
            expected = assert_all_counts(exporter, database)
    print(f"{expected.total()} results, {KILLS} kills, {rewritten} after it was written anew")  # noqa: T201
