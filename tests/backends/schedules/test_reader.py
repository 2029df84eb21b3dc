"""Entries are read from the tables as their own packages make them."""

from __future__ import annotations

import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import text

from exporter.backends.database import Database as Source
from exporter.backends.schedules.due import Clocked, Crontab, Interval, Solar
from exporter.backends.schedules.entries import understood
from exporter.backends.schedules.places import Places
from exporter.backends.schedules.reader import Found, Reader
from exporter.config.loading import from_url
from exporter.errors import BackendError
from tests.backends.test_work import work
from tests.servers.beat import SQLALCHEMY, Calculator
from tests.servers.process import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.servers.database import Database

ON_EACH = pytest.mark.parametrize(
    "database", ["sqlite", "postgresql", "mariadb-mysqlclient"], indirect=True
)
ON_SQLITE = pytest.mark.parametrize("database", ["sqlite"], indirect=True)
MOMENT = "2026-03-10T12:00:00.250000+00:00"
UNIX = 1_773_144_000.25
TIMES = {"start_time": MOMENT, "expires": MOMENT}
ENTRIES: list[dict[str, Any]] = [
    {"name": "é every 5 s", "task": "a", "interval": {"every": 5, "period": "seconds"}, **TIMES},
    {"name": "b", "task": "b", "crontab": {"hour": "3", "minute": "0", "timezone": "Asia/Tokyo"}},
    {"name": "c", "task": "c",
     "solar": {"event": "sunset", "latitude": "48.850000", "longitude": "2.350000"}},
    {"name": "d", "task": "d", "one_off": True, "clocked": {"clocked_time": MOMENT}},
    {"name": "off", "task": "e", "enabled": False, "interval": {"every": 1, "period": "days"}},
]  # fmt: skip


@contextmanager
def reading(database: Database) -> Iterator[Callable[[], Found | None]]:
    (settings,) = from_url(database.reader_url).backends
    source = Source(settings)
    places, reader = Places(source.dialect), Reader(source.dialect)

    def read() -> Found | None:
        with source.connected() as connection:
            place = places.find(connection)
            return place and reader.read(connection, place)

    yield read
    source.close()


@ON_EACH
def test_django_celery_beat(database: Database, tmp_path: Path) -> None:
    with reading(database) as read:
        if database.owner.get_backend_name() != "sqlite":  # whose file is not there yet
            assert read() is None
        Calculator(tmp_path, database.owner).schedule(*ENTRIES)
        found = read()
        assert found is not None
        entries, faults = understood(found.rows)
        assert (found.package, found.count, faults) == ("django-celery-beat", 5, [])
        assert [entry.name for entry in entries] == [entry["name"] for entry in ENTRIES]
        assert [entry.task for entry in entries] == ["a", "b", "c", "d", "e"]
        assert [entry.enabled for entry in entries] == [True, True, True, True, False]
        assert [entry.one_off for entry in entries] == [False, False, False, True, False]
        interval, crontab, solar, clocked, _ = (entry.schedule for entry in entries)
        assert interval == Interval(5.0)
        assert isinstance(crontab, Crontab)
        assert (crontab.hour, crontab.zone.key) == ("3", "Asia/Tokyo")
        assert solar == Solar("sunset", 48.85, 2.35)
        assert clocked == Clocked(UNIX)
        assert (entries[0].start, entries[0].expires, entries[1].start) == (UNIX, UNIX, None)
        assert entries[0].last_run is None
        assert entries[0].changed == pytest.approx(time.time(), abs=60)
        with work() as done:
            assert read() == found
        looked = 1 if database.owner.get_backend_name() != "mysql" else 20
        assert len(done.statements) <= looked + 3  # and a snapshot with one statement


@ON_SQLITE
def test_sqlalchemy_celery_beat(database: Database, broker: str, tmp_path: Path) -> None:
    """A real beat sends, and writes what it has sent."""
    url = database.reader_url
    settings = {"beat_dburi": url, "beat_sync_every": 1, "result_expires": None}
    calculator = Calculator(tmp_path, database.owner, broker, settings=settings)
    calculator.run("alchemy", url, "sums", "sum_two_numbers", "1")
    with calculator.beat(SQLALCHEMY), reading(database) as read:
        wait_until(lambda: (found := read()) and found.rows[0]["total_run_count"] >= 2, "two runs")
        found = read()
        assert found is not None
        (entry,), faults = understood(found.rows)
        assert (found.package, faults) == ("sqlalchemy-celery-beat", [])
        assert (entry.name, entry.task) == ("sums", "sum_two_numbers")
        assert entry.schedule == Interval(1.0)
        assert entry.last_run == pytest.approx(time.time(), abs=30)


@ON_SQLITE
def test_a_table_that_is_no_such_table(database: Database) -> None:
    with database.engine().begin() as connection:
        connection.execute(text("CREATE TABLE celery_periodictask (id INTEGER, name TEXT)"))
    with (
        reading(database) as read,
        pytest.raises(BackendError, match="has no column 'task': it is not that of sqlalchemy"),
    ):
        read()


@pytest.mark.parametrize("database", ["sqlite", "postgresql", "mariadb-pymysql"], indirect=True)
@pytest.mark.usefixtures("engine")
def test_where_there_are_none_a_look_is_cheap(database: Database) -> None:
    with reading(database) as read:
        read()
        with work() as done:
            assert read() is None
        assert len(done.statements) == (3 if database.owner.get_backend_name() == "mysql" else 1)
