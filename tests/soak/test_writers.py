"""Many of Celery's own writers, committing out of order: each result counts, and counts once."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.acceptance.process import running
from tests.acceptance.test_kill import groups
from tests.acceptance.watchdog import Watchdog
from tests.follow import create_tables
from tests.soak.load import assert_counts, assert_table, backend, config, load
from tests.soak.sizes import PROCESSES, ROWS

if TYPE_CHECKING:
    from pathlib import Path

    from tests.servers.database import Database


@pytest.mark.timeout(3600)
@pytest.mark.parametrize("database", ["postgresql", "mariadb-pymysql"], indirect=True)
def test_late_commits_are_counted(database: Database, tmp_path: Path) -> None:
    """And there are some: a run without any would prove nothing."""
    create_tables(database)
    settings = config(tmp_path, backend("shop", database.reader_url, poll_interval="50ms"))
    with Watchdog(0.2) as watchdog, running(tmp_path, settings) as exporter:
        watchdog.exporter = exporter
        with load(database.celery_url, tmp_path, PROCESSES, ROWS) as writing:
            seconds = writing.wait()
        stored = writing.stored()
        assert stored.total() == ROWS // PROCESSES * PROCESSES
        assert_table(database, stored)
        assert_counts(exporter, {"shop": stored})
        assert exporter.scrape().value("celery_group_results_total") == groups(database) > 0
        late = exporter.scrape().value("celery_backend_late_rows_total", table="task") or 0
        polls = exporter.scrape().value("celery_backend_polls_total")
    print(  # noqa: T201 - the figures, shown with -s
        f"\n{database.owner.get_backend_name()}: {PROCESSES} writers, {stored.total()} results in "
        f"{seconds:.0f} s, {late:g} late rows, {polls:g} polls, {watchdog.scrapes} scrapes; "
        "0 missed, 0 twice"
    )
    assert late > 0
    assert watchdog.went_back == []
