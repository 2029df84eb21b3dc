"""A checkpoint's file: whose it is, who uses it, and whether it is still there.

SQLite goes on writing to a file that was deleted, replaced or overwritten, as if nothing had
happened, and mixes its log with whatever is there. So before each transaction the files at the path
are compared with what the last one left. What was put there is copied before it is written over:
it may be the only copy of what somebody wanted back.
"""

from __future__ import annotations

import fcntl
import logging
import os
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import IO
from urllib.parse import quote

from sqlalchemy import URL, Connection

from exporter.checkpoint.schema import PREFIX
from exporter.checkpoint.store import Snapshots, Store
from exporter.errors import CheckpointError

log = logging.getLogger(__name__)

APPLICATION_ID = 0x43525845  # "CRXE", in SQLite's header, where a file's format names its owner
_APPLICATION_ID_AT = slice(68, 72)  # https://www.sqlite.org/fileformat2.html
LARGEST_LOG = 4 * 1024 * 1024  # bytes, as SQLite has it by itself
_MAGIC = b"SQLite format 3\0"

# Device, inode, size and time of change in nanoseconds; None: not there. Not the content: to close
# a file is to lose the locks on it that SQLite has (POSIX).
State = tuple[int, ...] | None


class OwnFile(Store):
    """One file, for one process."""

    def __init__(self, path: Path) -> None:
        super().__init__(_url(path), _place(path))
        self.path = path.resolve()  # or a link to it would have a lock of its own
        self._wal = _beside(self.path, "-wal")
        self._lock: IO[bytes] | None = None
        self._left: State = None  # the file, as the last transaction has left it
        self._wal_left: State = None  # likewise; None: ours to change
        self._foreign = False  # somebody else has put there what is there, and it is not kept yet
        self._has_log = True

    def in_place(self) -> bool:
        """Whether what is at the path is what is open: else nothing that is written lasts."""
        return self._connection is not None and self._as_left() and self._locked()

    def size(self) -> int:
        """Return the bytes it takes on disk."""
        return sum(_size(part) for part in (self.path, self._wal))

    def retire(self) -> None:
        """Close it, and let another process use it."""
        super().retire()
        self._release()

    def close(self) -> None:
        """Discard the connection.

        SQLite then writes its log to the file, unless that has moved: what somebody else has put
        there must have moved for this moment.
        """
        if self._connection is None:
            return
        if self._as_left():
            super().close()
            self._note()
            return
        away = self._spare()
        with suppress(OSError):
            self.path.rename(away)
        super().close()
        if _state(away) != self._left and self._wal_left in (None, _state(self._wal)):
            self._wal.unlink(missing_ok=True)  # of what was there before
        with suppress(OSError):
            away.rename(self.path)

    def _as_left(self) -> bool:
        file, wal = _state(self.path), _state(self._wal)
        return self._left in (None, file) and self._wal_left in (None, wal)

    def _note(self) -> None:
        self._left, self._wal_left = _state(self.path), _state(self._wal)

    def _spare(self) -> Path:
        now = datetime.now(UTC)
        return _beside(self.path, f".replaced-{now:%Y%m%dT%H%M%S.%fZ}")

    def _begin(self) -> Connection:
        if not self.in_place():
            self.close()
        connection = super()._begin()
        self._wal_left = None
        return connection

    def _connect(self) -> Connection:
        refuse_foreign(self.path)
        self._take_lock()
        if not self._as_left():
            self._foreign = bool(_size(self.path))
            with _explained(self.path):
                if self._foreign and not _is_sound(self.path):
                    self._move_aside()
        self._left = self._wal_left = None
        connection = super()._connect()
        self._note()
        return connection

    def keep_what_was_put_there(self) -> None:
        """Copy it, if there is such, before it is written over."""
        if not self._foreign:
            return
        kept = self._spare()
        try:
            with (
                _explained(self.path),
                closing(_look_into(self.path)) as there,
                closing(sqlite3.connect(kept)) as copy,
            ):
                there.backup(copy)
                shutil.copymode(self.path, kept)
        except BaseException:  # a part of it is of no use, and takes what room there is
            kept.unlink(missing_ok=True)
            raise
        self._say_where(kept)

    def _move_aside(self) -> None:
        """Make room where there is what SQLite cannot read."""
        kept = self._spare()
        if _size(self._wal):
            self._wal.rename(_beside(kept, "-wal"))
        self.path.rename(kept)
        self._say_where(kept)

    def _say_where(self, kept: Path) -> None:
        self._foreign = False
        log.warning(
            "the checkpoint's file was replaced or changed while in use; what was there is kept",
            extra={"checkpoint": self.place, "kept_as": str(kept)},
        )

    def _prepare(self, connection: Connection) -> None:
        connection.exec_driver_sql(f"PRAGMA application_id = {APPLICATION_ID}")
        super()._prepare(connection)
        self._has_log = connection.exec_driver_sql("PRAGMA journal_mode").scalar() == "wal"
        # When the log goes to the file we say; once it is there it begins anew, and small.
        connection.exec_driver_sql("PRAGMA wal_autocheckpoint = 0")
        connection.exec_driver_sql("PRAGMA journal_size_limit = 0")

    def _end(self, connection: Connection) -> None:
        if self._left != _state(self.path):
            raise CheckpointError(f"{self.place}: was replaced or changed while written to")
        super()._end(connection)
        if not self._has_log:  # nor have some file systems of networks
            self._note()
            return
        # A commit changes the log alone: whatever has changed the file meanwhile was not us.
        self._wal_left = _state(self._wal)
        if _size(self._wal) > LARGEST_LOG and self._left == _state(self.path):
            connection.exec_driver_sql("PRAGMA wal_checkpoint(PASSIVE)")
            connection.commit()
            self._note()

    def _locked(self) -> bool:
        with suppress(OSError):
            there = _beside(self.path, ".lock").stat()
            return self._lock is not None and os.path.samestat(there, os.fstat(self._lock.fileno()))
        return False

    def _take_lock(self) -> None:
        """Keep other processes out. The lock goes with the process, however it ends."""
        if self._locked():
            return
        self._release()
        with _explained(self.path):
            # Never emptied: it may be somebody else's.
            file = _beside(self.path, ".lock").open("ab")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.close()
            raise CheckpointError(
                f"{_place(self.path)}: another process uses it; stop that one, or give this one "
                "its own"
            ) from None
        self._lock = file

    def _release(self) -> None:
        lock, self._lock = self._lock, None
        if lock is not None:
            lock.close()


