"""Many of Celery's own writers, committing out of order: each result counts, and counts once."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from exporter.backends import tables
from exporter.counting.lifecycle import Rules
from tests.acceptance.process import running
from tests.acceptance.watchdog import Watchdog
from tests.soak.load import ROOT, WITH_JOBS, assert_counts, assert_table, backend, config, load
from tests.soak.sizes import PROCESSES, ROWS, UNFINISHED
from tests.soak.written import FAMILIES, Written

if TYPE_CHECKING:
    from pathlib import Path

    from tests.servers.database import Database


def test_every_family_is_written() -> None:
    assert {family.layouts for family in tables.FAMILIES} <= {
        written.family.layouts for written in FAMILIES
    }


@pytest.mark.timeout(3600)
@pytest.mark.parametrize("written", FAMILIES, ids=lambda written: written.name)
@pytest.mark.parametrize("database", ["postgresql", "mariadb-pymysql"], indirect=True)
def test_late_commits_are_counted(database: Database, written: Written, tmp_path: Path) -> None:
    """And there are some: a run without any would prove nothing."""
    written.create(database)
    settings = config(tmp_path, backend("shop", database.reader_url, poll_interval="50ms"))
    exporting = running(tmp_path, settings, program=WITH_JOBS, PYTHONPATH=str(ROOT))
    with Watchdog(0.2) as watchdog, exporting as exporter:
        watchdog.exporter = exporter
        with load(
            database.celery_url, tmp_path, PROCESSES, ROWS, unfinished=UNFINISHED, written=written
        ) as writing:
            seconds = writing.wait()
        stored, groups = writing.stored(), writing.groups()
        assert stored.total() == ROWS // PROCESSES * PROCESSES
        assert groups > 0
        assert_table(database, stored, groups, written)
        assert_counts(exporter, {"shop": stored}, groups={"shop": groups})
        layouts = written.family.layouts
        late = exporter.scrape().value("celery_backend_late_rows_total", table=layouts[0].kind) or 0
        polls = exporter.scrape().value("celery_backend_polls_total")
    unfinished = watchdog.most_unfinished["shop"]
    print(  # noqa: T201 - the figures, shown with -s
        f"\n{database.owner.get_backend_name()}, {written.name}: {PROCESSES} writers, "
        f"{stored.total()} results and {groups} groups in {seconds:.0f} s, {late:g} late rows, "
        f"{unfinished} unfinished at once, {polls:g} polls, {watchdog.scrapes} scrapes; "
        "0 missed, 0 twice"
    )
    assert late > 0
    assert unfinished > Rules().cohort
    assert watchdog.went_back == []
