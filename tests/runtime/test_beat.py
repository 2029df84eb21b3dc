"""Schedules stand beside the counting of results: what becomes of them never stops it."""

from __future__ import annotations

import sys
import time
from datetime import timedelta
from typing import TYPE_CHECKING

import pytest
from sqlalchemy import URL, Engine, NullPool, create_engine, make_url, text

from exporter.backends.schedules import reader
from exporter.checkpoint.checkpoint import open_file
from exporter.commands.check import check
from exporter.config.loading import from_url
from exporter.config.settings import BeatSchedule, Config
from exporter.exposition.formats import Format
from exporter.runtime import beat, looks
from tests.backends.test_django import NOW, Shop
from tests.djangoshop import migrate
from tests.follow import Follower, insert

if TYPE_CHECKING:
    from pathlib import Path

    from tests.servers.database import Database

ON_SQLITE = pytest.mark.parametrize("database", ["sqlite"], indirect=True)
TABLES = """
    CREATE TABLE celery_intervalschedule (id INTEGER PRIMARY KEY, every INTEGER, period TEXT);
    CREATE TABLE celery_crontabschedule (id INTEGER PRIMARY KEY, minute TEXT, hour TEXT,
        day_of_week TEXT, day_of_month TEXT, month_of_year TEXT, timezone TEXT);
    CREATE TABLE celery_solarschedule (id INTEGER PRIMARY KEY, event TEXT, latitude FLOAT,
        longitude FLOAT);
    CREATE TABLE celery_periodictask (id INTEGER PRIMARY KEY, name TEXT, task TEXT,
        enabled BOOLEAN, last_run_at TIMESTAMP, total_run_count INTEGER, date_changed TIMESTAMP,
        discriminator TEXT, schedule_id INTEGER);
    INSERT INTO celery_intervalschedule VALUES (1, 1, 'hours');
    INSERT INTO celery_solarschedule VALUES (1, 'sunset', 48.85, 2.35);
    INSERT INTO celery_crontabschedule VALUES (1, '0', '3', '*', '*', '*', 'Mars/Olympus')
"""
INSERT = """INSERT INTO celery_periodictask VALUES
    (:id, :name, :task, true, :last_run, :runs, :last_run, :kind, 1)"""


@pytest.fixture(autouse=True)
def _looks_at_each_poll(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(beat, "LOOK_INTERVAL", 0.0)


def schedule(engine: Engine) -> None:
    with engine.begin() as connection:
        for statement in TABLES.split(";"):
            connection.execute(text(statement))


def add(
    engine: Engine,
    name: str,
    ago: float = 60.0,
    runs: int = 1,
    kind: str = "interval",
    task: str = "app.add",
) -> None:
    moment = time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(time.time() - ago))
    row = {"id": hash(name) % 2**31, "name": name, "last_run": moment, "runs": runs, "task": task}
    with engine.begin() as connection:
        connection.execute(text(INSERT), row | {"kind": f"{kind}schedule"})


def runs(engine: Engine, number: int) -> None:
    with engine.begin() as connection:
        connection.execute(text(f"UPDATE celery_periodictask SET total_run_count = {number}"))


def metrics(follower: Follower) -> set[str]:
    lines = follower.exposition.body(Format.TEXT).decode().splitlines()
    return {line.partition("{")[0] for line in lines if line.startswith("celery_beat_")}


def test_without_tables_there_are_no_metrics(
    database: Database, engine: Engine, caplog: pytest.LogCaptureFixture
) -> None:
    assert engine
    follower = Follower(database.reader_url).poll()
    assert metrics(follower) == set()
    assert "beat" not in caplog.text
    assert follower.poller.status.beat is None
    follower.close()


