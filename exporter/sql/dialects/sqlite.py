"""SQLite: opened read-only by URI, so that the file is never created and never locked for long.

A URL is a path, or SQLite's own URI (``file:…?…&uri=true``). Its one form is the path as the file
system has it, and of the URI's parameters those that say how to read the file. How it is opened
(read-only, for how long) is not the URL's business.
"""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote

from sqlalchemy import (
    URL,
    Column,
    ColumnElement,
    Connection,
    Double,
    Integer,
    LargeBinary,
    MetaData,
    Select,
    String,
    Subquery,
    Table,
    and_,
    case,
    cast,
    func,
    literal,
    literal_column,
    or_,
    text,
    type_coerce,
)
from sqlalchemy.exc import DBAPIError
from sqlalchemy.types import TypeEngine
from sqlalchemy.util import asbool

from exporter.errors import Reason
from exporter.sql.dialects import Dialect, Driver, Limits
from exporter.sql.kinds import Kind

LONGEST_LOCK_WAIT = 5.0  # seconds
CACHE = 64  # KiB a connection; 2 MiB, as is the default, make no poll faster
DEADLINE_STEPS = 20_000  # virtual machine instructions between looks at the clock

_AS_CELERY_WRITES = "????-??-?? ??:??:??.??????"
_SCHEME = "file:"
_KEPT = ("nolock", "vfs")
# SQLAlchemy's own, and those of SQLite that change nothing for one who only reads.
_DRIVER = {"check_same_thread", "timeout", "isolation_level", "detect_types", "cached_statements"}
_WRITING = {"cache", "psow", "modeof"}
_MODES = {"ro", "rw", "rwc"}
_SWITCHES = {"1": True, "true": True, "on": True, "yes": True}
_IN_MEMORY = (
    "a SQLite database in memory has no other process's results; name the file: "
    "sqlite:////absolute.db"
)


