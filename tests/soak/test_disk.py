"""The checkpoint's disk is full: nothing is served that was not kept, and nothing is lost."""

from __future__ import annotations

import shutil
import time
from typing import TYPE_CHECKING

import pytest
from sqlalchemy import text

from exporter.checkpoint.checkpoint import open_file
from tests.acceptance.process import beginning, one_backend, running
from tests.acceptance.test_kill import FILL, MANY, RESULTS
from tests.acceptance.watchdog import Watchdog
from tests.checkpoint.older import written
from tests.follow import create_tables, insert, restored
from tests.servers.database import SQLite
from tests.soak.disk import small_disk
from tests.soak.load import assert_counts, backend, config, counted, load
from tests.soak.sizes import ROUNDS

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.timeout(3600)
def test_reading_goes_on_when_there_is_room_again(tmp_path: Path) -> None:
    with SQLite(tmp_path).fresh_database() as database, small_disk(tmp_path / "disk") as disk:
        create_tables(database)
        settings = config(disk.folder, backend("shop", database.reader_url))
        with Watchdog() as watchdog, load(database.celery_url, tmp_path, 2) as writing:
            for _ in range(ROUNDS):
                with running(tmp_path, settings) as exporter:
                    watchdog.exporter = exporter
                    exporter.wait_until(lambda: counted(exporter), "results", timeout=60)
                    disk.fill(exporter)
                    exporter.wait_for("celery_backend_up", 0, timeout=30)
                    exporter.wait_for_log("poll failed", "reason=checkpoint", "checkpoint.sqlite")
                    before = counted(exporter)
                    time.sleep(0.5)
                    assert counted(exporter) == before
                    disk.free(exporter)
                    exporter.wait_for("celery_backend_up", 1, timeout=90)
                    disk.fill(exporter)
                    exporter.wait_for("celery_backend_up", 0, timeout=30)
                    exporter.kill()
                    disk.free(exporter)
            stored = writing.stop()
            with running(tmp_path, settings) as exporter:
                watchdog.exporter = exporter
                assert_counts(exporter, {"shop": stored}, groups={"shop": writing.groups()})
        print(f"\n{stored.total()} results, {ROUNDS * 2} times full")  # noqa: T201 - shown with -s
        assert watchdog.went_back == []


def test_checkpoint_that_cannot_be_migrated_stays_as_it_is(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk") as disk:
        path = written(disk.folder / "checkpoint.sqlite", 1, more_watched=MANY)
        config = one_backend(f"sqlite:///{tmp_path}/not-there.sqlite")
        config["checkpoint"] = {"path": str(path)}
        with beginning(tmp_path, config) as exporter:
            disk.fill(exporter)
            assert exporter.ended(30) == 1
            assert "error: checkpoint " in exporter.logs()[-1]
            disk.free(exporter)
        checkpoint = open_file(path)
        positions, _ = restored(checkpoint, "celery")
        assert len(positions["task"].watched) == MANY + 5
        checkpoint.close()


@pytest.mark.parametrize("over", [False, True])
def test_checkpoint_that_cannot_be_written_anew_stays_in_memory(
    tmp_path: Path, *, over: bool
) -> None:
    """What was put in its place stays there until there is room."""
    with SQLite(tmp_path).fresh_database() as database, small_disk(tmp_path / "disk") as disk:
        path = disk.folder / "checkpoint.sqlite"
        with create_tables(database).begin() as connection:
            insert(connection)
        settings = config(disk.folder, backend("shop", database.reader_url))
        with running(tmp_path, settings) as exporter:
            exporter.wait_for(RESULTS, 1, state="SUCCESS")
            exporter.stop()
        older = shutil.copy(path, tmp_path)
        with running(tmp_path, settings) as exporter:
            with database.engine().begin() as connection:
                connection.execute(text(FILL))
            exporter.wait_for(RESULTS, MANY, state="FAILURE")
            if over:
                shutil.copyfile(older, path)
            else:
                path.unlink()
            disk.fill(exporter)
            exporter.wait_for("celery_backend_up", 0)
            assert exporter.scrape().value(RESULTS, state="FAILURE") == MANY
            disk.free(exporter)
            exporter.wait_for("celery_backend_up", 1, timeout=90)
            exporter.wait_for_log("written anew from memory")
            exporter.kill()
        with database.engine().begin() as connection:
            connection.execute(text("DELETE FROM celery_taskmeta"))
        with running(tmp_path, settings) as exporter:
            exporter.wait_for("celery_backend_up", 1)
            assert exporter.scrape().value(RESULTS, state="FAILURE") == MANY