def test_entries_are_followed(
    database: Database, engine: Engine, caplog: pytest.LogCaptureFixture
) -> None:
    """On each database: tables that come later, a counter that is set back, what is not read."""
    schedule(engine)
    add(engine, "hourly")
    add(engine, "late", ago=3 * 3600, runs=7)
    add(engine, "lost", kind="crontab")
    with engine.begin() as connection:
        insert(connection, name="app.add")
    follower = Follower(database.reader_url, timezone="UTC").poll().poll()
    assert follower.value("celery_beat_up") == 1
    assert follower.value("celery_beat_entries") == 3
    assert follower.value("celery_beat_entries_unreadable") == 1
    labels = {"entry": "hourly", "task": "app.add"}
    assert follower.value("celery_beat_entry_enabled", **labels) == 1
    assert follower.value("celery_beat_entry_period_seconds", **labels) == 3600
    assert follower.value("celery_beat_entry_overdue_seconds", **labels) == 0
    due = follower.value("celery_beat_entry_next_run_timestamp_seconds", **labels)
    assert due == pytest.approx(time.time() + 3540, abs=30)
    success = follower.value("celery_beat_entry_last_success_timestamp_seconds", **labels)
    assert success == pytest.approx(time.time(), abs=30)
    late = follower.value("celery_beat_entry_overdue_seconds", entry="late")
    assert late == pytest.approx(2 * 3600, abs=30)
    told = [record for record in caplog.records if record.__dict__.get("entry") == "lost"]
    assert [record.__dict__["error"] for record in told] == [
        "its time zone 'Mars/Olympus' is not known"
    ]
    status = follower.poller.status.beat
    assert status is not None
    assert (status.entries, status.overdue, status.unreadable) == (3, 1, 1)
    assert [*status.late] == ["late"]

    name = "celery_beat_entry_runs_total"
    for number, counted in ((9, 9), (0, 9), (2, 11)):
        runs(engine, number)
        assert follower.poll().value(name, entry="late") == counted
    changed = Follower(database.reader_url, poll_interval=0.2)  # by a reload
    changed.poller.succeed(follower.poller)
    runs(engine, 3)
    assert changed.poll().value(name, entry="late") == 12
    changed.close()
    follower.close()


@pytest.mark.parametrize("database", ["sqlite", "postgresql", "mariadb-mysqlclient"], indirect=True)
def test_last_success_is_that_of_the_entry(database: Database, tmp_path: Path) -> None:
    """Where Django's results tell; of tasks of which none does, it is that of the task."""
    migrate(database.owner)
    shop = Shop(database)
    schedule(shop.engine)
    entries = {"é nightly": "shop.sell", "weekly": "shop.sell", "é": "shop.sell", "b": "shop.count"}
    for name, task in entries.items():
        add(shop.engine, name, task=task)
    sent = {"task_name": "shop.sell", "periodic_task_name": "é nightly"}
    shop.insert(done=NOW - timedelta(hours=1), **sent)
    shop.insert("FAILURE", **sent | {"periodic_task_name": "weekly"})
    shop.insert(done=NOW - timedelta(minutes=5), task_name="shop.sell")  # by somebody else
    shop.insert(done=NOW - timedelta(minutes=4), task_name="shop.count")
    running = shop.insert("STARTED", **sent)
    checkpoint = open_file(tmp_path / "checkpoint.sqlite")
    follower = Follower(database.reader_url, checkpoint).poll()
    hour_ago = (NOW - timedelta(hours=1)).timestamp()
    expected = {"é nightly": hour_ago, "b": (NOW - timedelta(minutes=4)).timestamp()}
    assert successes(follower) == expected
    shop.update(running, "SUCCESS", date_done=NOW)
    assert successes(follower.poll().poll()) == expected | {"é nightly": NOW.timestamp()}
    follower.close()
    again = Follower(database.reader_url, checkpoint)
    assert successes(again.poll()) == expected | {"é nightly": NOW.timestamp()}
    assert again.states() == {"SUCCESS": 4, "FAILURE": 1}
    again.close()
    checkpoint.close()


def successes(follower: Follower) -> dict[str, float]:
    found = follower.samples("celery_beat_entry_last_success_timestamp_seconds")
    return {labels["entry"]: value for labels, value in found}


