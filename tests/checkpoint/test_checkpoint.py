"""What survives: crashes, restarts, a full disk; and what is refused."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import rule
from sqlalchemy import delete, make_url, select, text

from exporter.checkpoint.checkpoint import Checkpoint, open_file
from exporter.checkpoint.ownfile import OwnFile
from exporter.checkpoint.store import IN_A_DATABASE, Store
from exporter.checkpoint.writing import Save, Staged
from exporter.counting import feeds
from exporter.counting.position import Position
from exporter.counting.step import CHUNK_ROWS
from exporter.counting.tally import Tally
from exporter.errors import CheckpointError
from exporter.sql.identity import Identity
from tests.counting.test_position import TIMES, ManyLabels, ManyWriters
from tests.follow import TASKS, Follower, create_tables, insert, update

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from sqlalchemy import Connection, Engine

    from tests.servers.database import Database

ONE = {"task": Identity("celery_taskmeta", "postgresql db.example orders")}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "checkpoint.sqlite"


class Crashing(ManyWriters):
    """Many writers, and an exporter that is killed and started again at any time."""

    def __init__(self) -> None:
        super().__init__()
        # In memory, nothing is synced to disk: thousands of saves are quick.
        self.store = Checkpoint(Store(make_url("sqlite://"), "checkpoint"))
        self.store.open()
        self.store.recognise("a", ONE)
        self.tally = Tally(10_000, 0.0)
        following, store = self.following, self.store

        def take_over(change: object) -> None:
            changes = self.tally.count("task", feeds.tasks, change, following.now, live=True)  # type: ignore[arg-type]
            staged = Staged("task", following.position, change)  # type: ignore[arg-type]
            positions = {"task": following.position}
            store.save("a", Save((staged,), changes), positions, self.tally)
            following.position.apply(change)  # type: ignore[arg-type]
            self.tally.apply(changes)

        following.take_over = take_over

    @rule(saved=st.booleans())
    def crash(self, *, saved: bool) -> None:
        """Die in a step, after what it read was saved or before."""
        following = self.following
        following.position.pass_to(following.now)
        batch = self.table.read(following.position.plan(following.now))
        change = following.position.advance(batch, following.now)
        changes = self.tally.count("task", feeds.tasks, change, following.now, live=True)
        if saved:
            staged = Staged("task", following.position, change)
            positions = {"task": following.position}
            self.store.save("a", Save((staged,), changes), positions, self.tally)
            following.counted.take(change.outcomes)
            self._see()
        following.position = Position(following.position.rules)
        self.tally = Tally(10_000, 0.0)
        self.store.restore("a", {"task": following.position}, self.tally)

    def check_totals(self) -> None:
        totals = {
            (labels[1], labels[0], *labels[2:]): value.value
            for (metric, labels), value in self.tally.values.items()
            if metric.name == "celery_task_results_total" and value.value
        }
        assert totals == self.following.counted.by_labels

    def teardown(self) -> None:
        self.check_totals()
        self.store.close()


Crashing.TestCase.settings = settings(max_examples=20 * TIMES, stateful_step_count=20)
TestCrashing = pytest.mark.timeout(1800)(Crashing.TestCase)


class CrashingManyLabels(Crashing):
    """The same where there is hardly room for the labels of watched rows."""

    label_sets = 1
    are_unfinished = ManyLabels.are_unfinished
    relabel = ManyLabels.relabel
    _nameless = ManyLabels._nameless


CrashingManyLabels.TestCase.settings = Crashing.TestCase.settings
TestCrashingManyLabels = pytest.mark.timeout(1800)(CrashingManyLabels.TestCase)


def test_counts_go_on_after_a_restart(database: Database, engine: Engine, path: Path) -> None:
    """What happened meanwhile is counted, whatever it was."""
    checkpoint = open_file(path)
    follower = Follower(database.reader_url, checkpoint)
    with engine.begin() as connection:
        for number in range(1, 6):
            insert(connection, id=2 * number)
        started = insert(connection, "STARTED", id=12)
        failed = insert(connection, "FAILURE", id=14)
        stuck = insert(connection, "RETRY", id=16)
    before = follower.poll().value("celery_task_oldest_unfinished_timestamp_seconds", state="RETRY")
    assert follower.states() == {"SUCCESS": 5, "FAILURE": 1}
    follower.close()
    checkpoint.close()

    with engine.begin() as connection:
        update(connection, started, "SUCCESS")
        update(connection, failed, "SUCCESS")
        insert(connection, "REVOKED", id=20)
        insert(connection, id=7)  # committed late
    checkpoint = open_file(path)
    follower = Follower(database.reader_url, checkpoint).poll()
    assert follower.states() == {"SUCCESS": 8, "FAILURE": 1, "REVOKED": 1}
    revised = follower.value("celery_task_results_revised_total", from_state="FAILURE")
    assert revised == 1
    age = follower.value("celery_task_oldest_unfinished_timestamp_seconds", state="RETRY")
    assert age == before
    with engine.begin() as connection:
        connection.execute(delete(TASKS).where(TASKS.c.id == stuck))
    assert follower.poll().value("celery_task_unfinished_vanished_total", state="RETRY") == 1
    follower.close()
    checkpoint.close()


def test_rows_come_late_between_increments(database: Database, engine: Engine, path: Path) -> None:
    """Galera's nodes take turns with ids, and one of them may be behind; over a restart."""
    settings = {"late_commit_grace": 600.0}
    checkpoint = open_file(path)
    with engine.begin() as connection:
        for number in range(100):
            insert(connection, id=3 * number + 1)
    follower = Follower(database.reader_url, checkpoint, **settings).poll()
    assert follower.value("celery_backend_gap_ids", table="task") == 198
    follower.close()
    checkpoint.close()
    with engine.begin() as connection:
        for number in range(0, 90, 2):
            insert(connection, "FAILURE", id=3 * number + 2)
    checkpoint = open_file(path)
    follower = Follower(database.reader_url, checkpoint, **settings)
    while follower.poll().states()["FAILURE"] < 45:
        pass
    assert follower.states() == {"SUCCESS": 100, "FAILURE": 45}
    assert follower.value("celery_backend_late_rows_total", table="task") == 45
    assert follower.value("celery_backend_gap_ids", table="task") == 198 - 45
    assert len(follower.poller.follower.positions["task"].gaps) <= 3
    follower.close()
    checkpoint.close()


