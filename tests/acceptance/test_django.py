"""A real Django project: its workers' results are counted as those in Celery's own tables are."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest
from celery.states import READY_STATES
from sqlalchemy import column, select, table

from exporter.backends.failures import RESULT_BYTES, from_result
from tests.acceptance.process import one_backend, run, running
from tests.djangoshop import migrate
from tests.runtime.test_beat import add, schedule
from tests.servers.worker import django_worker
from tests.soak.written import DJANGO

if TYPE_CHECKING:
    from pathlib import Path

    from tests.scrape import Scrape
    from tests.servers.database import Database

RESULTS = "celery_task_results_total"
RUNTIME = "celery_task_runtime_seconds"
LABELS = ("task", "state", "worker", "queue")
TASKS = "django_celery_results_taskresult"
#: How results are stored in each database.
SERIALIZERS = {"sqlite": "json", "postgresql": "pickle", "mariadb-pymysql": "yaml"}
ENTRIES = {"nightly": "shop.sell", "weekly": "shop.sell", "orders": "shop.order"}
#: What becomes of a group of two tasks.
GROUP = {"json": ("SUCCESS",), "pickle": ("SUCCESS",), "yaml": ("not_understood",)}
DONE = {"SUCCESS": 10 + 3 + 2 + 1 + 5, "FAILURE": 4}


class Stored(NamedTuple):
    """What a row says."""

    task_name: str | None
    status: str
    date_started: Any
    date_done: Any
    result: str | None

    @property
    def took(self) -> float | None:
        if self.date_started is None:
            return None
        return (_moment(self.date_done) - _moment(self.date_started)).total_seconds()


def _moment(value: datetime | str) -> datetime:
    """Return a date as its driver gives it, or as SQLite has it: in UTC, where it says no zone."""
    moment = datetime.fromisoformat(value) if isinstance(value, str) else value
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def stored(database: Database) -> list[Stored]:
    query = select(*map(column, Stored._fields)).select_from(table(TASKS))
    with database.engine().connect() as connection:
        return [Stored(*row) for row in connection.execute(query)]


@pytest.mark.parametrize(
    ("database", "serializer"), SERIALIZERS.items(), indirect=["database"], ids=SERIALIZERS
)
def test_all_that_workers_store_counts(
    database: Database, serializer: str, broker: str, tmp_path: Path
) -> None:
    """With their exceptions and run times, however results are serialized; and `verify` agrees."""
    migrate(database.owner)
    schedule(database.engine())
    for entry, task in ENTRIES.items():
        add(database.engine(), entry, task=task)
    config = one_backend(database.reader_url, poll_interval="150ms", start="end")
    config["checkpoint"] = {"path": "checkpoint.sqlite"}
    told = {
        "CELERY_RESULT_SERIALIZER": serializer,
        "CELERY_ACCEPT_CONTENT": ["json"],
        "CELERY_RESULT_ACCEPT_CONTENT": ["json", serializer],
    }
    with (
        django_worker(database, broker, tmp_path, processes=3, **told) as worker,
        running(tmp_path, config) as exporter,
    ):
        exporter.wait_until(exporter.polls, "a first poll: what comes then is new")
        for _ in range(9):
            worker.send("shop.sell")
        worker.send("shop.sell", headers={"periodic_task_name": "nightly"})  # as beat does
        for _ in range(3):
            worker.send("shop.count", 0.3)
        for kind in ("ValueError", "ValueError", "KeyError", "Jammed"):
            worker.send("shop.refund", kind)
        for fails in (1, 2):
            worker.send("shop.order", fails)
        worker.send("shop.day")
        endless = worker.send("shop.count", 60)
        database.wait_for(DONE | {"STARTED": 1}, TASKS)
        exporter.wait_for("celery_task_unfinished", 1, task="shop.count", state="STARTED")
        worker.app.control.revoke(endless, terminate=True)
        database.wait_for(DONE | {"REVOKED": 1}, TASKS)
        exporter.wait_for(RESULTS, 1, task="shop.count", state="REVOKED")
        exporter.poll_again(3)
        scrape = exporter.scrape()
        assert scrape.sums(RESULTS, *LABELS) == DJANGO.results(database)
        assert_exceptions(scrape, database)
        assert_runtimes(scrape, database)
        assert scrape.value("celery_group_results_total") == 1
        success = "celery_beat_entry_last_success_timestamp_seconds"
        succeeded = {of["entry"] for name, of, _ in scrape.samples if name == success}
        assert succeeded == {"nightly", "orders"}  # nobody has sent the other
        completed = scrape.sums("celery_group_completed_total", "state")
        untold = scrape.sums("celery_group_untold_total", "reason")
        assert completed + untold == {GROUP[serializer]: 1}
        assert scrape.sums("celery_task_retries_total") == {}  # there is no column for them
        assert scrape.value("celery_backend_info", schema_family="django-celery-results-2.6") == 1
        assert scrape.value("celery_backend_clock_skew_seconds") == pytest.approx(0, abs=60)
    arguments = f"--config.file={tmp_path / 'config.yaml'}"
    verified = run("verify", arguments)
    assert verified.returncode == 0, verified.stdout
    assert "26 present, 26 counted, 0 missing" in verified.stdout
    checked = run("check", arguments)
    assert checked.returncode == 0, checked.stdout
    assert f"task table             {TASKS}" in checked.stdout


def assert_exceptions(scrape: Scrape, database: Database) -> None:
    expected = {("ValueError",): 2, ("KeyError",): 1, ("Jammed",): 1}
    assert scrape.sums("celery_task_failures_total", "exception") == expected
    # Not by way of the traceback, which there is only with result_extended.
    failures = [row for row in stored(database) if row.status == "FAILURE"]
    named = Counter((from_result((row.result or "").encode()[:RESULT_BYTES]),) for row in failures)
    assert named == expected


def assert_runtimes(scrape: Scrape, database: Database) -> None:
    """One of each finished row that has a start, in its bucket."""
    finished = [row for row in stored(database) if row.status in READY_STATES]
    timed = [row for row in finished if row.took is not None]
    assert len(timed) == len(finished)
    for row in timed:
        assert row.took is not None
        assert row.took >= (0.3 if row.task_name == "shop.count" else 0.0)
    counts = Counter((row.task_name,) for row in timed)
    assert scrape.sums(f"{RUNTIME}_count", "task") == counts
    total = sum(row.took or 0.0 for row in timed)
    served = sum(value for name, _, value in scrape.samples if name == f"{RUNTIME}_sum")
    assert served == pytest.approx(total, abs=0.001 * len(timed))
    short = sum((row.took or 0.0) <= 1.0 for row in timed)
    assert scrape.sums(f"{RUNTIME}_bucket", "le")["1.0",] == short
