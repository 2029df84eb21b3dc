"""`series_limit`, as a scrape and `verify` see it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from exporter.checkpoint.checkpoint import open_file
from exporter.commands.verify import verify
from exporter.config.settings import Config
from exporter.exposition.formats import Format
from tests.follow import Follower, insert, update

if TYPE_CHECKING:
    from pathlib import Path

    from sqlalchemy import Engine

    from tests.servers.database import Database

pytestmark = pytest.mark.parametrize("database", ["sqlite"], indirect=True)


def served(follower: Follower) -> int:
    """Count the lines of task metrics."""
    lines = follower.exposition.body(Format.TEXT).decode().splitlines()
    return sum(line.startswith("celery_task_") for line in lines)


def test_limit_holds_for_all_task_metrics_and_is_what_the_metric_counts(
    database: Database, engine: Engine
) -> None:
    """Unfinished rows with names and states that somebody makes up, too."""
    follower = Follower(database.reader_url, series_limit=500)
    with engine.begin() as connection:
        running = [insert(connection, "STARTED", name=f"app.task{n}") for n in range(3)]
        insert(connection, "FAILURE")
    assert served(follower.poll()) == follower.value("celery_results_exporter_series") < 50
    with engine.begin() as connection:
        for row in running:
            update(connection, row, "SUCCESS")  # with a run time
        for number in range(1000):
            insert(connection, f"STATE {number}", name=f"made up {number % 500}")
    follower.poll()
    assert served(follower) == follower.value("celery_results_exporter_series")
    assert 400 < served(follower) <= 500
    assert follower.total("celery_task_unfinished") == 1000
    assert follower.value("celery_task_oldest_unfinished_timestamp_seconds", task="__other__")
    follower.close()


def test_verify_agrees_at_each_step(
    database: Database, engine: Engine, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Rows of one label set count as they are, then folded, then, with more room, as they are."""
    path = tmp_path / "checkpoint.sqlite"
    checkpoint = open_file(path)
    follower = Follower(database.reader_url, checkpoint, series_limit=200)
    rows = 0
    for step, name in enumerate(["worker", "queue", "name", "worker"]):
        if step == 3:
            follower.close()
            follower = Follower(database.reader_url, checkpoint, series_limit=10_000)
        with engine.begin() as connection:
            for number in range(step, step + 60):
                insert(connection, "FAILURE", **{name: f"app.{name}{number}"})
                insert(connection)
        rows += 120
        follower.poll()
        config = Config((follower.poller.settings,), path, 0.0)
        code, out = verify(config), capsys.readouterr().out
        assert f"{rows} present, {rows} counted, 0 missing" in out
        assert code == 0
        assert follower.total("celery_task_results_total") == rows
    assert follower.value("celery_results_exporter_series_folded_total")
    follower.close()
    checkpoint.close()
