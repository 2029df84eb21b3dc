"""The database that a checkpoint is kept in: transactions that happen wholly or not at all.

A commit whose answer is lost is the exception: whoever needs to know asks in the next one.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from sqlalchemy import URL, Connection, Engine, NullPool, create_engine, event
from sqlalchemy.exc import SQLAlchemyError

from exporter.errors import CheckpointError, ExporterError
from exporter.sql import dialects
from exporter.sql.connection import KeptConnection, connect, message, reading_engine
from exporter.sql.dialects import Limits
from exporter.sql.waiting import limited, waiting

# Called first in a transaction that writes what is kept of a backend, by its name: raises
# CheckpointError where another may write that, too.
Fence = Callable[[Connection, str], None]

LIMITS = Limits(connect=5.0, query=30.0)
IN_A_DATABASE = "checkpoint database"  # its place, for people: no URL, no host
_FORESEEN = (SQLAlchemyError, OSError, ValueError, KeyError, TypeError)


class Store(KeptConnection[Connection]):
    """One database, for several threads, which take turns."""

    def __init__(self, url: URL, place: str, *, limits: Limits = LIMITS) -> None:
        super().__init__(dialects.of(url.get_backend_name(), limits))
        self.place = place  # for people
        self.driver = url.get_driver_name()
        self.connections = 0  # so far: each may be to what was put in place of the last
        self._engine = self._make_engine(url)
        self._turn = threading.Lock()
        self._closed = False
        event.listen(self._engine, "before_cursor_execute", self._go_on)

    @contextmanager
    def transaction(self, seconds: float | None = None) -> Iterator[Connection]:
        """Do all of it or nothing, in so many seconds; raise CheckpointError for any trouble."""
        limits = self.dialect.limits
        limit = limits.connect + (seconds or limits.query)
        with self._translated(), waiting(), limited(limit), self._my_turn(limit):
            try:
                connection = self._open()
                with self.dialect.deadline(connection, seconds):
                    yield connection
                    self._end(connection)
            except BaseException:
                self.close()
                raise

    def retire(self) -> None:
        """Close it, at once or as soon as the transaction in it tries to go on, or has ended."""
        self._closed = True
        if self._turn.acquire(blocking=False):
            self.close()
            self._turn.release()

    # -- what a file adds, which may be replaced while it is open ----------------------------

    def in_place(self) -> bool:
        """Whether what is open is what is there: else nothing that is written lasts."""
        return True

    def keep_what_was_put_there(self) -> None:
        """Keep what somebody else has put in its place, before it is written over."""

    def size(self) -> int | None:
        """Return the bytes it takes on disk, None where that is for a server to know."""
        return None

    # -- how to write ------------------------------------------------------------------------

    def _make_engine(self, url: URL) -> Engine:
        url, arguments = self.dialect.writing_arguments(url)
        return create_engine(url, poolclass=NullPool, hide_parameters=True, connect_args=arguments)

    def _prepare(self, connection: Connection) -> None:
        self.dialect.prepare_to_write(connection)

    def _start(self, connection: Connection) -> None:
        self.dialect.begin_to_write(connection)

    def _end(self, connection: Connection) -> None:
        connection.commit()

    # -- the connection ----------------------------------------------------------------------

    def _begin(self) -> Connection:
        connection = self._connection or self._connect()
        with self.dialect.deadline(connection):
            self._start(connection)
        return connection

    def _connect(self) -> Connection:
        connection = connect(self._engine, self.dialect)
        self._connection = connection
        self.connections += 1
        with self.dialect.deadline(connection):
            self._prepare(connection)
            self.server = self.dialect.server(connection)
            connection.commit()
        return connection

    def _go_on(self, *_: object) -> None:
        if self._closed:
            raise CheckpointError(f"{self.place}: is closed")

    @contextmanager
    def _my_turn(self, limit: float) -> Iterator[None]:
        if not self._turn.acquire(timeout=limit):
            raise CheckpointError(f"{self.place}: another backend still waits for its answer")
        try:
            self._go_on()
            yield
        finally:
            if self._closed:
                self.close()
            self._turn.release()

    @contextmanager
    def _translated(self) -> Iterator[None]:
        """Say where the trouble is; what was stored may be of any shape."""
        try:
            yield
        except ExporterError:
            raise
        except Exception as error:
            words = message(getattr(error, "orig", None) or error)
            mistake = self.dialect.mistake(words, self.driver)
            foreseen = bool(mistake) or isinstance(error, _FORESEEN)
            what = mistake or (words if foreseen else f"{type(error).__name__}: {words}")
            raise CheckpointError(f"{self.place}: {what}", unexpected=not foreseen) from error


class Snapshots(Store):
    """The same, for reading only: each transaction sees one moment, beside whoever writes."""

    def _make_engine(self, url: URL) -> Engine:
        return reading_engine(self.dialect, url)

    def _prepare(self, connection: Connection) -> None:
        self.dialect.prepare(connection)

    def _start(self, connection: Connection) -> None:
        self.dialect.open(connection)

    def _end(self, connection: Connection) -> None:
        connection.exec_driver_sql(self.dialect.end)
