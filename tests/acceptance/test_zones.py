"""Real workers write dates in a zone that nobody has configured, and the exporter finds it out."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

import pytest
from sqlalchemy import text

from exporter.counting.zones import ENOUGH
from tests.acceptance.load import Tables
from tests.acceptance.process import Exporter, one_backend, refusal, run, running
from tests.servers.database import SQLite

if TYPE_CHECKING:
    from pathlib import Path

    from tests.servers.database import Database
    from tests.servers.worker import Workers

KATHMANDU = 5.75 * 3600
OFFSET = "celery_backend_date_done_offset_seconds"
WITHHELD = "celery_backend_dates_withheld_total"
LAST = "celery_task_last_finished_timestamp_seconds"


def newest(database: Database) -> dict[str, float]:
    """Return when tasks finished last, by the table, as read in Kathmandu."""
    query = "SELECT name, max(date_done) FROM celery_taskmeta GROUP BY name"
    with database.engine().connect() as connection:
        found = connection.execute(text(query)).all()
    return {
        name: datetime.fromisoformat(done).replace(tzinfo=UTC).timestamp() - KATHMANDU
        for name, done in found
    }


def shown(exporter: Exporter) -> dict[str, float]:
    """Return the same, as the exporter shows it."""
    return {labels["task"]: value for labels, value in exporter.scrape().named(LAST)}


def test_zone_is_found_out(celery_worker: Workers, tmp_path: Path) -> None:
    """What was seen before is told then; and killed or not, what is known stays known."""
    with SQLite(tmp_path).fresh_database() as database:
        tables = Tables(database)
        config = one_backend(database.reader_url) | {"checkpoint": {"path": "checkpoint.sqlite"}}
        file = f"--config.file={tmp_path / 'config.yaml'}"
        with celery_worker(database, timezone="Asia/Kathmandu") as worker:
            with running(tmp_path, config) as exporter:
                exporter.wait_until(exporter.polls, "a first poll: what comes then is new")
                for _ in range(ENOUGH - 1):
                    worker.send("mail.send")
                tables.wait_for(finished=ENOUGH - 1)
                exporter.wait_for(WITHHELD, ENOUGH - 1, table="task")
                scrape = exporter.scrape()
                assert (scrape.value(OFFSET, table="task"), shown(exporter)) == (None, {})
                exporter.kill()
            said = run("check", file).stdout
            assert "task dates" in said
            assert "of an unknown zone: results that finish" in said

            with running(tmp_path, config) as exporter:
                exporter.wait_until(exporter.polls, "a first poll")
                for sent in range(ENOUGH):
                    worker.send("orders.place")
                    tables.wait_for(finished=ENOUGH + sent)
                    exporter.poll_again(1)
                exporter.wait_for(OFFSET, KATHMANDU, table="task")
                assert shown(exporter) == pytest.approx(newest(database), abs=1e-3)
                assert shown(exporter).keys() == {"mail.send", "orders.place"}
                assert exporter.logged("results have told which zone", "UTC+05:45")
                exporter.kill()

            worker.send("images.resize", 1, queue="reports")  # while nobody looks
            tables.wait_for(finished=2 * ENOUGH)
            with running(tmp_path, config) as exporter:
                exporter.wait_for(OFFSET, KATHMANDU, table="task")
                exporter.wait_until(lambda: "images.resize" in shown(exporter), "a new result")
                assert shown(exporter) == pytest.approx(newest(database), abs=1e-3)
                assert exporter.scrape().value(WITHHELD, table="task") == 2 * ENOUGH - 1
    assert "UTC+05:45, as results have told" in run("check", file).stdout
    assert "0 missing" in run("verify", file).stdout
    assert "backends[shop].timezone: is auto" in refusal("backfill", file, "--from=1h")
