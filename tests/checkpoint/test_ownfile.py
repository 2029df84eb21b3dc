"""The checkpoint's file: nobody else's is touched, and one that is lost is written anew."""

from __future__ import annotations

import logging
import os
import shutil
import sqlite3
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from sqlalchemy import Connection, Engine, delete, event, text

from exporter.checkpoint.checkpoint import Checkpoint, open_file
from exporter.checkpoint.ownfile import APPLICATION_ID, LARGEST_LOG, OwnFile
from exporter.checkpoint.saved import read
from exporter.checkpoint.schema import SAVES, TABLES, TOTALS
from exporter.checkpoint.store import IN_A_DATABASE, Store
from exporter.config.settings import Config
from exporter.errors import CheckpointError
from exporter.runtime import service
from tests.follow import Follower, create_tables, insert, restored
from tests.servers.database import Database, SQLite

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

REWRITES = "celery_results_exporter_checkpoint_rewrites_total"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    folder = tmp_path / "kept"
    folder.mkdir()
    return folder / "checkpoint.sqlite"


@pytest.fixture
def results(tmp_path: Path) -> Iterator[Database]:
    with SQLite(tmp_path).fresh_database() as database:
        create_tables(database)
        yield database


# -- whose it is ---------------------------------------------------------------------------------


def sql(path: Path, script: str) -> None:
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript(script)


FOREIGN: dict[str, Callable[[Path], object]] = {
    "text": lambda path: path.write_text("nothing of ours"),
    "a database": lambda path: sql(path, "CREATE TABLE celery_taskmeta (id INTEGER)"),
    "a database with a mark": lambda path: sql(path, "PRAGMA application_id = 42"),
    "a database without a table": lambda path: sql(path, "PRAGMA user_version = 1"),
    # As version 0.1.0 left it where its path was that of the results.
    "results with our tables": lambda path: sql(
        path,
        "CREATE TABLE celery_taskmeta (id INTEGER);"
        "CREATE TABLE celery_results_exporter_meta (key TEXT, value TEXT);",
    ),
}


@pytest.mark.parametrize("what", FOREIGN)
def test_file_of_something_else_is_refused_and_kept(path: Path, what: str) -> None:
    FOREIGN[what](path)
    before = path.read_bytes()
    for use in (open_file, read):
        with pytest.raises(CheckpointError, match=r"checkpoint\.sqlite: is a file of something"):
            use(path)
    assert path.read_bytes() == before
    assert [file.name for file in path.parent.iterdir()] == [path.name]


@pytest.mark.parametrize("empty", [False, True])
def test_new_file_is_said_and_signed(
    path: Path, caplog: pytest.LogCaptureFixture, *, empty: bool
) -> None:
    if empty:
        path.touch()
    with caplog.at_level(logging.INFO):
        open_file(path).close()
        open_file(path).close()
    begun = [r for r in caplog.records if r.message == "a new checkpoint begins"]
    assert len(begun) == 1
    assert begun[0].checkpoint == f"checkpoint {path}"  # type: ignore[attr-defined]
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("PRAGMA application_id").fetchone() == (APPLICATION_ID,)


def test_file_has_one_lock_whatever_it_is_called(path: Path, tmp_path: Path) -> None:
    link = tmp_path / "link.sqlite"
    link.symlink_to(path)
    checkpoint = open_file(link)
    for name in (path, link):
        with pytest.raises(CheckpointError, match="another process uses it"):
            open_file(name)
    checkpoint.close()


def test_file_with_two_names_is_refused(path: Path, tmp_path: Path) -> None:
    """A process for each would write to it as if it were alone."""
    open_file(path).close()
    link = tmp_path / "link.sqlite"
    link.hardlink_to(path)
    for use in (open_file, read):
        for name in (path, link):
            with pytest.raises(CheckpointError, match="has another name, a hard link"):
                use(name)
    link.unlink()
    open_file(path).close()


def test_lock_empties_nobodys_file(path: Path) -> None:
    """A path of `poetry` puts its lock into `poetry.lock`."""
    lock = path.with_name(f"{path.name}.lock")
    lock.write_text("somebody's")
    open_file(path).close()
    assert lock.read_text() == "somebody's"


# -- whether it is still there -------------------------------------------------------------------


def saved(path: Path, backend: str) -> tuple[int, int]:
    """What a process that begins now would go on from: results, and rows that are watched."""
    reader = read(path)
    positions, tally = restored(reader, backend)
    reader.close()
    return sum(count for _, _, count in tally.by_task()), len(positions["task"].watched)


