"""Real workers run tasks while the exporter watches; at the end it says what the tables say.

CELERY_TASKS says how many results to make on each database; the figures are logged.
"""

from __future__ import annotations

import logging
import os
import time
from typing import TYPE_CHECKING

import pytest
from sqlalchemy import text

from exporter.counting.zones import ENOUGH
from tests.acceptance.load import ROUND_ROWS, Tables, by, send_load
from tests.acceptance.process import one_backend, run, running
from tests.conftest import WORKED
from tests.servers.database import SQLite
from tests.servers.process import wait_until

if TYPE_CHECKING:
    from collections import Counter
    from pathlib import Path

    from tests.acceptance.process import Exporter
    from tests.scrape import Scrape
    from tests.servers.database import Database
    from tests.servers.mariadb import MariaDB
    from tests.servers.postgresql import PostgreSQL
    from tests.servers.worker import Workers

log = logging.getLogger(__name__)

TASKS = int(os.environ.get("CELERY_TASKS", "500"))
RESULTS = "celery_task_results_total"
GROUPS = "celery_group_results_total"
UNFINISHED = "celery_task_unfinished"
REVISED = "celery_task_results_revised_total"
LABELS = ("task", "state", "worker", "queue")


def counted(scrape: Scrape) -> Counter[tuple[str, ...]]:
    """Return the results by state, less those that another result has replaced."""
    return scrape.sums(RESULTS, "state") - scrape.sums(REVISED, "from_state")


def assert_counts_are_those_of(exporter: Exporter, tables: Tables) -> Scrape:
    """Wait for it to have counted as many as there are; then insist on each single number."""
    finished, unfinished = tables.finished(), tables.unfinished()

    def all_is_counted() -> bool:
        scrape = exporter.scrape()
        return (
            counted(scrape).total() >= finished.total()
            and scrape.sums(UNFINISHED, *LABELS) == unfinished
            and (scrape.value(GROUPS) or 0) >= tables.groups()
        )

    # Rows that have been unfinished for long are not looked at in every poll.
    exporter.wait_until(all_is_counted, "all is counted", 60)
    exporter.poll_again(3)
    scrape = exporter.scrape()
    assert counted(scrape) == by(finished, 1)
    revised = scrape.sums(REVISED, "task").keys()
    results = {
        labels: count
        for labels, count in scrape.sums(RESULTS, *LABELS).items()
        if labels[:1] not in revised
    }
    assert results == {
        labels: count for labels, count in finished.items() if labels[:1] not in revised
    }
    assert scrape.sums(UNFINISHED, *LABELS) == unfinished
    assert scrape.value(GROUPS) == tables.groups()
    assert scrape.value("celery_backend_up") == 1
    assert scrape.sums("celery_backend_poll_errors_total", "reason") == {}
    return scrape


