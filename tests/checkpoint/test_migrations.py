"""Checkpoints written by earlier versions are read; those of later ones are left alone."""

from __future__ import annotations

import json
import logging
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from sqlalchemy import select, text, update

from exporter.checkpoint import records
from exporter.checkpoint.checkpoint import Checkpoint, open_file
from exporter.checkpoint.lease import Leases
from exporter.checkpoint.migrations import STEPS, VERSION
from exporter.checkpoint.ownfile import OwnFile
from exporter.checkpoint.schema import META, TOTALS, WATCHED
from exporter.checkpoint.store import IN_A_DATABASE, Store
from exporter.commands import check
from exporter.commands.verify import verify
from exporter.config.loading import from_url
from exporter.config.settings import Config
from exporter.counting.lifecycle import Watch
from exporter.counting.results import Labels
from exporter.counting.spans import Missing, Span
from exporter.counting.step import Anchor, Mark
from exporter.counting.tally import Tally
from exporter.counting.values import Newest, Total
from exporter.errors import CheckpointError
from exporter.metrics import catalogue
from exporter.sql.dialects import Limits
from exporter.sql.identity import Identity
from tests.checkpoint.older import WRITTEN, copy, written
from tests.follow import restored

if TYPE_CHECKING:
    from tests.servers.database import Database

LOWEST = -(2**63)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "checkpoint.sqlite"


def check_content(checkpoint: Checkpoint) -> None:
    """All that the fixture of schema 1 holds, and those that followed from it, is there."""
    positions, tally = restored(checkpoint, "celery")
    task, group = positions["task"], positions["group"]
    assert (task.cursor, task.named, task.complete, task.looked) == (101, True, True, True)
    assert task.anchors == (
        Anchor(1, "00000000-0000-0000-0000-000000000001"),
        Anchor(101, "00000000-0000-0000-0000-000000000018"),
    )
    seen, late = 1795600462.0869758, 1795600462.9309373
    assert [(gap.missing, gap.since) for gap in task.gaps] == [
        (Missing(Span(LOWEST, 0)), seen),
        (Missing(Span(2, 11), 0x3A), seen),
        (Missing(Span(20, 99)), seen),
    ]
    ((span, since, audits, counted, _),) = group.segments
    assert (span, since, audits, counted) == (Span(LOWEST, 1), seen, 0, {"": 1})
    labels, revised = ("w1@host", "celery"), 1795604062.9309373
    assert task.watched == {
        14: Watch(
            *("FAILURE", "메일.send", *labels, seen, 1795604062.0869758),
            counted=("FAILURE", "메일.send", *labels),
        ),
        15: Watch("RETRY", "app.add", "", "", seen),
        16: Watch("REVOKED", "", "", "", 1795600462.891318, 1795601062.0869758),
        19: Watch("STARTED", "app.slow", *labels, seen, started=seen),
        101: Watch(
            *("FAILURE", "app.add", *labels, late, revised),
            counted=("FAILURE", "app.add", *labels),
        ),
    }
    added = tally.values[catalogue.RESULTS, ("app.add", "SUCCESS", *labels)]
    assert added == Total(10, seen)
    revisions = tally.values[catalogue.REVISED, ("app.add", "FAILURE", "SUCCESS")]
    assert revisions.value == 1
    assert tally.values[catalogue.LAST_FINISHED, ("메일.send", "FAILURE")] == Newest(
        1795600461.735177
    )
    runtime = tally.values[catalogue.RUNTIME, ("app.slow",)]
    assert (runtime.bounds, runtime.counts) == (catalogue.RUNTIME_BUCKETS, (1, *[0] * 14))
    assert tally.room.exceptions == {""}
    assert len(tally.values) == 33
    orders, _ = restored(checkpoint, "orders")
    assert (orders["task"].cursor, orders["task"].below) == (LOWEST, LOWEST)
    assert (orders["group"].cursor, orders["group"].looked) == (None, True)


@pytest.mark.parametrize("schema", range(1, VERSION))
def test_checkpoint_of_each_version_is_read(path: Path, schema: int) -> None:
    """And again, when it has been brought to this one."""
    written(path, schema)
    for _ in range(2):
        checkpoint = open_file(path)
        check_content(checkpoint)
        checkpoint.close()


def test_there_is_a_checkpoint_of_each_version() -> None:
    """A new step comes with what the version before it wrote."""
    assert len(STEPS) == VERSION - 1
    names = [f"schema-{schema}.sql" for schema in range(1, VERSION)]
    assert sorted(file.name for file in WRITTEN.iterdir()) == names


