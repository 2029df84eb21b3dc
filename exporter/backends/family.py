"""What a family of tables is, and a table of one as it was found: which column means what."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple
from zoneinfo import ZoneInfo

from sqlalchemy import (
    BigInteger,
    Column,
    ColumnElement,
    DateTime,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
)
from sqlalchemy.types import NullType, TypeEngine

from exporter.counting.measures import PARTS, Measures
from exporter.counting.tally import Feed
from exporter.sql.inspection import Facts
from exporter.sql.kinds import Kind, Whole, has_zone, is_decimal

LIKELY = 1_000  # different tables that one process reads

# Returns a column as one of the kind that is wanted, given its declared type; None: it cannot be.
Adapt = Callable[[Column[Any], Kind, TypeEngine[Any]], ColumnElement[Any] | None]


@dataclass(frozen=True, slots=True)
class Layout:
    """One table of a family, and its columns' names. None: the family has no such column."""

    kind: str  # the value of the `table` label
    name: str  # where the configuration has no other
    feed: Feed  # what its rows count as
    id: str
    done: str
    state: str | None = None
    task: str | None = None
    worker: str | None = None
    queue: str | None = None
    retries: str | None = None
    task_id: str | None = None
    result: str | None = None
    traceback: str | None = None
    args: str | None = None
    kwargs: str | None = None
    members: str | None = None  # the results that a group waits for, as its program stores them
    created: str | None = None  # when the row was, by the clock and in the zone of `done`
    started: str | None = None  # when the task did, as the server's CURRENT_TIMESTAMP has it
    entry: str | None = None  # of celery beat that the task was sent by, by name
    sequence: str | None = None  # that ids come from, where the database has sequences
    zone: ZoneInfo | None = None  # of its dates; None: the configured one
    utc: bool = False  # whether they are in UTC where none is configured, or have to tell it
    setting: str | None = None  # the key of database_table_names and _schemas that is meant for it

    @property
    def key(self) -> str:
        """Where the configuration names it; "" if it does not."""
        return f"database_table_names.{self.setting}" if self.setting else ""

    @property
    def required(self) -> tuple[str, ...]:
        """Columns without which nothing can be counted."""
        return (self.id,) if self.state is None else (self.id, self.state)

    @property
    def optional(self) -> tuple[str, ...]:
        """Columns that are read where they are there."""
        names = (
            *(self.task, self.worker, self.queue, self.retries, self.done),
            *(self.task_id, self.result, self.traceback, self.members),
            *(self.created, self.started, self.entry),
        )
        return tuple(name for name in names if name is not None)

    @property
    def payload(self) -> Mapping[str, str]:
        """Name the columns that hold what a task was given and returned, by part."""
        columns = zip(PARTS, (self.result, self.args, self.kwargs), strict=True)
        return {part: name for part, name in columns if name is not None}

    def kind_of(self, name: str) -> Kind:
        """Say what a column has to hold."""
        kinds = {
            self.id: Kind.WHOLE,
            self.retries: Kind.NUMBER,
            self.result: Kind.BYTES,
            self.args: Kind.BYTES,
            self.kwargs: Kind.BYTES,
            self.members: Kind.BYTES,
            self.done: Kind.MOMENT,
            self.created: Kind.MOMENT,
            self.started: Kind.MOMENT,
            self.traceback: Kind.TEXT,
        }
        return kinds.get(name, Kind.LABEL)


class WiderIds(NamedTuple):
    """What its workers need, besides a wider column, to store ids of more than 32 bits."""

    why: str
    lines: tuple[str, ...]  # of the app
    always: bool  # or only where drivers say of an id what type it has: `Dialect.types_ids`


@dataclass(frozen=True, slots=True)
class Family:
    """The tables that one program keeps its results in."""

    name: str  # the value of the key `tables`
    program: str  # for people
    maker: str  # who creates the tables, for people
    layouts: tuple[Layout, ...]
    version: Callable[[AbstractSet[str]], str]  # takes the columns of the main table
    similar: tuple[str, ...]  # parts of names of tables that may be meant where that is not there
    assignment: str = "app.conf.{name} = {value}"  # how people set one of Celery's settings
    extended: tuple[tuple[str, TypeEngine[Any]], ...] = ()  # columns that result_extended fills
    older: str = ""  # what to do about columns that a table of an older version lacks
    wider_ids: WiderIds | None = None

    @property
    def main(self) -> Layout:
        """The table without which there is nothing to read."""
        return self.layouts[0]


