"""``kill -9`` at any moment, start again: the counters equal the table, and none ever went back."""

from __future__ import annotations

import contextlib
import os
import random
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from sqlalchemy import text

from tests.acceptance.process import one_backend, running
from tests.acceptance.watchdog import Watchdog
from tests.counting.follow import create_tables

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.servers.database import Database

KILLS = int(os.environ.get("KILLS", "3"))
LABELS = ("task", "state", "worker", "queue")
WRITER = Path(__file__).with_name("writer.py")


@contextlib.contextmanager
def writers(database: Database, processes: int) -> Iterator[None]:
    """Let real Celery backends write all the while."""
    with subprocess.Popen(
        [sys.executable, WRITER, database.celery_url, str(processes)], stdin=subprocess.PIPE
    ) as child:
        yield
        assert child.stdin is not None
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


def groups(database: Database) -> int:
    """Count the saved groups."""
    with database.engine().connect() as connection:
        return connection.execute(text("SELECT count(*) FROM celery_tasksetmeta")).scalar_one()


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("database", ["sqlite", "postgresql", "mariadb-pymysql"], indirect=True)
def test_kill_at_any_moment(database: Database, tmp_path: Path) -> None:
    create_tables(database)
    config = one_backend(database.reader_url, first_zero="200ms")
    config["checkpoint"] = {"path": str(tmp_path / "checkpoint.sqlite")}
    dice = random.Random(7)  # noqa: S311
    with Watchdog() as watchdog, writers(database, 4):
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
        expected = truth(database)
        exporter.wait_until(
            lambda: exporter.scrape().sums("celery_task_results_total", *LABELS) == expected,
            f"all {expected.total()} results count",
            timeout=30,
        )
        exporter.poll_again()
        assert exporter.scrape().sums("celery_task_results_total", *LABELS) == expected
        assert exporter.scrape().value("celery_group_results_total") == groups(database) > 0
        late = exporter.scrape().value("celery_backend_late_rows_total", table="task")
    print(  # noqa: T201 - the figures, shown with -s
        f"{expected.total()} results, {KILLS} kills, {late:g} late, {watchdog.scrapes} scrapes"
    )
    assert watchdog.went_back == []
    assert watchdog.scrapes > KILLS
