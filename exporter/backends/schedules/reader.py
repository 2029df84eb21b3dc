"""Reads beat's tables: all entries in one statement, each with its schedule."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import (
    Column,
    ColumnElement,
    Connection,
    DateTime,
    FromClause,
    MetaData,
    Select,
    String,
    Table,
    and_,
    func,
    select,
)
from sqlalchemy.types import NullType

from exporter.backends.schedules import PACKAGES
from exporter.backends.schedules.entries import Row
from exporter.backends.schedules.package import ENTRY, REQUIRED, Columns, Schedules
from exporter.backends.schedules.places import Place
from exporter.errors import BackendError, Reason
from exporter.sql.dialects import Dialect
from exporter.sql.inspection import Facts
from exporter.sql.kinds import Kind, has_zone

MOST_ENTRIES = 10_000

Name = tuple[str, str | None]  # of a table, and its schema
_KINDS: Columns = {
    **ENTRY,
    **{c: kind for p in PACKAGES for s in p.schedules for c, kind in s.columns.items()},
}
NOTHING = dict.fromkeys(_KINDS)


@dataclass(frozen=True, slots=True)
class Found:
    """What there is."""

    package: str
    count: int  # of entries
    rows: Sequence[Row]  # none where there are more than MOST_ENTRIES


@dataclass(frozen=True, slots=True)
class _Source:
    """The tables as they were found."""

    package: str
    entries: Select[Any]
    count: Select[Any]
    kinds: Columns  # of what is read, in that order


class Reader:
    """Knows how to read the tables, and makes its statement anew when they are found anew."""

    def __init__(self, dialect: Dialect) -> None:
        self._dialect = dialect
        self._place: Place | None = None
        self._source: _Source | None = None  # None: the tables may not be read

    def read(self, connection: Connection, place: Place) -> Found | None:
        """Read all entries, in a snapshot of its own; None: there is no right to."""
        if place is not self._place:
            self._source = self._readable(connection, place)
            self._place = place
        source = self._source
        if source is None:
            return None
        self._dialect.open(connection)
        rows = connection.execute(source.entries).all()
        count = len(rows)
        if count > MOST_ENTRIES:
            count, rows = connection.execute(source.count).scalar_one(), []
        connection.exec_driver_sql(self._dialect.end)
        return Found(source.package, count, [self._row(source.kinds, row) for row in rows])

    def _row(self, kinds: Columns, values: Sequence[Any]) -> Row:
        pairs = zip(kinds.items(), values, strict=True)
        return {**NOTHING, **{name: self._value(kind, it) for (name, kind), it in pairs}}

    def _value(self, kind: Kind, value: Any) -> Any:
        if value is None or kind is Kind.NUMBER:
            return value
        return self._dialect.text(value) if kind.is_text else self._dialect.seconds(value)

    # -- tables ------------------------------------------------------------------------------

    def _readable(self, connection: Connection, place: Place) -> _Source | None:
        names = [(schedules.table, place.schema) for schedules in place.package.schedules]
        source = self._made(place, self._dialect.look_at(connection, names))
        return source if self._dialect.may_read(connection, source.entries) else None

    def _made(self, place: Place, others: Sequence[Facts | None]) -> _Source:
        package, schema, facts = place
        for column in REQUIRED:
            if column not in facts.columns:
                raise BackendError(
                    Reason.SCHEMA,
                    f"table {package.entries!r} has no column {column!r}: it is not that of "
                    f"{package.name}",
                )
        entries = _table((package.entries, schema), facts)
        read = self._columns(entries, facts, ENTRY)
        joined: FromClause = entries
        for schedules, of in zip(package.schedules, others, strict=True):
            if of is None or not _wanted(schedules) <= facts.columns.keys():
                continue  # a version that had none
            table = _table((schedules.table, schema), of)
            read |= self._columns(table, of, schedules.columns)
            joined = joined.outerjoin(table, _is_of(entries, table, schedules))
        return _Source(
            package=package.name,
            entries=select(*read.values())
            .select_from(joined)
            .order_by(entries.c.id)
            .limit(MOST_ENTRIES + 1),
            count=select(func.count()).select_from(entries),
            kinds={name: _KINDS[name] for name in read},
        )

    def _columns(
        self, table: Table, facts: Facts, wanted: Columns
    ) -> dict[str, ColumnElement[Any]]:
        there = {name: kind for name, kind in wanted.items() if name in facts.columns}
        return {name: self._column(table.c[name], kind, facts) for name, kind in there.items()}

    def _column(self, column: Column[Any], kind: Kind, facts: Facts) -> ColumnElement[Any]:
        if kind is Kind.NUMBER:
            return column
        fitted = self._dialect.fitted(column, kind, facts.columns[column.name])
        if fitted is None:
            raise BackendError(
                Reason.SCHEMA,
                f"table {column.table.name!r}: column {column.name!r} does not hold {kind}",
            )
        return self._dialect.label(fitted) if kind.is_text else self._dialect.moment(fitted)


def _table(name: Name, facts: Facts) -> Table:
    """Return the table with all columns that it has."""
    columns = (Column(name, _type(name, facts)) for name in facts.columns)
    return Table(name[0], MetaData(), *columns, schema=name[1])


def _type(column: str, facts: Facts) -> DateTime | String | NullType:
    """Return what the column is to be read as; numbers are what the driver gives."""
    match _KINDS.get(column):
        case Kind.MOMENT:
            return DateTime(timezone=has_zone(facts.columns[column]))
        case Kind.NUMBER:
            return NullType()
        case _:
            return String()


def _wanted(schedules: Schedules) -> set[str]:
    """Name the columns of the entries that lead to these schedules."""
    return {schedules.key, "discriminator"} if schedules.kind else {schedules.key}


def _is_of(entries: Table, table: Table, schedules: Schedules) -> ColumnElement[bool]:
    same = table.c.id == entries.c[schedules.key]
    if not schedules.kind:
        return same
    return and_(same, entries.c.discriminator == schedules.kind)