@dataclass(frozen=True, slots=True)
class ResultTable:
    """One table as it was found: only columns that exist and may be read."""

    layout: Layout
    table: Table
    columns: Mapping[str, ColumnElement[Any]]  # each as Celery's own would be, whatever its type
    all_columns: frozenset[str]  # those not read, too
    date_done_index: bool
    date_done_zone: bool  # whether `date_done` is a moment, and no wall time
    shape: tuple[tuple[str, str], ...]  # the columns that are read, with their declared types

    def column(self, name: str | None) -> ColumnElement[Any] | None:
        """Return the column, or None where it is not there."""
        return None if name is None else self.columns.get(name)

    @property
    def id(self) -> Column[int]:
        """The primary key."""
        return self.table.c[self.layout.id]

    @property
    def padded(self) -> frozenset[str]:
        """Columns whose values come with blanks to fill them: CHAR, where the reader adapts it."""
        chars = {name for name, declared in self.shape if declared.startswith(("CHAR(", "NCHAR("))}
        return frozenset(n for n in chars if self.columns[n] is not self.table.c[n])

    @property
    def times(self) -> bool:
        """Whether rows may say when their task started."""
        layout = self.layout
        wanted = (layout.created, layout.started, layout.done)
        return all(self.column(name) is not None for name in wanted)

    def measured(self, measures: Measures) -> Measures:
        """Leave out what its rows cannot tell."""
        layout = self.layout
        return Measures(
            runtimes=measures.runtimes if self.times else (),
            retries=measures.retries if self.column(layout.retries) is not None else (),
            payload=measures.payload if layout.payload else (),
        )

    @property
    def extended(self) -> bool:
        """Whether there is a column for the task's name."""
        return self.column(self.layout.task) is not None


class UnfitColumn(Exception):  # noqa: N818  # says what is wrong, to the one who knows the rest
    """A column holds something else than Celery's own."""


def build(
    layout: Layout,
    name: str,
    schema: str | None,
    facts: Facts,
    readable: AbstractSet[str],
    adapt: Adapt,
) -> ResultTable:
    """Make the table from what was found, with those columns only that may be read."""
    declared = facts.columns
    zone = has_zone(declared.get(layout.done))
    known = (*layout.required, *layout.optional, *layout.payload.values())
    names = tuple(dict.fromkeys(name for name in known if name in readable))
    table = _table(layout, name, schema, names, (is_decimal(declared[layout.id]), zone))
    columns: dict[str, ColumnElement[Any]] = {}
    for column in names:
        kind = layout.kind_of(column)
        adapted = adapt(table.c[column], kind, declared[column])
        if adapted is None:
            found = _words(declared[column])
            raise UnfitColumn(f"column {column!r} holds {found}, where {kind} is wanted")
        columns[column] = adapted
    return ResultTable(
        layout=layout,
        table=table,
        columns=columns,
        all_columns=frozenset(declared),
        date_done_index=layout.done in facts.indexed,
        date_done_zone=zone,
        shape=tuple((column, repr(declared[column])) for column in names),
    )


@lru_cache(LIKELY)
def _table(
    layout: Layout,
    name: str,
    schema: str | None,
    columns: tuple[str, ...],
    decimal_and_zone: tuple[bool, bool],
) -> Table:
    """Return one object for all that are alike, as their statements are: `sql.compiled`."""
    decimal, zone = decimal_and_zone
    types: dict[str | None, TypeEngine[Any]] = {
        layout.id: Whole() if decimal else BigInteger(),
        layout.done: DateTime(timezone=zone),
        layout.created: DateTime(timezone=zone),
        layout.started: DateTime(timezone=zone),
        layout.retries: Integer(),
        **dict.fromkeys((*layout.payload.values(), layout.members), LargeBinary()),
    }
    made = (Column(column, types.get(column, String())) for column in columns)
    return Table(name, MetaData(), *made, schema=schema)


def _words(declared: TypeEngine[Any]) -> str:
    """Name a type as a database would."""
    if isinstance(declared, NullType):
        return "a type that is not known here"
    return str(declared.__visit_name__).upper().replace("_", " ")