def followed(results: Database, path: Path) -> tuple[Checkpoint, Follower]:
    """Follow a table of one failure, which stays watched, with a checkpoint in this file."""
    with results.engine().begin() as connection:
        insert(connection, "FAILURE")
    checkpoint = open_file(path)
    return checkpoint, Follower(results.reader_url, checkpoint).poll()


def files(path: Path) -> list[Path]:
    return sorted(path.parent.glob(f"{path.name}*"))


def delete_all(path: Path) -> None:
    for file in files(path):
        file.unlink()


def replace_by_older(path: Path) -> None:
    older = older_copy(path)
    delete_all(path)
    older.replace(path)


def replace_by_empty(path: Path) -> None:
    path.with_name("empty").touch()
    path.with_name("empty").replace(path)


def older_copy(path: Path) -> Path:
    """Return a whole copy of an earlier time, of other pages."""
    older = path.with_name("older")
    with closing(sqlite3.connect(path)) as now, closing(sqlite3.connect(older)) as then:
        now.backup(then)
    sql(older, f"UPDATE {SAVES.name} SET stamp = 'earlier'; DELETE FROM {TOTALS.name}; VACUUM")
    return older


def overwrite(path: Path) -> None:
    shutil.copyfile(older_copy(path), path)


def replace_beside_its_log(path: Path) -> None:
    older_copy(path).replace(path)