@pytest.fixture
def sqlite(database: Database) -> Database:
    create_tables(database)
    return database


ONLY_SQLITE = pytest.mark.parametrize("database", ["sqlite"], indirect=True)


@ONLY_SQLITE
def test_history_half_counted_is_not_served_after_a_crash(sqlite: Database, path: Path) -> None:
    """What follows would be an increase, and it is none."""
    rows = CHUNK_ROWS + 1
    with sqlite.engine().begin() as connection:
        for _ in range(rows):
            insert(connection)
    checkpoint = open_file(path)
    follower = Follower(sqlite.reader_url, checkpoint)
    follower.poller.follower.step()
    assert follower.poller.follower.positions["task"].backlog == 1
    follower.close()
    checkpoint.close()
    checkpoint = open_file(path)
    follower = Follower(sqlite.reader_url, checkpoint)
    follower.poller.publish()
    assert follower.states() == {}
    assert follower.poll().states() == {"SUCCESS": rows}
    follower.close()
    checkpoint.close()


@ONLY_SQLITE
def test_nothing_is_written_when_nothing_changed(sqlite: Database, path: Path) -> None:
    checkpoint = open_file(path)
    with sqlite.engine().begin() as connection:
        insert(connection, "STARTED")
        insert(connection, "FAILURE")
    follower = Follower(sqlite.reader_url, checkpoint).poll()
    last = checkpoint.last_commit
    follower.poll().poll()
    assert last is not None
    assert checkpoint.last_commit == last
    follower.close()
    checkpoint.close()


class SmallFile(OwnFile):
    """One on a disk that has room for so many pages."""

    pages = 1_000_000

    @contextmanager
    def transaction(self, seconds: float | None = None) -> Iterator[Connection]:
        with super().transaction(seconds) as connection:
            connection.execute(text(f"PRAGMA max_page_count = {self.pages}"))
            yield connection


@ONLY_SQLITE
def test_full_disk_serves_nothing_and_loses_nothing(sqlite: Database, path: Path) -> None:
    store = SmallFile(path)
    checkpoint = Checkpoint(store)
    checkpoint.open()
    follower = Follower(sqlite.reader_url, checkpoint).poll()
    with store.transaction() as connection:
        store.pages = connection.execute(text("PRAGMA page_count")).scalar_one()
    with sqlite.engine().begin() as connection:
        for number in range(200):
            insert(connection, "FAILURE", name=f"task{number}" + 100 * "x")
    assert not follower.poller.try_poll()
    assert "disk is full" in follower.poller.status.message
    assert follower.states() == {}
    assert follower.value("celery_backend_up") == 0
    assert follower.value("celery_backend_poll_errors_total", reason="checkpoint") == 1
    store.pages = 1_000_000
    assert follower.poll().states() == {"FAILURE": 200}
    follower.close()
    checkpoint.close()


def test_second_process_is_refused(path: Path) -> None:
    checkpoint = open_file(path)
    with pytest.raises(CheckpointError, match="another process uses it"):
        open_file(path)
    checkpoint.close()
    open_file(path).close()


@pytest.mark.parametrize("content", [b"this is no database", b"SQLite format 3\0" + b"\xff" * 4096])
def test_unreadable_checkpoint_is_refused_and_kept(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=str(path)):
        open_file(path)
    assert path.read_bytes() == content


def test_checkpoint_of_a_newer_version_is_refused(path: Path) -> None:
    store = OwnFile(path)
    checkpoint = Checkpoint(store)
    checkpoint.open()
    with store.transaction() as connection:
        connection.execute(text("UPDATE celery_results_exporter_meta SET value = '999'"))
    checkpoint.close()
    with pytest.raises(CheckpointError, match="newer version"):
        open_file(path)


@pytest.mark.parametrize("database", ["sqlite", "postgresql"], indirect=True)
def test_what_is_closed_goes_no_further(database: Database) -> None:
    """A transaction that would take long lets go at its next statement: another may lead."""
    store = Store(database.owner, IN_A_DATABASE)
    engine = create_tables(database)

    def write() -> None:
        with store.transaction() as connection:
            insert(connection)
            store.retire()
            connection.execute(text("SELECT 1"))

    for _ in range(2):
        with pytest.raises(CheckpointError, match="is closed"):
            write()
    with engine.connect() as connection:
        assert connection.execute(select(TASKS.c.id)).all() == []


def test_missing_folder_is_one_clear_error(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="No such file or directory"):
        open_file(tmp_path / "no" / "such" / "folder.sqlite")
