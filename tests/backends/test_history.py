"""Reading the past: each finished row once, in the step in which it finished, on all databases."""

from __future__ import annotations

import threading
from collections import Counter
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any
from zoneinfo import ZoneInfo

import pytest
from sqlalchemy import text

from exporter.backends import history
from exporter.backends.database import Database as ResultDatabase
from exporter.backends.history import History
from exporter.backends.tables.celery import GROUP, TASK
from exporter.config.loading import from_url
from exporter.counting.history import Grid
from exporter.errors import BackendError
from tests.follow import insert

if TYPE_CHECKING:
    from sqlalchemy import Engine

    from tests.servers.database import Database

BEGIN = datetime(2026, 3, 1, 12, 7, 30, tzinfo=UTC)
GRID = Grid(int(BEGIN.timestamp()), int(BEGIN.timestamp()) + 7200, 420)
Found = Counter[tuple[str, str, str, int | None]]  # by task, state, exception and step


def found(database: Database, grid: Grid = GRID, **settings: Any) -> Found:
    reading = ResultDatabase(from_url(database.reader_url, **settings).backends[0])
    past = History(reading, TASK, grid)
    ends = past.ends()
    assert ends is not None
    counts: Found = Counter()
    for piece in past.pieces(*ends):
        for group in piece.groups:
            step = None if group.done is None else grid.step_of(group.done)
            counts[group.task, group.state, group.exception, step] += group.rows
        assert piece.undated == sum(group.rows for group in piece.groups if group.done is None)
    assert History(reading, GROUP, grid).ends() is None
    reading.close()
    return counts


@pytest.mark.parametrize("zone", ["UTC", "Asia/Kathmandu"])
def test_each_row_is_read_once(
    database: Database, engine: Engine, zone: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In portions of any size, by sparse ids in no order of time, whatever the zone."""
    monkeypatch.setattr(history, "FIRST_CHUNK", 3)
    monkeypatch.setattr(history, "SMALLEST_CHUNK", 2)
    monkeypatch.setattr(history, "MOST_FAILURES", 2)
    expected: Found = Counter()
    states = ("SUCCESS", "FAILURE", "REVOKED", "FAILURE", "STARTED")
    with engine.begin() as connection:
        for n in range(60):
            seconds = n * 997 % 8000 - 300  # some are too early, some too late
            state, name = states[n % 5], "mMa"[n % 3]
            done = (BEGIN + timedelta(seconds=seconds)).astimezone(ZoneInfo(zone))
            result = b'{"exc_type": "KeyError", "exc_message": []}' if state == "FAILURE" else None
            row = {"id": 10 + 7 * n, "name": name, "result": result}
            insert(connection, state, date_done=done.replace(tzinfo=None), **row)
            if state != "STARTED" and 0 <= seconds < 7200:
                step = (GRID.begin + seconds) // GRID.step
                expected[name, state, "KeyError" if result else "", step] += 1
        for row_id, state in enumerate(("SUCCESS", "FAILURE"), 1000):
            insert(connection, state, id=row_id, name="a", date_done=None)
            expected["a", state, "", None] += 1
    assert found(database, timezone=zone) == expected


@pytest.mark.parametrize("database", ["sqlite"], indirect=True)
def test_dates_that_sqlite_stores_as_it_is_told(database: Database, engine: Engine) -> None:
    """With an offset of their own, which no zone shifts; or none at all."""
    stored = {
        "2026-03-01 14:30:00.000000": 1,  # in Paris
        "2026-03-01 14:30:00.000000+01:00": 1,
        "2026-03-01T13:30:00Z": 1,
        "2026-03-01 nonsense": None,
    }
    expected: Found = Counter()
    with engine.begin() as connection:
        for done, known in stored.items():
            row = insert(connection)
            update = text("UPDATE celery_taskmeta SET date_done = :done WHERE id = :id")
            connection.execute(update, {"done": done, "id": row})
            step = int(datetime(2026, 3, 1, 13, 30, tzinfo=UTC).timestamp()) // GRID.step
            expected["app.add", "SUCCESS", "", step if known else None] += 1
    assert found(database, timezone="Europe/Paris") == expected


@pytest.mark.parametrize("database", ["sqlite"], indirect=True)
def test_server_that_is_busy_is_asked_again(
    database: Database, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    with engine.begin() as connection:
        insert(connection, date_done=BEGIN.replace(tzinfo=None))
    reading = ResultDatabase(from_url(database.reader_url, query_timeout=0.1).backends[0])
    past = History(reading, TASK, GRID)
    ends = past.ends()
    assert ends is not None
    with engine.connect() as connection:
        connection.exec_driver_sql("BEGIN EXCLUSIVE")
        with monkeypatch.context() as patch:
            patch.setattr(history, "PAUSES", (0.0,))
            with pytest.raises(BackendError, match="database is locked"):
                list(past.pieces(*ends))
        timer = threading.Timer(0.5, connection.rollback)
        timer.start()
        (piece,) = past.pieces(*ends)
        timer.join()
    assert [group.rows for group in piece.groups] == [1]
    reading.close()
