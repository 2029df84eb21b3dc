"""A checkpoint's file: whose it is, who uses it, and whether it is still there.

SQLite goes on writing to a file that was deleted, or replaced by another, as if nothing had
happened. So before each transaction the files at the path are compared with those that are open.
"""

from __future__ import annotations

import fcntl
import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import IO
from urllib.parse import quote

from sqlalchemy import URL, Connection

from exporter.errors import CheckpointError
from exporter.schema import PREFIX
from exporter.store import Snapshots, Store

APPLICATION_ID = 0x43525845  # "CRXE", in SQLite's header, where a file's format names its owner
_APPLICATION_ID_AT = slice(68, 72)  # https://www.sqlite.org/fileformat2.html
_MAGIC = b"SQLite format 3\0"

File = tuple[int, int] | None  # device and inode; None: not there


class OwnFile(Store):
    """One file, for one process."""

    def __init__(self, path: Path) -> None:
        super().__init__(_url(path), _place(path))
        self.path = path.resolve()  # or a link to it would have a lock of its own
        self._lock: IO[bytes] | None = None
        self._open_files: tuple[File, ...] = ()
        self._wal: File = None  # as of the first commit on this connection

    def in_place(self) -> bool:
        """Whether what is at the path is what is open: else nothing that is written lasts."""
        return (
            self._connection is not None
            and self._files() == self._open_files
            and (self._wal is None or _file(_beside(self.path, "-wal")) == self._wal)
        )

    def size(self) -> int:
        """Return the bytes it takes on disk."""
        return sum(_size(part) for part in (self.path, _beside(self.path, "-wal")))

    def retire(self) -> None:
        """Close it, and let another process use it."""
        super().retire()
        self._release()

    def _files(self) -> tuple[File, ...]:
        return _file(self.path), _file(_beside(self.path, ".lock"))

    def _begin(self) -> Connection:
        if not self.in_place():
            self.close()
        return super()._begin()

    def _connect(self) -> Connection:
        refuse_foreign(self.path)
        self._take_lock()
        self._wal = None
        connection = super()._connect()
        self._open_files = self._files()
        return connection

    def _prepare(self, connection: Connection) -> None:
        connection.exec_driver_sql(f"PRAGMA application_id = {APPLICATION_ID}")
        super()._prepare(connection)

    def _end(self, connection: Connection) -> None:
        super()._end(connection)
        if self._wal is None:
            self._wal = _file(_beside(self.path, "-wal"))

    def _take_lock(self) -> None:
        """Keep other processes out. The lock goes with the process, however it ends."""
        lock = _beside(self.path, ".lock")
        if self._lock is not None and _file(lock) == _number(self._lock):
            return
        self._release()
        with _said(self.path):
            file = lock.open("ab")  # never emptied: it may be somebody else's
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
    if _file(path) is None:
        raise CheckpointError(f"{_place(path)}: does not exist")
    refuse_foreign(path)
    return Snapshots(_url(path), _place(path))


def refuse_foreign(path: Path) -> None:
    """Raise CheckpointError where there is a file that is not ours and not empty."""
    with _said(path):
        if _file(path) is None:
            return
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
    with closing(sqlite3.connect(f"file:{quote(str(path.absolute()))}?mode=ro", uri=True)) as raw:
        names = [str(name) for (name,) in raw.execute("SELECT tbl_name FROM sqlite_master")]
    return f"{PREFIX}meta" in names and all(name.startswith(PREFIX) for name in names)


@contextmanager
def _said(path: Path) -> Iterator[None]:
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


def _file(path: Path) -> File:
    try:
        return _number(path)
    except OSError:
        return None


def _number(of: Path | IO[bytes]) -> File:
    found = of.stat() if isinstance(of, Path) else os.fstat(of.fileno())
    return found.st_dev, found.st_ino


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:  # SQLite removes its log when nobody uses it
        return 0
