"""One result backend's database: connect, look at the tables, open read-only snapshots.

Every error leaves this module as a `BackendError` whose message is one line without a password.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from zoneinfo import ZoneInfo

import sqlalchemy
from sqlalchemy import URL, Connection, Engine, Select, select
from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from exporter.backends import probe, tables
from exporter.backends.family import Family, Layout, ResultTable, UnfitColumn, build
from exporter.backends.reader import Reader, reader_of
from exporter.config.settings import Backend
from exporter.errors import BackendAbsent, BackendError, ConfigError, Reason
from exporter.printable import some
from exporter.sql import compiled, dialects
from exporter.sql.connection import KeptConnection, connect, message, reading_engine, unexpected
from exporter.sql.identity import Identity, Origin
from exporter.sql.inspection import Facts

MOST_LOOKALIKES = 5
# Options that only make sense for the pool that Celery uses.
POOL_OPTIONS = {"max_overflow", "poolclass", "isolation_level", "use_insertmanyvalues"}


def may_be_meant(similar: str) -> str:
    """Say what to do where there are tables with names like the one that is missing; or ""."""
    if not similar:
        return ""
    return (
        f"there is {similar}: if one of them is meant, set tables, or database_table_names and "
        "database_table_schemas"
    )


@dataclass(frozen=True, slots=True)
class Session:
    """An open snapshot and what can be read in it. Tables that do not exist are left out."""

    connection: Connection
    family: Family
    tables: tuple[ResultTable, ...]
    readers: Mapping[str, Reader]  # by the table's kind

    @property
    def main(self) -> ResultTable | None:
        """The family's main table, if it is there."""
        return self.table(self.family.main)

    def table(self, layout: Layout) -> ResultTable | None:
        """Return one of the family's tables, if it is there."""
        return next((table for table in self.tables if table.layout is layout), None)


