"""Groups of real workers, one of them within another, with chords and failures."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from celery import Celery, chord, group

from tests.acceptance.process import one_backend, run, running

if TYPE_CHECKING:
    from pathlib import Path

    from celery.canvas import Signature

    from tests.servers.database import Database
    from tests.servers.worker import Workers

OPEN = "celery_group_open"
COMPLETED = "celery_group_completed_total"


@pytest.mark.parametrize("database", ["sqlite", "postgresql", "mariadb-pymysql"], indirect=True)
def test_each_group_counts_once_when_it_is_complete(
    database: Database, broker: str, celery_worker: Workers, tmp_path: Path
) -> None:
    """Also after ``kill -9``, while they go on; and `verify` agrees."""
    config = one_backend(database.reader_url, poll_interval="100ms", start="beginning")
    config["checkpoint"] = {"path": "checkpoint.sqlite"}
    app = Celery(broker=broker, backend=database.celery_url, set_as_current=False)
    app.conf.task_default_queue = "orders"

    def task(name: str, *args: object, **kwargs: object) -> Signature:
        return app.signature(name, args, kwargs)

    def save(*tasks: Signature) -> None:
        group(tasks, app=app).apply_async().save()

    mail, resize = task("mail.send"), task("images.resize", 1)
    with celery_worker(database, processes=3):
        with running(tmp_path, config) as exporter:
            exporter.wait_until(exporter.polls, "a first poll")
            save(mail, mail, mail)
            save(mail, task("mail.send", "ValueError"))
            exporter.wait_for(COMPLETED, 1, state="SUCCESS")
            exporter.wait_for(COMPLETED, 1, state="FAILURE")
            published = chord([resize, resize], task("images.publish"), app=app)
            save(task("reports.archive", 3.0), group([mail, resize], app=app), published)
            save(task("reports.archive", 3.0))
            exporter.wait_for(OPEN, 2)
            exporter.kill()
        save(mail, task("payments.charge", 1))
        states = {"SUCCESS": 3 + 1 + 1 + 2 + 3 + 1 + 2, "FAILURE": 1}
        database.wait_for(states)
        with running(tmp_path, config) as exporter:
            exporter.wait_for(COMPLETED, 4, state="SUCCESS")
            exporter.poll_again()
            scrape = exporter.scrape()
    app.close()
    assert scrape.sums(COMPLETED, "state") == {("SUCCESS",): 4, ("FAILURE",): 1}
    assert scrape.sums("celery_group_untold_total", "reason") == {}
    assert scrape.value(OPEN) == 0
    assert scrape.value("celery_group_results_total") == 5
    assert scrape.value("celery_group_tasks_count") == 5
    assert scrape.value("celery_group_tasks_sum") == 3 + 2 + 4 + 1 + 2
    # The last was saved while nobody looked.
    assert scrape.value("celery_group_observed_duration_seconds_count") == 4
    verified = run("verify", f"--config.file={tmp_path / 'config.yaml'}")
    assert verified.returncode == 0, verified.stdout
    assert "saved groups: 5 present, 5 counted, 0 missing" in verified.stdout
