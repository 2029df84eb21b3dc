"""The checkpoint's disk is full: nothing is served that was not kept, and nothing is lost."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest

from tests.acceptance.process import running
from tests.acceptance.watchdog import Watchdog
from tests.counting.follow import create_tables
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
                assert_counts(exporter, {"shop": stored})
        print(f"\n{stored.total()} results, {ROUNDS * 2} times full")  # noqa: T201 - shown with -s
        assert watchdog.went_back == []