@pytest.mark.parametrize(
    "database", ["postgresql", "mariadb-pymysql", "mariadb-mysqlclient"], indirect=True
)
def test_step_1_in_a_database(database: Database, path: Path) -> None:
    copy(written(path, 1), database.engine())
    checkpoint = Checkpoint(Store(database.owner, IN_A_DATABASE))
    checkpoint.open()
    check_content(checkpoint)
    checkpoint.close()


def test_step_1_names_fields_and_parts_of_the_identity(path: Path) -> None:
    written(path, 1)
    store = OwnFile(path)
    checkpoint = Checkpoint(store)
    checkpoint.open()
    found = checkpoint.identities()
    with store.transaction() as connection:
        watches = connection.execute(select(WATCHED.c.id, WATCHED.c.watch)).all()
        labels = connection.execute(select(TOTALS.c.labels)).scalars().all()
    checkpoint.close()
    assert found["orders"]["task"] == Identity(
        "celery.celery_taskmeta", "postgresql db.example orders"
    )
    assert found["celery"]["group"] == Identity(
        "celery_tasksetmeta", "sqlite /var/lib/celery/results.sqlite"
    )
    assert json.loads(dict(watches)[15]) == {  # type: ignore[arg-type]
        "state": "RETRY",
        "task": "app.add",
        "worker": "",
        "queue": "",
        "first_seen": 1795600462.0869758,
    }
    assert all(isinstance(json.loads(text), dict) for text in labels)


def test_step_1_is_done_wholly_or_not_at_all(path: Path) -> None:
    """What cannot be understood is left as it is, and said."""
    written(path, 1)
    with closing(sqlite3.connect(path)) as raw, raw:
        raw.execute("UPDATE celery_results_exporter_total SET labels = '[' WHERE value LIKE '[2%'")
        before = _rows(raw)
    with pytest.raises(CheckpointError, match=str(path)):
        open_file(path)
    with closing(sqlite3.connect(path)) as raw:
        assert _rows(raw) == before


def _rows(raw: sqlite3.Connection) -> list[str]:
    """Return all rows; tables that are new may be there, and have none."""
    return [line for line in raw.iterdump() if line.startswith("INSERT")]


def test_step_2_names_what_is_known_of_deleted_rows(path: Path) -> None:
    """The third and fifth of five rows were deleted before the fourth came late."""
    written(path, 2)
    checkpoint = open_file(path)
    positions, _ = restored(checkpoint, "shortened")
    checkpoint.close()
    task, group = positions["task"], positions["group"]
    assert (task.cursor, task.deleted_above, task.came_late) == (5, 2, (4,))
    assert task.plan(0.0).deleted == Span(3, 5)
    assert (group.looked, group.deleted_above, group.came_late) == (True, None, ())
    with closing(sqlite3.connect(path)) as raw:
        marks = raw.execute("SELECT mark FROM celery_results_exporter_position").fetchall()
    assert len(marks) == 6
    for (mark,) in marks:
        later = {"followed_above", "settled"}
        assert json.loads(mark).keys() == Mark.__annotations__.keys() - later


@pytest.mark.parametrize("holder", ["", "a/1/b"])
def test_step_3_divides_the_lease(database: Database, path: Path, holder: str) -> None:
    """Who leads by the old lease may serve all backends until it looks again."""
    copy(written(path, 3), database.engine())
    old = "celery_results_exporter_lease"
    with database.engine().begin() as connection:
        connection.execute(
            text(f"CREATE TABLE {old} (name VARCHAR(16), holder VARCHAR(190), beat BIGINT)")
        )
        connection.execute(text(f"INSERT INTO {old} VALUES ('leader', '{holder}', 7)"))
    checkpoint = Checkpoint(Store(database.owner, IN_A_DATABASE))
    checkpoint.open()
    check_content(checkpoint)
    checkpoint.close()
    leases = Leases(Store(database.owner, IN_A_DATABASE))
    sight = leases.look()
    leases.close()
    followed = dict.fromkeys(("celery", "orders", "shortened"), holder) if holder else {}
    assert sight.leases == followed
    assert {name: sight.follower(name) for name in followed} == followed
    beat = text(f"UPDATE {old} SET beat = beat + 1 WHERE holder = '{holder}'")
    with database.engine().begin() as connection:
        assert connection.execute(beat).rowcount == (0 if holder else 1)