def overwrite_by_half(path: Path) -> None:
    """The disk was full."""
    older = older_copy(path)
    os.truncate(older, older.stat().st_size // 2)
    shutil.copyfile(older, path)


def empty(path: Path) -> None:
    os.truncate(path, 0)


LOSSES = [
    delete_all,
    replace_by_older,
    replace_by_empty,
    overwrite,
    replace_beside_its_log,
    overwrite_by_half,
    empty,
    lambda path: path.unlink(),
]


@pytest.mark.parametrize("lose", LOSSES)
def test_lost_file_is_written_anew(
    results: Database,
    tmp_path: Path,
    path: Path,
    lose: Callable[[Path], None],
    caplog: pytest.LogCaptureFixture,
) -> None:
    """All backends, one that is down, too, although nothing happens in any."""
    with SQLite(tmp_path).fresh_database() as other:
        engines = [create_tables(other), results.engine()]
        for engine in engines:
            with engine.begin() as connection:
                insert(connection, "FAILURE")
                insert(connection, "STARTED")
        checkpoint = open_file(path)
        first = Follower(results.reader_url, checkpoint).poll()
        second = Follower(other.reader_url, checkpoint, name="down").poll()
        lose(path)
        Path(str(other.reader.database)).unlink()
        first.poll()
        assert not second.poller.try_poll()
        for follower in (first, second):
            assert follower.value(REWRITES) == 1
            assert saved(path, follower.poller.settings.name) == (1, 2)
            assert follower.poller.status.rewritten is not None
            assert follower.states() == {"FAILURE": 1}
        said = [r for r in caplog.records if "deleted or replaced while in use" in r.message]
        assert [r.backend for r in said] == ["celery", "down"]  # type: ignore[attr-defined]
        with results.engine().begin() as connection:
            insert(connection)
        first.poll()
        assert saved(path, "celery") == (2, 2)
        assert first.value(REWRITES) == 1
        first.close()
        second.close()
        checkpoint.close()


class Busy(OwnFile):
    """A file of several backends: once, something happens just after one has committed."""

    happens: Callable[[], None] | None = None

    @contextmanager
    def transaction(self, seconds: float | None = None) -> Iterator[Connection]:
        with super().transaction(seconds) as connection:
            yield connection
        happens, self.happens = self.happens, None
        if happens is not None:
            happens()


def test_loss_that_another_backend_is_first_to_meet(results: Database, path: Path) -> None:
    """It connects anew right after a save of the first, which has yet to note that it saved."""
    store = Busy(path)
    checkpoint = Checkpoint(store)
    checkpoint.open()
    follower = Follower(results.reader_url, checkpoint).poll()

    def lose() -> None:
        delete_all(path)
        with store.transaction():  # as the other backend does
            pass

    with results.engine().begin() as connection:
        insert(connection, "FAILURE")
    store.happens = lose
    follower.poll()
    assert follower.poll().value(REWRITES) == 1
    assert saved(path, "celery") == (1, 1)
    follower.close()
    checkpoint.close()


def content(path: Path) -> list[str] | bytes:
    """Return all rows, or the bytes where these are not to be read."""
    copy = shutil.copy(path, path.with_name("copy"))
    with closing(sqlite3.connect(copy)) as raw:
        try:
            return list(raw.iterdump())
        except sqlite3.DatabaseError:
            return path.read_bytes()


def delete_log(path: Path) -> None:
    path.with_name(f"{path.name}-wal").unlink()


def test_change_that_loses_nothing_leaves_no_copies(results: Database, path: Path) -> None:
    checkpoint, follower = followed(results, path)
    for _ in range(3):
        sql(path, "VACUUM")
        follower.poll()
    with results.engine().begin() as connection:
        insert(connection)
    assert follower.poll().value(REWRITES) == 0
    assert saved(path, "celery") == (2, 1)
    assert list(path.parent.glob("*.replaced-*")) == []
    follower.close()
    checkpoint.close()


@pytest.mark.parametrize(
    "put", [overwrite, replace_by_older, replace_beside_its_log, overwrite_by_half]
)
def test_what_was_put_there_is_kept(
    results: Database, path: Path, put: Callable[[Path], None], caplog: pytest.LogCaptureFixture
) -> None:
    """As it was, without our log; the log says where."""
    checkpoint, follower = followed(results, path)
    put(path)
    there = content(path)
    follower.poll().poll()
    (kept,) = path.parent.glob("*.replaced-*")
    assert content(kept) == there
    (said,) = (r for r in caplog.records if "replaced or changed while in use" in r.message)
    assert said.kept_as == str(kept)  # type: ignore[attr-defined]
    follower.close()
    checkpoint.close()
    assert [kept] == sorted(path.parent.glob("*.replaced-*"))


@pytest.mark.parametrize("put", [overwrite, replace_beside_its_log])
def test_end_leaves_what_was_put_there(
    results: Database, path: Path, put: Callable[[Path], None]
) -> None:
    """Who puts it there and restarts the exporter wants it to go on from that."""
    checkpoint, follower = followed(results, path)
    put(path)
    there = path.read_bytes()
    follower.close()
    checkpoint.close()
    assert path.read_bytes() == there
    assert not path.with_name(f"{path.name}-wal").exists()


def test_file_that_is_overwritten_while_written_to_is_left_alone(path: Path) -> None:
    store = OwnFile(path)
    checkpoint = Checkpoint(store)
    checkpoint.open()

    def save_while_overwritten() -> None:
        with store.transaction() as connection:
            connection.execute(SAVES.insert().values(backend="shop", stamp="new"))
            overwrite(path)

    with pytest.raises(CheckpointError, match="was replaced or changed while written to"):
        save_while_overwritten()
    with closing(sqlite3.connect(path)) as there:
        assert there.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        assert there.execute(f"SELECT count(*) FROM {SAVES.name}").fetchone() == (0,)
    checkpoint.close()


def test_file_that_is_overwritten_during_a_commit(results: Database, path: Path) -> None:
    """After the last look at it, and before what the commit has changed is noted as ours."""
    checkpoint, follower = followed(results, path)
    older = older_copy(path)

    def overwrite_once(connection: Connection) -> None:
        if path.name in str(connection.engine.url) and older.exists():
            shutil.copyfile(older, path)
            older.unlink()

    with results.engine().begin() as connection:
        insert(connection, "FAILURE")
    event.listen(Engine, "commit", overwrite_once)
    try:
        follower.poll()
    finally:
        event.remove(Engine, "commit", overwrite_once)
    assert not older.exists()
    assert follower.poll().value(REWRITES) == 1
    assert saved(path, "celery") == (2, 2)
    follower.close()
    checkpoint.close()


def test_log_goes_to_the_file_now_and_then(path: Path) -> None:
    store = OwnFile(path)
    checkpoint = Checkpoint(store)
    checkpoint.open()
    begun = path.stat().st_size
    largest = 0
    for number in range(40):
        with store.transaction() as connection:
            rows = [{"backend": f"{number} {n}", "stamp": "x" * 40} for n in range(4_000)]
            connection.execute(SAVES.insert(), rows)
        largest = max(largest, path.with_name(f"{path.name}-wal").stat().st_size)
        assert store.in_place()
    assert largest < 4 * LARGEST_LOG
    assert path.stat().st_size > begun + LARGEST_LOG
    assert path.with_name(f"{path.name}-wal").stat().st_size < 2 * LARGEST_LOG
    checkpoint.close()


def test_copy_of_all_files_that_is_put_back(results: Database, path: Path) -> None:
    """Its log, too; then the file itself may be the same one still."""
    checkpoint = open_file(path)
    follower = Follower(results.reader_url, checkpoint).poll()
    backup = path.with_name("backup")
    backup.mkdir()
    for file in files(path):
        shutil.copy2(file, backup)
    for results_then in (1, 2):
        with results.engine().begin() as connection:
            insert(connection, "FAILURE")
        follower.poll()
        for file in backup.glob("*-wal"):
            shutil.copy2(file, path.parent)
        follower.poll()
        assert saved(path, "celery") == (results_then, results_then)
        assert follower.value(REWRITES) == results_then
    follower.close()
    checkpoint.close()


def test_log_that_is_deleted_loses_nothing(results: Database, path: Path) -> None:
    """SQLite has it open, and what is in it goes to the file when that is closed."""
    checkpoint, follower = followed(results, path)
    delete_log(path)
    follower.poll()
    assert saved(path, "celery") == (1, 1)
    follower.close()
    checkpoint.close()


@contextmanager
def unreadable(results: Database) -> Iterator[None]:
    path = Path(str(results.reader.database))
    away = path.replace(path.with_name("away"))
    path.write_text("no database")
    yield
    away.replace(path)


def counted_before(results: Database, checkpoint: Checkpoint) -> None:
    with results.engine().begin() as connection:
        insert(connection, "FAILURE")
    Follower(results.reader_url, checkpoint).poll().close()
    checkpoint.close()
    with results.engine().begin() as connection:
        connection.execute(text("DELETE FROM celery_taskmeta"))


@pytest.mark.parametrize("put", ["moved", "copied"])
def test_who_has_counted_nothing_yet_goes_on_from_what_is_put_there(
    results: Database, path: Path, put: str
) -> None:
    """Its backend was down all the time, say: what is in memory is nothing."""
    counted_before(results, open_file(path))
    older = path.replace(path.with_name("older"))
    checkpoint = open_file(path)
    with unreadable(results):
        follower = Follower(results.reader_url, checkpoint)
        assert not follower.poller.try_poll()
        if put == "moved":
            delete_all(path)
            older.replace(path)
        else:
            shutil.copyfile(older, path)
        assert not follower.poller.try_poll()
        assert follower.states() == {"FAILURE": 1}
    with results.engine().begin() as connection:
        insert(connection, id=100)
    assert follower.poll().states() == {"FAILURE": 1, "SUCCESS": 1}
    assert follower.value(REWRITES) == 0
    assert saved(path, "celery") == (2, 0)
    follower.close()
    checkpoint.close()


@pytest.mark.parametrize("database", ["postgresql", "mariadb-pymysql"], indirect=True)
def test_who_has_counted_nothing_yet_goes_on_from_what_a_database_is_given(
    database: Database, results: Database
) -> None:
    """Even where it comes between two steps of one poll: an error, and no row is lost."""
    checkpoint = Checkpoint(Store(database.owner, IN_A_DATABASE))
    checkpoint.open()
    follower = Follower(results.reader_url, checkpoint)
    counted_before(results, Checkpoint(Store(database.owner, IN_A_DATABASE)))
    assert not follower.poller.try_poll()
    assert "counts that are not known here yet" in follower.poller.status.message
    assert follower.poll().states() == {"FAILURE": 1}
    follower.close()
    checkpoint.close()


def test_counts_of_another_table_are_not_written_over(
    results: Database, tmp_path: Path, path: Path
) -> None:
    """They are not ours; what was counted stays in memory until there is a place for it."""
    with SQLite(tmp_path).fresh_database() as other:
        create_tables(other)
        counted_before(other, open_file(path))
    older = path.replace(path.with_name("older"))
    with results.engine().begin() as connection:
        insert(connection)
    checkpoint = open_file(path)
    follower = Follower(results.reader_url, checkpoint).poll()
    shutil.copyfile(older, path)
    for _ in range(2):
        assert not follower.poller.try_poll()
    message = follower.poller.status.message
    assert "was replaced while in use: the checkpoint holds counts of celery_taskmeta of" in message
    assert follower.states() == {"SUCCESS": 1}
    assert follower.value("celery_backend_poll_errors_total", reason="checkpoint") == 2
    assert saved(path, "celery") == (1, 1)
    delete_all(path)
    assert follower.poll().states() == {"SUCCESS": 1}
    assert saved(path, "celery") == (1, 0)
    follower.close()
    checkpoint.close()


@pytest.mark.parametrize("replaced", [False, True])
def test_results_file_that_is_replaced_is_read(results: Database, *, replaced: bool) -> None:
    """A connection goes on reading what was deleted: Celery's new rows are elsewhere."""
    follower = Follower(results.reader_url).poll()
    Path(str(results.reader.database)).unlink()
    if replaced:
        with create_tables(results).begin() as connection:
            insert(connection)
        assert follower.poll().states() == {"SUCCESS": 1}
    else:
        assert not follower.poller.try_poll()
        assert "does not exist yet" in follower.poller.status.message
    follower.close()


def test_folder_that_is_gone_is_waited_for(results: Database, path: Path) -> None:
    with results.engine().begin() as connection:
        insert(connection)
    checkpoint = open_file(path)
    follower = Follower(results.reader_url, checkpoint).poll()
    shutil.rmtree(path.parent)
    with results.engine().begin() as connection:
        insert(connection)
    assert not follower.poller.try_poll()
    assert "checkpoint" in follower.poller.status.message
    assert follower.states() == {"SUCCESS": 1}
    path.parent.mkdir()
    assert follower.poll().states() == {"SUCCESS": 2}
    assert saved(path, "celery") == (2, 0)
    follower.close()
    checkpoint.close()


def test_file_of_something_else_in_its_place_is_left_alone(results: Database, path: Path) -> None:
    checkpoint = open_file(path)
    follower = Follower(results.reader_url, checkpoint).poll()
    path.unlink()
    path.write_text("nothing of ours")
    assert not follower.poller.try_poll()
    assert "is a file of something else" in follower.poller.status.message
    assert path.read_text() == "nothing of ours"
    path.unlink()
    assert follower.poll().value(REWRITES) == 1
    follower.close()
    checkpoint.close()


def test_another_process_that_has_it_then_keeps_it(results: Database, path: Path) -> None:
    """It could begin since the lock was deleted, too."""
    checkpoint = open_file(path)
    follower = Follower(results.reader_url, checkpoint).poll()
    delete_all(path)
    other = open_file(path)
    assert not follower.poller.try_poll()
    assert "another process uses it" in follower.poller.status.message
    other.close()
    follower.poll()
    follower.close()
    checkpoint.close()


@pytest.mark.parametrize(
    "database", ["postgresql", "mariadb-pymysql", "mariadb-mysqlclient"], indirect=True
)
@pytest.mark.parametrize("how", ["emptied", "older", "dropped"])
def test_database_that_lost_it_is_written_anew(database: Database, how: str) -> None:
    """What changed since would make no sense in an older state of it."""
    with create_tables(database).begin() as connection:
        insert(connection, "FAILURE")
    checkpoint = Checkpoint(Store(database.owner, IN_A_DATABASE))
    checkpoint.open()
    follower = Follower(database.reader_url, checkpoint).poll()
    with database.engine().begin() as connection:
        if how == "dropped":
            TABLES.drop_all(connection)
        elif how == "emptied":
            for table in TABLES.sorted_tables:
                connection.execute(delete(table))
        else:
            connection.execute(SAVES.update().values(stamp="of an earlier time"))
            connection.execute(text("DELETE FROM celery_results_exporter_total"))
        insert(connection, "STARTED")
    if how == "dropped":
        assert not follower.poller.try_poll()
    follower.poll()
    assert follower.value(REWRITES) == 1
    reader = read(database.owner)
    positions, tally = restored(reader, "celery")
    reader.close()
    assert sum(count for _, _, count in tally.by_task()) == 1
    assert len(positions["task"].watched) == 2
    follower.close()
    checkpoint.close()


# -- its size ------------------------------------------------------------------------------------


def test_scrape_does_not_ask_the_disk(results: Database, path: Path) -> None:
    """The size is that of the last save, whatever became of the files since."""
    served = service.Service(Config((), path, 0.0))
    checkpoint = served.polling.checkpoint if served.polling else None
    assert checkpoint is not None
    follower = Follower(results.reader_url, checkpoint)
    with results.engine().begin() as connection:
        insert(connection)
    follower.poll()
    expected = path.stat().st_size + path.with_name(f"{path.name}-wal").stat().st_size
    assert checkpoint.size == expected
    shutil.rmtree(path.parent)
    follower.exposition = served.polling.exposition  # type: ignore[union-attr]
    assert follower.value("celery_results_exporter_checkpoint_size_bytes") == expected
    follower.close()
    served.stop()