def reading(path: Path) -> Snapshots:
    """Open a file for reading, beside the process that writes it."""
    if _state(path) is None:
        raise CheckpointError(f"{_place(path)}: does not exist")
    refuse_foreign(path)
    return Snapshots(_url(path), _place(path))


def refuse_foreign(path: Path) -> None:
    """Raise CheckpointError where there is a file that is not ours alone, and not empty."""
    with _explained(path):
        if _state(path) is None:
            return
        if path.stat().st_nlink > 1:  # each name would have a log and a lock of its own
            raise CheckpointError(
                f"{_place(path)}: has another name, a hard link: remove that, or make it a copy"
            )
        with path.open("rb") as file:
            start = file.read(_APPLICATION_ID_AT.stop)
        if not start:
            return
        owner = int.from_bytes(start[_APPLICATION_ID_AT]) if start.startswith(_MAGIC) else None
        if not (owner == APPLICATION_ID or (owner == 0 and _only_our_tables(path))):
            raise CheckpointError(
                f"{_place(path)}: is a file of something else, and stays as it is; name one that "
                "does not exist yet"
            )


def _only_our_tables(path: Path) -> bool:
    """Whether it is a checkpoint by version 0.1.0, which did not sign it."""
    with closing(_look_into(path)) as raw:
        names = [str(name) for (name,) in raw.execute("SELECT tbl_name FROM sqlite_master")]
    return f"{PREFIX}meta" in names and all(name.startswith(PREFIX) for name in names)


def _is_sound(path: Path) -> bool:
    """Whether SQLite can read all of it."""
    with closing(_look_into(path)) as raw:
        try:
            return bool(raw.execute("PRAGMA quick_check(1)").fetchall() == [("ok",)])
        except sqlite3.DatabaseError as error:
            if error.sqlite_errorcode & 0xFF not in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
                raise
            return False


def _look_into(path: Path) -> sqlite3.Connection:
    return sqlite3.connect(f"file:{quote(str(path.absolute()))}?mode=ro", uri=True)


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    """Say where the trouble is."""
    try:
        yield
    except OSError as error:
        raise CheckpointError(f"{_place(path)}: {error.strerror}") from None
    except sqlite3.Error as error:
        raise CheckpointError(f"{_place(path)}: {error}") from None


def _url(path: Path) -> URL:
    return URL.create("sqlite", database=str(path.absolute()))


def _place(path: Path) -> str:
    return f"checkpoint {path}"


def _beside(path: Path, ending: str) -> Path:
    return path.with_name(f"{path.name}{ending}")


def _state(path: Path) -> State:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:  # SQLite removes its log when nobody uses it
        return 0