@pytest.mark.parametrize("database", WORKED, indirect=True)
def test_counts_are_those_of_the_table(
    database: Database, celery_worker: Workers, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    tables = Tables(database)
    config = one_backend(database.reader_url, poll_interval="150ms")
    with celery_worker(database, processes=4) as worker, running(tmp_path, config) as exporter:
        started = time.monotonic()
        send_load(worker, TASKS)
        tables.wait_for(finished=TASKS, timeout=30 + TASKS / 10)
        # What `revoke` writes has no name; the worker adds it once the task is due.
        wait_until(lambda: ("",) not in by(tables.finished(), 0), "names in all rows")
        seconds = time.monotonic() - started
        working = [
            worker.send("reports.archive", 60, queue="reports"),
            worker.send("reports.build", 1, 60, queue="reports"),
        ]
        wait_until(
            lambda: by(tables.unfinished(), 1) == {("STARTED",): 1, ("PROGRESS",): 1}, "two at work"
        )
        assert_counts_are_those_of(exporter, tables)
        worker.app.control.revoke(working, terminate=True)
        tables.wait_for(finished=TASKS + len(working))
        scrape = assert_counts_are_those_of(exporter, tables)

    assert tables.groups() == TASKS // ROUND_ROWS
    late = scrape.value("celery_backend_late_rows_total", table="task")
    for (state,), rows in sorted(by(tables.finished(), 1).items()):
        figures = (request.node.callspec.id, state, rows, counted(scrape)[state,])
        log.info("| %s | %s | %d | %d | %d | %.0f |", *figures, late, seconds)


@pytest.mark.parametrize("database", WORKED, indirect=True)
def test_revoked_task_has_its_name_when_it_is_due(
    database: Database, celery_worker: Workers, tmp_path: Path
) -> None:
    """By then it has counted without; and `verify` knows."""
    tables = Tables(database)
    config = one_backend(database.reader_url, poll_interval="150ms", late_commit_grace="200ms")
    config["checkpoint"] = {"path": "checkpoint.sqlite"}
    with celery_worker(database) as worker, running(tmp_path, config) as exporter:
        worker.send("orders.place")
        exporter.wait_for(RESULTS, 1, state="SUCCESS")
        worker.app.control.revoke(worker.send("orders.place", countdown=5))
        exporter.wait_for(RESULTS, 1, task="", state="REVOKED")
        exporter.wait_for(RESULTS, 1, task="orders.place", state="REVOKED")
        scrape = assert_counts_are_those_of(exporter, tables)
        assert scrape.sums(REVISED, "task", "from_state", "to_state") == {
            ("", "REVOKED", "REVOKED"): 1
        }
        verified = run("verify", f"--config.file={tmp_path / 'config.yaml'}")
        assert "2 present, 3 counted, 1 of them revised, 0 missing" in verified.stdout


def assert_times_are_right(scrape: Scrape) -> None:
    """Seconds, where a zone that is not understood would make hours."""
    last = scrape.named("celery_task_last_finished_timestamp_seconds")
    newest = max(value for _, value in last)
    assert newest == pytest.approx(time.time(), abs=10)
    assert scrape.value("celery_backend_clock_skew_seconds") == pytest.approx(0, abs=5)


def test_without_extended_results(celery_worker: Workers, tmp_path: Path) -> None:
    """All there is to know is the state; the zone of its times is the app's."""
    with SQLite(tmp_path).fresh_database() as database:
        tables = Tables(database)
        config = one_backend(database.reader_url, timezone="Asia/Tokyo")
        with (
            celery_worker(database, extended=False, timezone="Asia/Tokyo") as worker,
            running(tmp_path, config) as exporter,
        ):
            exporter.wait_until(exporter.polls, "a first poll: what comes then is new")
            for _ in range(3):
                worker.send("orders.place")
            worker.send("mail.send", "ValueError")
            worker.app.control.revoke(worker.send("orders.place", countdown=1))
            working = worker.send("reports.build", 1, 60, queue="reports")
            wait_until(lambda: tables.unfinished() == {("", "PROGRESS", "", ""): 1}, "one at work")
            wait_until(lambda: tables.finished().total() == 5, "five are done")
            scrape = assert_counts_are_those_of(exporter, tables)
            assert scrape.sums(RESULTS, *LABELS) == {
                ("", "SUCCESS", "", ""): 3,
                ("", "FAILURE", "", ""): 1,
                ("", "REVOKED", "", ""): 1,
            }
            assert scrape.sums(UNFINISHED, *LABELS) == {("", "PROGRESS", "", ""): 1}
            assert_times_are_right(scrape)
            worker.app.control.revoke(working, terminate=True)
            tables.wait_for(finished=6)
            assert_counts_are_those_of(exporter, tables)


def read_elsewhere(tables: Tables, celery_worker: Workers, folder: Path, offset: float) -> None:
    """Have a worker in Tokyo write tables of other names in another schema, and read them.

    Nobody says in which zone times are: that is found out.
    """
    names = {
        "database_table_names": {"task": tables.task, "group": tables.group},
        "database_table_schemas": {"task": tables.schema, "group": tables.schema},
    }
    config = one_backend(tables.database.reader_url, **names)
    with (
        celery_worker(tables.database, timezone="Asia/Tokyo", **names) as worker,
        running(folder, config) as exporter,
    ):
        exporter.wait_until(exporter.polls, "a first poll: what comes then is new")
        worker.send("newsletters.send")
        worker.send("mail.send", "ValueError")
        for finished in range(6, 6 + ENOUGH):
            tables.wait_for(finished=finished)
            exporter.poll_again(1)
            worker.send("orders.place")
        tables.wait_for(finished=6 + ENOUGH)
        exporter.wait_for("celery_backend_date_done_offset_seconds", offset, table="task")
        assert_times_are_right(assert_counts_are_those_of(exporter, tables))
    assert tables.groups() == 1


def test_tables_in_a_schema(postgresql: PostgreSQL, celery_worker: Workers, tmp_path: Path) -> None:
    """PostgreSQL writes times in the zone of the session, which is UTC here."""
    with postgresql.fresh_database() as database:
        with database.engine().begin() as connection:
            connection.execute(text("CREATE SCHEMA shop"))
        read_elsewhere(Tables(database, "tasks", "groups", "shop"), celery_worker, tmp_path, 0)


def test_tables_in_another_database(
    mariadb: MariaDB, celery_worker: Workers, tmp_path: Path
) -> None:
    """MariaDB's schemas are databases; it writes times in the zone of the app."""
    with mariadb.fresh_database() as database, mariadb.fresh_database() as other:
        tables = Tables(database, "tasks", "groups", other.owner.database)
        read_elsewhere(tables, celery_worker, tmp_path, 9 * 3600)
