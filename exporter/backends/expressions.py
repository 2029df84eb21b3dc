"""A result table as SQL expressions, and what their values mean."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from decimal import Decimal
from functools import lru_cache
from math import isfinite
from typing import Any, TypeVar
from zoneinfo import ZoneInfo

from sqlalchemy import (
    BigInteger,
    ColumnElement,
    Connection,
    and_,
    bindparam,
    case,
    false,
    func,
    literal,
    literal_column,
    null,
    or_,
    select,
    true,
)
from sqlalchemy.sql import Select

from exporter.backends import failures
from exporter.backends.family import ResultTable
from exporter.counting.measures import Measures
from exporter.counting.results import FAILURE, READY_STATES, SUCCESS, Row, Sizes
from exporter.counting.zones import CLOCKS
from exporter.metrics.samples import LARGEST_COUNT
from exporter.sql.dialects import Dialect, decoded

Id = TypeVar("Id", int, str)

IDS_A_STATEMENT = 1_000  # SQL Server takes 2,100 parameters
LABELS_KEPT = 20_000  # texts that are kept, so that equal ones are one
# Places in `row_columns`.
STATE, TASK, RETRIES, DONE, RESULT, TOOK, ENTRY, SIZES = 1, 2, 5, 6, 8, 9, 10, 11
LONGEST_RUN = 1e9  # seconds; what seems longer is no run
BELOW_ZERO = -1  # in place of a bucket: it took no time, by clocks that differ


@dataclass(frozen=True, slots=True)
class Run:
    """How long tasks ran."""

    seconds: ColumnElement[Any]  # null where a row does not tell
    bucket: ColumnElement[Any]  # its place among the bounds, or BELOW_ZERO; null likewise
    total: ColumnElement[Any]  # seconds, of rows in one bucket that is not below zero


class Expressions:
    """Those of tables that are alike, of any backend."""

    def __init__(
        self, table: ResultTable, dialect: Dialect, zone: ZoneInfo | None, measures: Measures
    ) -> None:
        """No zone: dates tell it."""
        self.table = table
        self.measures = measures = table.measured(measures)
        self.dialect = dialect
        # Of wall times; a moment has none to be shifted by.
        moment = table.date_done_zone or table.column(table.layout.done) is None
        self.walls = zone is None and not moment  # dates are read as if in UTC
        self._zone = None if table.date_done_zone or zone is None or zone.key == "UTC" else zone
        self.text = lru_cache(LABELS_KEPT)(dialect.text)
        self.id = table.id
        layout = table.layout
        self.state = table.column(layout.state)
        names = (layout.task, layout.worker, layout.queue)
        self.keys = [self._of(name, dialect.exact) for name in names]
        self.labels = [self._of(name, dialect.label) for name in names]
        self.task_id = self._of(layout.task_id, dialect.label)
        self.entry = self._of(layout.entry, dialect.label)
        self.exact_entry = self._of(layout.entry, dialect.exact)
        retries = table.column(layout.retries)
        self.retries: ColumnElement[Any] = literal(0) if retries is None else retries
        done = table.column(layout.done)
        self.done: ColumnElement[Any] | None = done
        self.ready = [self.value(state) for state in sorted(READY_STATES)]
        state = self.state
        self.exact_state = literal(SUCCESS) if state is None else dialect.exact(state)
        self.state_label = literal(SUCCESS) if state is None else dialect.label(state)
        unlike = self.exact_state != self.value(SUCCESS)
        self.success = true() if state is None else ~unlike
        self.no_success = false() if state is None else or_(state.is_(None), unlike)
        self.row_columns = [
            self.id,
            self.state_label,
            *self.labels,
            self.retries,
            self.moment(done),
            self.task_id,
            self._start_of_result(table.column(layout.result)),
        ]
        self.run = self._run()
        self.retry_bucket = self._retry_bucket()
        self.sizes = [self._size(layout.payload.get(part)) for part in measures.payload]
        self.has_sizes = [not size.compare(null()) for size in self.sizes]
        took = null() if self.run is None else self.run.seconds
        self.row_columns += [took, self.entry, *self.sizes]
        self.traceback = table.column(layout.traceback)
        ids = self.id.in_(bindparam("ids", expanding=True))
        self._task_ids_by_id = select(self.id, self.task_id).where(ids)
        self.rows_by_id = self.rows_where(ids).order_by(self.id)
        # Of many ids, which are ours, so they stand in the statement itself.
        many = bindparam("ids", type_=BigInteger(), expanding=True, literal_execute=True)
        self.listed = self.id.in_(many)

    def exceptions(self, connection: Connection, found: Sequence[Any]) -> Iterable[str]:
        """Name the exception of each row, "" where there is none, or nothing tells."""
        names = [_exception(values[RESULT]) for values in found]
        silent = [
            row_id
            for (row_id, state, *_), name in zip(found, names, strict=True)
            if not name and self.text(state) == FAILURE
        ]
        if not silent or self.traceback is None:
            return names
        told = self._from_tracebacks(connection, self.traceback, silent)
        return (name or told.get(row[0], "") for row, name in zip(found, names, strict=True))

    def _from_tracebacks(
        self, connection: Connection, traceback: ColumnElement[Any], ids: Sequence[int]
    ) -> dict[int, str]:
        """Name exceptions from the end of their traceback; of most the last line is enough."""
        names: dict[int, str] = {}
        for characters, name_in in (
            (failures.LAST_CHARACTERS, failures.from_last_line),
            (failures.TRACEBACK_CHARACTERS, failures.from_traceback),
        ):
            end = select(self.id, self.dialect.end_of_text(traceback, characters))
            for some in portions(ids):
                found = connection.execute(end.where(self.listed), {"ids": some})
                names |= {row_id: name_in(decoded(text)) for row_id, text in found}
            ids = [row_id for row_id in ids if not names.get(row_id)]
        return names

    def _start_of_result(self, result: ColumnElement[Any] | None) -> ColumnElement[Any]:
        """Cut the first bytes in the database: a result may be megabytes."""
        if result is None or self.state is None:
            return null()
        failed = self.exact_state == self.value(FAILURE)
        return case((failed, self.dialect.start_of_bytes(result, failures.RESULT_BYTES)))

    def row(self, found: Any, exception: str = "") -> Row:
        """Decode a row of `row_columns`."""
        row_id, state, task, worker, queue, retries, done, task_id, _, took, entry, *sizes = found
        label = self.text
        return Row(
            row_id,
            SUCCESS if self.state is None else label(state),
            label(task),
            label(worker),
            label(queue),
            count_of(retries),
            self.epoch(done),
            self.dialect.text(task_id),
            exception,
            took,
            self.retried(retries),
            self.payload(sizes),
            label(entry),
        )

    def retried(self, retries: Any) -> int | None:
        """Say how often a task was retried, where that is measured and its row tells."""
        return count_of(retries) if self.measures.retries and retries is not None else None

    def payload(self, sizes: Sequence[Any]) -> Sizes:
        """Read how many bytes each part takes that is measured; NULL takes none."""
        pairs = zip(sizes, self.has_sizes, strict=True)
        return tuple(count_of(size) if known else None for size, known in pairs)

    def _run(self) -> Run | None:
        """Return how long tasks ran, where the table and its dates tell.

        A start is a date of the server's clock, and all others are of the worker's: so it may lie
        a little after the end. One that lies further outside the life of its row is of another
        zone. Of wall times only those in UTC are known to be in the zone of a server's clock.
        """
        layout = self.table.layout
        started, created = map(self.table.column, (layout.started, layout.created))
        if started is None or created is None or self.done is None or self._zone is not None:
            return None
        started = self.dialect.stamped(started)
        ran, late = self.dialect.elapsed(started, self.done), self.dialect.elapsed(created, started)
        if ran is None or late is None:
            return None
        bounds = self.measures.runtimes
        zero, last = _number(0.0), _number(len(bounds))
        in_its_life = and_(late >= -_number(CLOCKS), ran >= -_number(CLOCKS))
        seconds = case((ran < zero, zero), (ran < _number(LONGEST_RUN), ran))
        # As few looks at dates as can be: for most rows, three and that of the sum.
        buckets = (
            (ran < zero, case((ran >= -_number(CLOCKS), _number(BELOW_ZERO)))),
            *((ran <= _number(bound), _number(n)) for n, bound in enumerate(bounds)),
            (ran < _number(LONGEST_RUN), last),
        )
        bucket = case((late >= -_number(CLOCKS), case(*buckets)))
        return Run(case((in_its_life, seconds)), bucket, func.sum(ran))

    def _retry_bucket(self) -> ColumnElement[Any]:
        """Return the place among the bounds of how often a task was retried; null where unknown."""
        bounds = self.measures.retries
        if not bounds:
            return null()
        places = (
            (self.retries <= _number(int(bound)), _number(n)) for n, bound in enumerate(bounds)
        )
        return case((self.retries.is_not(None), case(*places, else_=_number(len(bounds)))))

    def _size(self, name: str | None) -> ColumnElement[Any]:
        """Return the bytes in a column; null where there is none that may be read."""
        adapted = self.table.column(name)
        if name is None or adapted is None:
            return null()
        column = self.table.table.c[name]
        return self.dialect.octets(column, binary=adapted is column)

    def _of(
        self, name: str | None, expression: Callable[[ColumnElement[Any]], ColumnElement[Any]]
    ) -> ColumnElement[Any]:
        column = self.table.column(name)
        return null() if column is None else expression(column)

    def moment(self, column: ColumnElement[Any] | None) -> ColumnElement[Any]:
        """Return when a column says it was; null where there is none."""
        return null() if column is None else self.dialect.moment(column)

    def value(self, value: str) -> ColumnElement[Any]:
        """Return a text as `exact` compares it."""
        return literal(self.dialect.exact_value(value))

    def epoch(self, value: Any) -> float | None:
        """Turn a `date_done` into Unix time."""
        return self.dialect.seconds(value, self._zone)

    def rows_where(self, *where: ColumnElement[bool]) -> Select[Any]:
        """Ask for rows, one by one."""
        return select(*self.row_columns).where(*where)

    def task_ids(self, connection: Connection, ids: Sequence[int]) -> dict[int, str]:
        """Read the task ids of these rows."""
        found = connection.execute(self._task_ids_by_id, {"ids": ids})
        return {row_id: self.dialect.text(key) for row_id, key in found}


def count_of(value: Any) -> int:
    """Return a number of retries; a counter cannot take whatever else SQLite may have stored."""
    if not isinstance(value, (int, float, Decimal)) or not isfinite(value):
        return 0
    return min(max(0, int(value)), LARGEST_COUNT)


def _number(value: float) -> ColumnElement[Any]:
    """Return a constant: what is grouped by cannot have parameters."""
    return literal_column(repr(value))


def portions(ids: Sequence[Id]) -> Iterator[Sequence[Id]]:
    """Yield as many ids at once as a statement takes."""
    for start in range(0, len(ids), IDS_A_STATEMENT):
        yield ids[start : start + IDS_A_STATEMENT]


def grouping(keys: Iterable[ColumnElement[Any]]) -> list[ColumnElement[Any]]:
    """Leave out the labels that the table does not have: there is no grouping by a constant."""
    return [key for key in keys if not key.compare(null())]


def _exception(result: Any) -> str:
    return failures.from_result(bytes(result)) if result else ""