class Database(KeptConnection[Connection]):
    """The database of one backend."""

    def __init__(self, settings: Backend) -> None:
        limits = dialects.Limits(settings.connect_timeout, settings.query_timeout)
        super().__init__(dialects.of(settings.url.get_backend_name(), limits))
        self.settings = settings
        self.origin = Origin()  # as of the last connection
        # Those that may be meant; one, as soon as that is known.
        self._families = tuple(f for f in tables.FAMILIES if settings.tables in (None, f.name))
        self.family = self._families[0]  # until the main table of another one is found
        self._named = self.family  # the one whose tables may have other names
        self._tables: tuple[ResultTable, ...] | None = None
        self._readers: Mapping[str, Reader] = {}
        self._found: tuple[Hashable, tuple[ResultTable, ...]] | None = None  # and by which stamp
        self._full_names: dict[str, str] = {}  # by kind, as of the last look
        self.unread: tuple[Family, ...] = ()  # whose main table is there, too
        # Tables that may not be read, with what is known of them all the same.
        self.refused: dict[Layout, Facts | None] = {}
        self._asked: set[Hashable] = set()  # of what was asked since connecting
        self._make_engine(settings.url)  # a mistake in database_engine_options shows at start

    @property
    def driver(self) -> str:
        """Name of the driver, e.g. ``psycopg``."""
        return self.settings.url.get_driver_name()

    @contextmanager
    def session(self) -> Iterator[Session]:
        """Open a snapshot, connecting where necessary; raise BackendError for any trouble."""
        with self._translated():
            connection = self._open()
            with self.dialect.deadline(connection):
                yield Session(connection, self.family, self._tables or (), self._readers)
                connection.exec_driver_sql(self.dialect.end)

    @contextmanager
    def connected(self) -> Iterator[Connection]:
        """Lend the connection to who reads what is no result, outside any snapshot.

        Raise BackendError for any trouble.
        """
        with self._translated():
            connection = self._connect()
            with self.dialect.deadline(connection):
                yield connection

    def look_again(self) -> None:
        """Look at the tables again before the next snapshot."""
        self._tables = None

    def close(self) -> None:
        """Discard the connection, and what was found through it."""
        super().close()
        self._tables = self._found = None
        self._asked.clear()

    def expect(self, known: Mapping[str, Identity]) -> None:
        """Take the family for the one to be found that a checkpoint knows, by its table's name.

        A table that has none of these names is one of the first family with such a table: it was
        configured otherwise.
        """
        likely = [f for f in self._families if f.main.kind in known and known[f.main.kind].table]
        named = [f for f in likely if known[f.main.kind].table == self.full_name(f.main)]
        for family in (named or likely)[:1]:
            self.family, self._families = family, (family,)

    def identities(self) -> dict[str, Identity]:
        """Say for each kind of table which one it is, with what the server said of itself."""
        decided = len(self._families) == 1  # else there was no table yet
        return {
            layout.kind: Identity(
                self.full_name(layout) if decided else "",
                self._place(),
                *self.origin,
                full_name=self._full_names.get(layout.kind, "") if decided else "",
            )
            for layout in self.family.layouts
        }

    def is_that_of(self, other: Database) -> bool:
        """Whether both lead to the same tables, as far as their configuration tells."""
        family = other.family
        return (
            family in self._families
            and self._place() == other._place()
            and all(self.full_name(one) == other.full_name(one) for one in family.layouts)
        )

    def _place(self) -> str:
        arguments = self.settings.database_engine_options.get("connect_args", {})
        return self.dialect.place(
            self.settings.url, arguments if isinstance(arguments, dict) else {}
        )

    # -- connecting --------------------------------------------------------------------------

    def _begin(self) -> Connection:
        connection = self._connect()
        with self.dialect.deadline(connection):
            if self._tables is None:
                self._tables = self._same_tables(connection)
                self._readers = {
                    table.layout.kind: reader_of(
                        table,
                        self.dialect,
                        self.zone(table.layout),
                        self.settings.measures(),
                    )
                    for table in self._tables
                }
            self.dialect.open(connection)
            for table in self._tables:
                if (table.layout.kind, table.shape) not in self._asked:
                    probe.ask(connection, self.dialect, table)
                    self._asked.add((table.layout.kind, table.shape))
            return connection

    def _connect(self) -> Connection:
        if self._connection is not None and self.dialect.replaced():
            self.close()
        if self._connection is not None:
            return self._connection
        absent = self.dialect.absent(self.settings.url)
        if absent:
            raise BackendAbsent(f"{absent}; waiting for {self.family.maker} to create it")
        connection = connect(self._make_engine(self.settings.connection_url()), self.dialect)
        compiled.share(connection)
        self._connection = connection
        with self.dialect.deadline(connection):
            self.dialect.prepare(connection)
            self.server = self.dialect.server(connection)
            self.origin = self.dialect.origin(connection)
        return connection

    def _make_engine(self, url: URL) -> Engine:
        options = {
            key: value
            for key, value in self.settings.database_engine_options.items()
            if key not in POOL_OPTIONS and not key.startswith("pool_")
        }
        try:
            return reading_engine(self.dialect, url, **options)
        except (TypeError, ValueError, SQLAlchemyError) as error:
            where = f"backends[{self.settings.name}].database_engine_options"
            raise ConfigError([f"{where}: {message(error)}"]) from None

    # -- tables ------------------------------------------------------------------------------

    def _same_tables(self, connection: Connection) -> tuple[ResultTable, ...]:
        """Look at the tables, if anything may have changed since the last look."""
        names = [self.table_name(layout) for family in self._families for layout in family.layouts]
        stamp = self.dialect.stamp(connection, names)
        if self._found is not None and stamp is not None and self._found[0] == stamp:
            return self._found[1]
        found = self._find_tables(connection, names)
        self._found = stamp, found
        return found

    def _find_tables(
        self, connection: Connection, names: Sequence[tuple[str, str | None]]
    ) -> tuple[ResultTable, ...]:
        """Look for the tables. Only the main one is missed if it may not be read."""
        layouts = [layout for family in self._families for layout in family.layouts]
        seen = dict(zip(layouts, self.dialect.look_at(connection, names), strict=True))
        there = [family for family in self._families if seen[family.main] is not None]
        self.family = next(iter(there), self._families[0])
        self.unread = tuple(there[1:])
        self._full_names = {
            layout.kind: self.dialect.full_name(
                connection, *self.table_name(layout), self.origin.database
            )
            for layout in self.family.layouts
        }
        found = []
        self.refused = {}
        for layout in self.family.layouts:
            facts = seen[layout]
            try:
                if facts is not None:
                    found.append(self._table(connection, layout, facts))
                else:
                    self.dialect.ask_for(connection, *self.table_name(layout))
            except (BackendError, DBAPIError) as error:
                if self._reason(error) is not Reason.PERMISSION:
                    raise
                self.refused[layout] = facts
                if layout is self.family.main:
                    raise
        if seen[self.family.main] is not None:
            self._families = (self.family,)  # to read another one would count what it replaces
        return tuple(found)

    def lookalikes(self, connection: Connection) -> str:
        """Name tables that may be meant where the main one is not there; "" if none is."""
        try:
            found = self.dialect.tables_like(connection, self.family.similar, MOST_LOOKALIKES)
        except DBAPIError:  # a hint is not worth a failed poll
            return ""
        return some(list(dict.fromkeys(".".join(filter(None, names)) for names in found)))

    def zone(self, layout: Layout) -> ZoneInfo | None:
        """Return the zone of the table's dates; None: they have to tell it."""
        return layout.zone or self.settings.timezone or (ZoneInfo("UTC") if layout.utc else None)

    def full_name(self, layout: Layout) -> str:
        """Return the table's name, with its schema if one is configured, for people."""
        return ".".join(filter(None, reversed(self.table_name(layout))))

    def table_name(self, layout: Layout) -> tuple[str, str | None]:
        """Return the table's name, and its schema if one is configured."""
        if layout.setting is None or layout not in self._named.layouts:
            return layout.name, None
        names, schemas = self.settings.database_table_names, self.settings.database_table_schemas
        return getattr(names, layout.setting) or layout.name, getattr(schemas, layout.setting)

    def key(self, layout: Layout) -> str:
        """Return where the configuration may give the table another name; "" if it does not."""
        return layout.key if layout in self._named.layouts else ""

    def _table(self, connection: Connection, layout: Layout, facts: Facts) -> ResultTable:
        name, schema = self.table_name(layout)
        key = self.key(layout)
        for column in layout.required:
            if column not in facts.columns:
                raise BackendError(
                    Reason.SCHEMA,
                    f"table {name!r} has no column {column!r}: it is not a result table of "
                    f"{self.family.program}" + (f"; check {key}" if key else ""),
                )
        asked = self.settings.payload_bytes
        measured = [name for part, name in layout.payload.items() if part in asked]
        names = dict.fromkeys((*layout.required, *layout.optional, *measured))
        wanted = [name for name in names if name in facts.columns]
        readable = self._readable(connection, sqlalchemy.table(name, schema=schema), wanted)
        for column in layout.required:
            if column not in readable:
                raise BackendError(
                    Reason.PERMISSION,
                    f"no right to read column {column!r} of table {name!r}: "
                    "GRANT SELECT on it to this account",
                )
        try:
            return build(layout, name, schema, facts, readable, self.dialect.fitted)
        except UnfitColumn as error:
            raise BackendError(
                Reason.SCHEMA,
                f"table {name!r}: {error}: change the column"
                + (f", or name a view that converts it in {key}" if key else ""),
            ) from None

    def _readable(
        self, connection: Connection, table: sqlalchemy.TableClause, columns: list[str]
    ) -> set[str]:
        """Return those columns that the account may read: rights may be given by column."""
        if self._may_read(connection, table, columns):
            return set(columns)
        return {column for column in columns if self._may_read(connection, table, [column])}

    def _may_read(
        self, connection: Connection, table: sqlalchemy.TableClause, columns: list[str]
    ) -> bool:
        query: Select[*tuple[Any, ...]] = select(*map(sqlalchemy.column, columns))
        return self.dialect.may_read(connection, query.select_from(table))

    # -- errors ------------------------------------------------------------------------------

    @contextmanager
    def _translated(self) -> Iterator[None]:
        """Turn every trouble into a BackendError, and discard the connection after it."""
        try:
            yield
        except BackendError:
            self.close()
            raise
        except Exception as error:
            connecting = self._connection is None
            self.close()
            raise self._trouble(error, connecting=connecting) from error
        except BaseException:
            self.close()
            raise

    def _trouble(self, error: Exception, *, connecting: bool) -> BackendError:
        """Say what went wrong. Drivers raise all sorts of errors for a mistake of their user."""
        reason = Reason.CONNECT if connecting else Reason.QUERY
        original = getattr(error, "orig", None) or error
        mistake = self.dialect.mistake(message(original), self.driver)
        if connecting and mistake:
            return BackendError(reason, mistake)
        if isinstance(error, DBAPIError):
            return BackendError(self.dialect.reason(error), message(original))
        if isinstance(error, (SQLAlchemyError, OSError, UnicodeError)):
            return BackendError(reason, message(error))
        given = self.settings.url.query or self.settings.database_engine_options.get("connect_args")
        return unexpected(error, reason, dialects.CHECK_ARGUMENTS if connecting and given else "")

    def _reason(self, error: BackendError | DBAPIError) -> Reason:
        return error.reason if isinstance(error, BackendError) else self.dialect.reason(error)
