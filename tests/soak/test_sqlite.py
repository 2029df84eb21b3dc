"""A file that Celery writes to: whoever reads it must not be in the way."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import pytest
from sqlalchemy import text

from tests.acceptance.process import running
from tests.follow import create_tables
from tests.servers.database import Database, SQLite
from tests.soak.load import assert_counts, backend, config, load
from tests.soak.sizes import SQLITE_ROWS

if TYPE_CHECKING:
    from pathlib import Path

    from tests.soak.load import Labels


def write(database: Database, folder: Path) -> tuple[Counter[Labels], int, int, float]:
    """Write from two processes; return results, groups, how often it was locked, the seconds."""
    with load(database.celery_url, folder, 2, SQLITE_ROWS) as writing:
        seconds = writing.wait()
        stored, groups = writing.stored(), writing.groups()
    locked = sum(n for error, n in writing.errors().items() if "database is locked" in error)
    return stored, groups, locked, seconds


@pytest.mark.timeout(3600)
@pytest.mark.parametrize("journal", ["delete", "wal"])
def test_we_lock_nobody_out(journal: str, tmp_path: Path) -> None:
    """The same load twice: first alone, then with us reading every 100 ms."""
    files = SQLite(tmp_path)
    with files.fresh_database() as alone, files.fresh_database() as watched:
        for database in (alone, watched):
            with create_tables(database).connect() as connection:
                connection.execute(text(f"PRAGMA journal_mode = {journal}"))
        *_, locked_alone, seconds_alone = write(alone, tmp_path)
        settings = config(tmp_path, backend("shop", watched.reader_url, poll_interval="50ms"))
        with running(tmp_path, settings) as exporter:
            stored, groups, locked, seconds = write(watched, tmp_path)
            assert_counts(exporter, {"shop": stored}, groups={"shop": groups})
            errors = exporter.scrape().sums("celery_backend_poll_errors_total", "reason")
            polls = exporter.scrape().value("celery_backend_polls_total")
    print(  # noqa: T201 - the figures, shown with -s
        f"\njournal_mode={journal}: {stored.total()} results, alone {seconds_alone:.1f} s and "
        f"{locked_alone} times locked, with us {seconds:.1f} s and {locked}; {polls:g} polls, "
        f"errors {dict(errors)}"
    )
    assert locked <= locked_alone
    assert errors == {}