@ON_SQLITE
@pytest.mark.parametrize("there", [True, False])
def test_solar_schedules_need_ephem(
    database: Database,
    engine: Engine,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    *,
    there: bool,
) -> None:
    if not there:
        monkeypatch.setitem(sys.modules, "ephem", None)
    schedule(engine)
    add(engine, "hourly")
    add(engine, "sunset", kind="solar")
    follower = Follower(database.reader_url).poll().poll()
    assert follower.value("celery_beat_entries_unreadable") == 0
    assert follower.value("celery_beat_entry_enabled", entry="sunset") == 1
    assert follower.value("celery_beat_entry_overdue_seconds", entry="hourly") == 0
    period = follower.value("celery_beat_entry_period_seconds", entry="sunset")
    assert period == (pytest.approx(86_400, abs=600) if there else None)
    assert caplog.text.count("pip install ephem") == (not there)
    follower.close()


CRONTAB = dict.fromkeys(("day_of_week", "day_of_month", "month_of_year"), "*")
PLANS = BeatSchedule(
    entries=(
        {"name": "often", "task": "app.add", "every": 90.0, "period": "seconds"},
        {"name": "nightly", "task": "app.add", "minute": "0", "hour": "3", **CRONTAB,
         "timezone": "Asia/Tokyo"},
        {"name": "lost", "task": "app.add", "minute": "99", "hour": "3", **CRONTAB},
    ),
    faults=(("own", "its schedule is not known"),),
)  # fmt: skip


