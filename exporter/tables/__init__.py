"""Families of result tables: one file each, saying which column means what."""

from __future__ import annotations

from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import Any

from sqlalchemy import BigInteger, Column, DateTime, Integer, LargeBinary, MetaData, String, Table
from sqlalchemy.types import TypeEngine


@dataclass(frozen=True, slots=True)
class Layout:
    """Column names of one table of a family. None: the family has no such column."""

    kind: str  # "task" or "group": the value of the `table` label
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
    sequence: str | None = None  # that ids come from, where the database has sequences

    @property
    def required(self) -> tuple[str, ...]:
        """Columns without which nothing can be counted."""
        return (self.id,) if self.state is None else (self.id, self.state)

    @property
    def optional(self) -> tuple[str, ...]:
        """Columns that are read where they are there."""
        names = (
            *(self.task, self.worker, self.queue, self.retries, self.done),
            *(self.task_id, self.result, self.traceback),
        )
        return tuple(name for name in names if name is not None)


@dataclass(frozen=True, slots=True)
class Facts:
    """What inspection finds of a table."""

    columns: Mapping[str, TypeEngine[Any]]
    indexed: frozenset[str]  # columns that an index begins with


@dataclass(frozen=True, slots=True)
class ResultTable:
    """One table as it was found: only columns that exist and may be read."""

    layout: Layout
    table: Table
    all_columns: frozenset[str]  # those not read, too
    date_done_index: bool

    def column(self, name: str | None) -> Column[Any] | None:
        """Return the column, or None where it is not there."""
        return None if name is None else self.table.c.get(name)

    @property
    def id(self) -> Column[int]:
        """The primary key."""
        return self.table.c[self.layout.id]

    @property
    def extended(self) -> bool:
        """Whether there is a column for the task's name."""
        return self.column(self.layout.task) is not None


def build(
    layout: Layout,
    name: str,
    schema: str | None,
    facts: Facts,
    readable: AbstractSet[str],
) -> ResultTable:
    """Make the table from what was found, with those columns only that may be read."""
    types: dict[str | None, TypeEngine[Any]] = {
        layout.id: BigInteger(),
        layout.done: DateTime(),
        layout.retries: Integer(),
        layout.result: LargeBinary(),
    }
    columns = [
        Column(column, types.get(column, String()))
        for column in (*layout.required, *layout.optional)
        if column in readable
    ]
    return ResultTable(
        layout=layout,
        table=Table(name, MetaData(), *columns, schema=schema),
        all_columns=frozenset(facts.columns),
        date_done_index=layout.done in facts.indexed,
    )