class SQLite(Dialect):
    """A read transaction holds a shared lock, which delays Celery's commits: keep it short."""

    drivers = (Driver("pysqlite"),)
    is_file = True
    snapshot = True
    catalogue = ("sqlite_master", "NULL", "tbl_name")
    begin = ("BEGIN",)

    def __init__(self, limits: Limits) -> None:
        super().__init__(limits)
        self._path = ""
        self._file: os.stat_result | None = None  # that was opened there

    @classmethod
    def plain(cls, url: URL) -> URL:
        """Return the path, and how to read the file."""
        return _plain(url)

    @classmethod
    def place(cls, url: URL, connect_args: Mapping[str, Any]) -> str:
        """Return the path, whatever leads there."""
        del connect_args
        return f"sqlite {Path(url.database or '').resolve()}"

    def connect_arguments(self, url: URL) -> tuple[URL, dict[str, Any]]:
        """Open the file read-only, whatever its path looks like."""
        return _uri(url, "ro"), self._arguments()

    def writing_arguments(self, url: URL) -> tuple[URL, dict[str, Any]]:
        """Create the file where there is none; without a path it is in memory."""
        return _uri(url, "rwc") if url.database else url, self._arguments()

    def _arguments(self) -> dict[str, Any]:
        return {
            "timeout": min(self.limits.query, LONGEST_LOCK_WAIT),
            "check_same_thread": False,
        }

    def absent(self, url: URL) -> str:
        """Wait for Celery to create the file."""
        path = Path(url.database or "").absolute()  # a relative one may be meant for elsewhere
        return "" if path.exists() else f"the database file {path} does not exist yet"

    def prepare(self, connection: Connection) -> None:
        """Accept text that is not UTF-8, since SQLite stores any bytes."""
        raw = _raw(connection)
        raw.text_factory = _lenient_text
        connection.exec_driver_sql(f"PRAGMA cache_size = -{CACHE}")  # the first look at the file
        self._path = raw.execute("PRAGMA database_list").fetchone()[2]
        self._file = _stat(self._path)

    def replaced(self) -> bool:
        """Whether the file was deleted, or another one put in its place.

        SQLite would go on reading the one that was opened.
        """
        there = _stat(self._path)
        return not (there and self._file and os.path.samestat(there, self._file))

    def prepare_to_write(self, connection: Connection) -> None:
        """Sync every commit to disk.

        With less, a power cut could take back commits whose counts were served already (SQLite:
        "PRAGMA synchronous").
        """
        connection.exec_driver_sql("PRAGMA journal_mode = WAL")
        connection.exec_driver_sql("PRAGMA synchronous = FULL")

    @contextmanager
    def bounded(self, raw: Any, seconds: float) -> Iterator[None]:
        """Interrupt statements that run too long."""
        end = time.monotonic() + seconds
        raw.set_progress_handler(lambda: int(time.monotonic() > end), DEADLINE_STEPS)
        try:
            yield
        finally:
            raw.set_progress_handler(None, 0)

    def stamp(
        self, connection: Connection, names: Sequence[tuple[str, str | None]]
    ) -> Hashable | None:
        """Read what SQLite counts up whenever the schema changes; there are no rights."""
        del names
        return int(connection.exec_driver_sql("PRAGMA schema_version").scalar_one())

    def full_name(
        self, connection: Connection, name: str, schema: str | None, database: str
    ) -> str:
        """Say what the schema of a file is called."""
        del connection, database
        return f"{schema or 'main'}.{name}"

    def server(self, connection: Connection) -> str:
        """Name the library's version."""
        return f"SQLite {connection.exec_driver_sql('SELECT sqlite_version()').scalar_one()}"

    def adapt(
        self, column: Column[Any], kind: Kind, declared: TypeEngine[Any]
    ) -> ColumnElement[Any] | None:
        """Take it as it is: a declared type says nothing of what is stored, but for the id."""
        return column if kind is not Kind.WHOLE else super().adapt(column, kind, declared)

    def cut(self, text: ColumnElement[Any]) -> ColumnElement[Any]:
        """Leave it: `label` does this, for what is declared means nothing."""
        return text

    def exact(self, column: ColumnElement[Any]) -> ColumnElement[Any]:
        """Compare bytes, even in a NOCASE column."""
        return cast(column, String).collate("BINARY")

    def label(self, column: ColumnElement[Any]) -> ColumnElement[Any]:
        """Cut it: this is done for each row that is fetched, not for each that is compared."""
        return func.substr(self.exact(column), 1, self.longest_label)

    def labelled(self, text: str) -> str:
        """Stop at a NUL, too: substr() does. Source: https://sqlite.org/nulinstr.html."""
        return super().labelled(text).partition("\0")[0]

    def start_of_bytes(self, column: ColumnElement[Any], length: int) -> ColumnElement[Any]:
        """Cut bytes, whatever type the value was stored with."""
        return func.substr(cast(column, LargeBinary), 1, length, type_=LargeBinary)

    def end_of_text(self, column: ColumnElement[Any], length: int) -> ColumnElement[Any]:
        """Count from the end: there is no RIGHT."""
        return func.substr(cast(column, String), -length, type_=String)

    def octets(self, column: ColumnElement[Any], *, binary: bool) -> ColumnElement[Any]:
        """Ask what was stored: of bytes SQLite knows the length without reading them."""
        del binary
        length = func.length(column, type_=Integer)
        is_binary = func.typeof(column) == literal_column("'blob'")
        return case((is_binary, length), else_=func.length(cast(column, LargeBinary)))

    def computed(self, query: Select[*tuple[Any, ...]]) -> Subquery:
        """Keep the query apart by a LIMIT: else SQLite sorts the columns it computes from, whole.

        Source: https://sqlite.org/optoverview.html, "Subquery Flattening".
        """
        return query.limit(-1).subquery()

    def total(self, column: ColumnElement[Any]) -> ColumnElement[Any]:
        """Sum as floating point: SUM raises on overflow."""
        return func.total(column)

    def moment(self, column: ColumnElement[Any]) -> ColumnElement[Any]:
        """Read the stored text itself; whatever else is stored there is read as text."""
        return func.substr(cast(type_coerce(column, String), String), 1, 32)

    def coarse_moment(self, column: ColumnElement[Any], seconds: int) -> ColumnElement[Any]:
        """Let SQLite read what Celery writes; whatever else there is stays as it is."""
        length = literal_column(str(seconds), Integer)
        rounded = _epoch(self.moment(column)) // length * length
        return case((column.op("GLOB")(_AS_CELERY_WRITES), rounded), else_=self.moment(column))

    def within(
        self, column: ColumnElement[Any], begin: datetime, end: datetime, *, zone: bool
    ) -> ColumnElement[bool]:
        """Compare texts only as Celery writes them; what SQLite reads of others."""
        as_texts = super().within(column, begin, end, zone=zone)
        said = self.moment(column)
        has_offset = func.substr(said, 20).op("GLOB")("*[-+Zz]*")
        first, last = (
            case(
                (has_offset, int(moment.timestamp())),
                else_=int(moment.replace(tzinfo=UTC).timestamp()),
            )
            for moment in (begin, end)
        )
        epoch = _epoch(said)
        as_read = or_(epoch.is_(None), and_(epoch >= first, epoch < last))
        return case((column.op("GLOB")(_AS_CELERY_WRITES), as_texts), else_=as_read)

    def elapsed(
        self, since: ColumnElement[Any], until: ColumnElement[Any]
    ) -> ColumnElement[Any] | None:
        """Count days, of which SQLite knows the milliseconds; what is no date makes NULL."""
        days = func.julianday(until, type_=Double) - func.julianday(since, type_=Double)
        return func.round(days * literal_column("86400.0"), literal_column("3"), type_=Double)

    def constant_moment(self, moment: datetime, *, zone: bool) -> ColumnElement[Any]:
        """Return text, as Celery stores it: there is no type for dates."""
        del zone
        return literal(moment.strftime("%Y-%m-%d %H:%M:%S.%f"))

    def highest_id(
        self, connection: Connection, table: Table, column: str, sequence: str | None
    ) -> int | None:
        """Every integer has 64 bits, whatever its column is called."""
        del connection, table, column, sequence
        return 2**63 - 1

    def rows_estimate(self, connection: Connection, table: Table) -> int | None:
        """Read what ANALYZE left, if it was ever run."""
        known = connection.exec_driver_sql(
            "SELECT 1 FROM sqlite_master WHERE name = 'sqlite_stat1'"
        ).scalar()
        if not known:
            return None
        stat = connection.execute(
            text("SELECT stat FROM sqlite_stat1 WHERE tbl = :name LIMIT 1"), {"name": table.name}
        ).scalar()
        first = str(stat).split(" ", 1)[0]
        return int(first) if first.isdecimal() else None

    def can_write(self, connection: Connection, table: Table) -> bool | None:
        """Return False: the connection is read-only, whatever the account may do."""
        del connection, table
        return False

    def place_of(self, connection: Connection, name: str, schema: str | None) -> Table:
        """Return it without the schema that a file has anyway."""
        del connection
        return Table(name, MetaData(), schema=schema)

    def reason(self, error: DBAPIError) -> Reason:
        """Classify by SQLite's result code."""
        code = getattr(error.orig, "sqlite_errorcode", None)
        if code is None:
            return Reason.QUERY
        primary = code & 0xFF
        if primary in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_INTERRUPT):
            return Reason.TIMEOUT
        if primary in (sqlite3.SQLITE_PERM, sqlite3.SQLITE_AUTH, sqlite3.SQLITE_READONLY):
            return Reason.PERMISSION
        if primary in (sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_IOERR):
            return Reason.CONNECT
        return Reason.SCHEMA if "no such" in str(error.orig) else Reason.QUERY