def _make_newer(database: Database) -> None:
    checkpoint = Checkpoint(Store(database.owner, IN_A_DATABASE))
    checkpoint.open()
    checkpoint.close()
    with database.engine().begin() as connection:
        connection.execute(update(META).values(value=str(VERSION + 1)))


def test_newer_checkpoint_is_refused(
    database: Database, capsys: pytest.CaptureFixture[str]
) -> None:
    """By `run` and `once`, which open it, by `check` and by `verify`; nothing in it changes."""
    _make_newer(database)
    refused = f"newer version of the exporter.*schema {VERSION + 1}.*run that version"
    with pytest.raises(CheckpointError, match=refused):
        Checkpoint(Store(database.owner, IN_A_DATABASE)).open()
    config = Config(from_url(database.reader_url).backends, database.owner, 0.0)
    assert verify(config) == 1
    assert check.check(config) == 1
    out = capsys.readouterr().out
    assert out.count("was written by a newer version of the exporter") == 2
    with database.engine().connect() as connection:
        assert connection.scalar(select(META.c.value)) == str(VERSION + 1)


def test_replica_refuses_what_a_newer_one_has_migrated(database: Database) -> None:
    """In a rolling upgrade: one that led before, and connects anew."""
    store = Store(database.owner, IN_A_DATABASE)
    checkpoint = Checkpoint(store)
    checkpoint.open()
    _make_newer(database)
    store.close()
    with pytest.raises(CheckpointError, match="newer version"):
        checkpoint.keep("shop", {}, Tally(10, 0.0))
    checkpoint.close()


@pytest.mark.parametrize("database", ["sqlite", "postgresql"], indirect=True)
def test_check_migrates_nothing(
    database: Database, path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The version that wrote it may still be running."""
    copy(written(path, 1), database.engine())
    config = Config(from_url(database.reader_url).backends, database.owner, 0.0)
    check.check(config)
    assert f"schema    1: the next start brings it to {VERSION}" in capsys.readouterr().out
    assert verify(config) == 1
    assert "older version of the exporter (schema 1" in capsys.readouterr().out
    with database.engine().connect() as connection:
        assert connection.scalar(select(META.c.value)) == "1"


def test_unknown_metric_is_kept_and_said(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """One that another version had, or whose labels were others there."""
    written(path, 1)
    store = OwnFile(path)
    checkpoint = Checkpoint(store)
    checkpoint.open()
    renamed = "UPDATE celery_results_exporter_total SET metric = 'celery_task_ended_total'"
    relabelled = 'UPDATE celery_results_exporter_total SET labels = \'{"task":"app.add"}\''
    with store.transaction() as connection:
        connection.execute(text(f"{renamed} WHERE metric = 'celery_task_results_total'"))
        connection.execute(text(f"{relabelled} WHERE metric = 'celery_task_retries_total'"))
    with caplog.at_level(logging.WARNING):
        _, tally = restored(checkpoint, "celery")
    said = {record.metric: record.series for record in caplog.records}  # type: ignore[attr-defined]
    assert said == {"celery_task_ended_total": 12, "celery_task_retries_total": 3}
    assert tally.values[catalogue.GROUP_RESULTS, ()].value == 1
    with store.transaction() as connection:
        assert len(connection.execute(select(TOTALS)).all()) == 33
    checkpoint.close()


@pytest.mark.parametrize("counted", [None, ("REVOKED", "a", "w", "q"), ("REVOKED", "", "", "")])
@pytest.mark.parametrize("rerun", [False, True])
@pytest.mark.parametrize("until", [None, 1e9])
def test_watched_rows_are_kept_as_they_are(
    counted: Labels | None,
    until: float | None,
    *,
    rerun: bool,
) -> None:
    """Unfinished, held and settled ones: what they count as may be another thing."""
    kept = Watch("REVOKED", "", "", "", 1e9, 0.0, until, counted=counted, rerun=rerun)
    assert records.read_watch(records.watch(kept)) == kept


def test_migrating_and_restoring_may_take_longer_than_a_save(path: Path) -> None:
    """A save has its limit, since the poll waits for it; at a start nobody does."""
    limits = Limits(connect=5.0, query=0.0)  # over before anything is done
    store = OwnFile(written(path, 1, more_watched=20_000))
    store.dialect.limits = limits
    checkpoint = Checkpoint(store)
    checkpoint.open()
    positions, _ = restored(checkpoint, "celery")
    assert len(positions["task"].watched) == 20_005
    with pytest.raises(CheckpointError, match="interrupted"), store.transaction() as connection:
        connection.execute(select(WATCHED)).all()
    checkpoint.close()