@ON_SQLITE
def test_what_an_app_has_set(
    database: Database, engine: Engine, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    """No more is served than it says; a database that is down, or has tables, is another matter."""
    with engine.begin() as connection:
        insert(connection, name="app.add")
    follower = Follower(database.reader_url, timezone="UTC", beat_schedule=PLANS).poll().poll()
    assert follower.value("celery_beat_up") == 1
    assert follower.value("celery_beat_entries") == 4
    assert follower.value("celery_beat_entries_unreadable") == 2
    assert [r.__dict__["entry"] for r in caplog.records if "entry" in r.__dict__] == ["lost", "own"]
    entries = [labels["entry"] for labels, _ in follower.samples("celery_beat_entry_enabled")]
    assert entries == ["often", "nightly"]
    periods = {of["entry"]: v for of, v in follower.samples("celery_beat_entry_period_seconds")}
    assert periods == {"often": 90, "nightly": 86_400}
    name = "celery_beat_entry_next_run_timestamp_seconds"
    (next_run,) = follower.samples(name)  # of the other nobody knows
    assert next_run[0]["entry"] == "nightly"
    assert next_run[1] % 86_400 == 18 * 3600
    assert 0 < next_run[1] - time.time() <= 86_400
    assert successes(follower).keys() == {"often", "nightly"}
    for unknown in ("last_run_timestamp_seconds", "overdue_seconds", "runs_total"):
        assert follower.samples(f"celery_beat_entry_{unknown}") == []
    assert check(Config((follower.poller.settings,), None, 0.0)) == 0
    file = tmp_path / str(database.owner.database)
    engine.dispose()
    away = file.rename(tmp_path / "away")
    looked = follower.poller.beat.last
    assert not follower.poller.try_poll()
    assert follower.poller.beat.last is not looked  # time passes
    assert follower.value("celery_beat_up") == 1
    away.rename(file)
    schedule(engine)
    add(engine, "hourly")
    follower.poll()
    entries = [labels["entry"] for labels, _ in follower.samples("celery_beat_entry_enabled")]
    assert entries == ["hourly"]
    follower.close()


@ON_SQLITE
def test_an_app_s_schedule_that_cannot_be_read(database: Database, engine: Engine) -> None:
    with engine.begin() as connection:
        insert(connection)
    follower = Follower(database.reader_url, beat_schedule=BeatSchedule(fault="is lost")).poll()
    assert follower.states() == {"SUCCESS": 1}
    assert metrics(follower) == {"celery_beat_up"}
    assert follower.value("celery_beat_up") == 0
    status = follower.poller.status.beat
    assert status is not None
    assert status.message == "is lost"
    assert check(Config((follower.poller.settings,), None, 0.0)) == 1
    follower.close()


@ON_SQLITE
def test_more_than_are_read(
    database: Database, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    schedule(engine)
    for number in range(4):
        add(engine, str(number))
    for module in (looks, reader):
        monkeypatch.setattr(module, "MOST_ENTRIES", 3)
    follower = Follower(database.reader_url).poll()
    assert follower.value("celery_beat_up") == 0
    assert follower.value("celery_beat_entries") == 4
    assert metrics(follower) == {
        "celery_beat_up", "celery_beat_entries", "celery_beat_entries_unreadable"
    }  # fmt: skip
    status = follower.poller.status.beat
    assert status is not None
    assert status.message.startswith("there are 4 entries, and at most 3 are read: ")
    follower.close()


@ON_SQLITE
@pytest.mark.parametrize(
    ("elsewhere", "why"),
    [
        ("postgresql://nobody@127.0.0.1:1/none", "onnection"),
        ("sqlite:///{folder}/missing.sqlite", "does not exist yet"),
        ("sqlite:///{folder}/other.sqlite", "there are no tables of celery beat"),
    ],
)
def test_another_database_that_is_no_use(
    database: Database,
    engine: Engine,
    tmp_path: Path,
    elsewhere: str,
    why: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "other.sqlite").touch()
    with engine.begin() as connection:
        insert(connection)
    follower = Follower(database.reader_url, beat_database=url(elsewhere, tmp_path)).poll()
    assert follower.states() == {"SUCCESS": 1}
    assert follower.value("celery_backend_up") == 1
    assert follower.value("celery_beat_up") == 0
    assert metrics(follower) == {"celery_beat_up"}
    status = follower.poller.status.beat
    assert status is not None
    assert why in status.message
    assert check(Config((follower.poller.settings,), None, 0.0)) == 1
    assert why in capsys.readouterr().out
    follower.close()


@ON_SQLITE
def test_what_was_seen_stays_while_the_other_database_is_away(
    database: Database, engine: Engine, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert engine
    own = make_url(f"sqlite:///{tmp_path}/beat.sqlite")
    other = create_engine(own, poolclass=NullPool)
    schedule(other)
    add(other, "hourly")
    follower = Follower(database.reader_url, beat_database=own).poll()
    assert follower.value("celery_beat_up") == 1
    assert check(Config((follower.poller.settings,), None, 0.0)) == 0
    said = "sqlalchemy-celery-beat, entries: 1, overdue: 0"
    assert said in capsys.readouterr().out
    without_results = from_url(f"sqlite:///{tmp_path}/none.sqlite", beat_database=own)
    assert check(without_results) == 1
    assert said in capsys.readouterr().out
    away = (tmp_path / "beat.sqlite").rename(tmp_path / "away")
    assert follower.poll().value("celery_beat_up") == 0
    assert follower.value("celery_beat_entry_enabled", entry="hourly") == 1
    away.rename(tmp_path / "beat.sqlite")
    assert follower.poll().value("celery_beat_up") == 1
    follower.close()


@pytest.mark.parametrize("database", ["postgresql"], indirect=True)
def test_tables_that_may_not_be_read_are_not_there(
    database: Database, engine: Engine, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    account = database.reader.username
    schedule(engine)
    with engine.begin() as connection:
        connection.execute(text(f"REVOKE SELECT ON celery_periodictask FROM {account}"))
    follower = Follower(database.reader_url).poll().poll()
    assert metrics(follower) == set()
    assert follower.value("celery_backend_up") == 1
    told = [record for record in caplog.records if record.message == beat.NO_RIGHT]
    assert len(told) == 1
    with engine.begin() as connection:
        connection.execute(text(f"GRANT SELECT ON celery_periodictask TO {account}"))
    assert follower.poll().value("celery_beat_up") == 1
    follower.close()


def url(pattern: str, folder: Path) -> URL:
    return make_url(pattern.format(folder=folder))