def _epoch(text: ColumnElement[Any]) -> ColumnElement[Any]:
    return cast(func.strftime("%s", text), Integer)


def _plain(url: URL) -> URL:
    if url.host or url.username:
        raise ValueError(
            "the path of a SQLite file begins after the third slash: sqlite:///relative.db or "
            "sqlite:////absolute.db"
        )
    query = {key: _single(key, value) for key, value in url.query.items()}
    path, is_uri = url.database or "", _is_uri(query.pop("uri", "false"))
    if path.startswith(_SCHEME):
        if not is_uri and path != "file::memory:":
            raise ValueError(
                "a path that begins with 'file:' is a SQLite URI only where uri=true stands after "
                "the '?'; add it, or write the path alone: sqlite:////absolute.db"
            )
        path = _path(path.removeprefix(_SCHEME))
    if path in {"", ":memory:"} or query.get("mode") == "memory" or query.get("vfs") == "memdb":
        raise ValueError(_IN_MEMORY)
    _check(query)
    kept = {key: query[key] for key in _KEPT if key in query and is_uri}
    return url.set(database=path, query=kept)


def _single(key: str, value: str | tuple[str, ...]) -> str:
    if isinstance(value, str):
        return value
    raise ValueError(f"{key!r} stands more than once after the '?'")


def _is_uri(value: str) -> bool:
    try:
        return asbool(value)
    except ValueError:
        raise ValueError("uri= is neither true nor false") from None


def _path(uri: str) -> str:
    """Return the path in a URI as SQLite finds it (sqlite.org/uri.html)."""
    if uri.startswith("//"):
        authority, slash, rest = uri[2:].partition("/")
        if authority not in {"", "localhost"}:
            raise ValueError(
                "a SQLite URI names no host: write sqlite:///file:/absolute.db?uri=true or "
                "sqlite:///file:relative.db?uri=true"
            )
        uri = slash + rest
    if any(character in uri for character in "#?%\0"):
        # SQLAlchemy decodes a path from 2.1 on, and then SQLite does so again.
        raise ValueError(
            "the path of a SQLite URI has a '#', '?' or '%' in it, which is another file to each "
            "version of SQLAlchemy; write the path alone: sqlite:////absolute.db"
        )
    return uri


def _check(query: dict[str, str]) -> None:
    unknown = sorted(query.keys() - {*_KEPT, *_DRIVER, *_WRITING, "mode", "immutable"})
    if unknown:
        raise ValueError(f"{unknown[0]!r} after the '?' is no parameter of SQLite; remove it")
    if query.get("mode", "ro") not in _MODES:
        raise ValueError(f"mode= after the '?' is none of {', '.join(sorted(_MODES))}")
    if _SWITCHES.get(query.get("immutable", "0").lower()):
        raise ValueError(
            "immutable=1 says that nobody writes the file, so that new results would never be "
            "seen; remove it"
        )


def _uri(url: URL, mode: str) -> URL:
    """Return SQLite's URI of a file, with what the URL says of how to read it."""
    path = quote(os.fsencode(Path(url.database or "").absolute()))
    return url.set(database=f"file:{path}", query={**url.query, "mode": mode, "uri": "true"})


def _raw(connection: Connection) -> sqlite3.Connection:
    raw = connection.connection.driver_connection
    assert isinstance(raw, sqlite3.Connection)  # noqa: S101  # the driver we chose
    return raw


def _stat(path: str) -> os.stat_result | None:
    with suppress(OSError):
        return Path(path).stat()
    return None


def _lenient_text(value: bytes) -> str:
    return value.decode("utf-8", "replace")


DIALECT = SQLite
