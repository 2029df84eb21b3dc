"""Reads the finished rows of a table by label set and time, for `backfill`.

Once through the table in the order of its ids, in snapshots of a quarter of a second, as a backlog
is read: so no vacuum, purge or ALTER TABLE waits for it, no index on the date is needed, and the
server neither sorts nor keeps more than a chunk. bench/backfill.py compares it with one statement
that sorts all of the table.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any, NamedTuple

from sqlalchemy import ColumnElement, Connection, func, select
from sqlalchemy.sql import Select

from exporter.backends.database import Database, Session
from exporter.backends.expressions import Expressions, count_of, grouping
from exporter.backends.family import Layout
from exporter.counting.history import Grid
from exporter.counting.measures import Measures
from exporter.counting.results import FAILURE, READY_STATES, Group, Row
from exporter.errors import BackendError, Reason

CHUNK_SECONDS = 0.25  # that a snapshot is held open, about
SMALLEST_CHUNK, FIRST_CHUNK, LARGEST_CHUNK = 500, 5_000, 20_000  # rows
MOST_FAILURES = 5_000  # that are read one by one at once
PAUSES = (1.0, 5.0, 15.0)  # seconds between tries, where a server is busy or restarts
_WORTH_ANOTHER_TRY = (Reason.CONNECT, Reason.TIMEOUT)


class Piece(NamedTuple):
    """The finished rows of a range of ids."""

    upto: int
    groups: list[Group]  # `done` may be rounded down by `Grid.unit`
    undated: int  # rows without a date: nobody knows when they finished


class History:
    """The rows of one table whose dates lie in a grid."""

    def __init__(self, database: Database, layout: Layout, grid: Grid) -> None:
        self._database = database
        self._layout = layout
        self._grid = grid
        self._chunk = FIRST_CHUNK
        self._question: _Question | None = None  # as of the last look at the table

    def ends(self) -> tuple[int, int] | None:
        """Read the lowest and the highest id; None where there is no row, or no table."""
        with self._database.session() as session:
            table = session.table(self._layout)
            if table is None:
                return None
            ask = session.connection.execute
            lowest, highest = (ask(select(of(table.id))).scalar() for of in (func.min, func.max))
        return None if lowest is None or highest is None else (lowest, highest)

    def pieces(self, lowest: int, highest: int) -> Iterator[Piece]:
        """Read the rows between these ids."""
        start = lowest
        while start <= highest:
            piece = self._piece(start, highest)
            yield piece
            start = piece.upto + 1

    def _piece(self, start: int, highest: int) -> Piece:
        for pause in PAUSES:
            try:
                return self._read(start, highest)
            except BackendError as error:
                if error.reason not in _WORTH_ANOTHER_TRY:
                    raise
            self._chunk = max(self._chunk // 10, SMALLEST_CHUNK)
            time.sleep(pause)
        return self._read(start, highest)

    def _read(self, start: int, highest: int) -> Piece:
        with self._database.session() as session:
            question = self._of(session)
            began = time.monotonic()
            piece = question.ask(session.connection, start, highest, self._chunk)
            share = (time.monotonic() - began) / CHUNK_SECONDS
        fitting = self._chunk / max(share, 0.25)
        self._chunk = round(min(max(fitting, SMALLEST_CHUNK), LARGEST_CHUNK))
        return piece

    def _of(self, session: Session) -> _Question:
        table = session.table(self._layout)
        name = self._database.full_name(self._layout)
        if table is None:
            raise BackendError(Reason.SCHEMA, f"table {name!r} is no longer there")
        if self._question is None or self._question.sql.table is not table:
            zone = self._database.zone(self._layout)
            sql = Expressions(table, self._database.dialect, zone, Measures())
            if sql.done is None:
                raise BackendError(
                    Reason.SCHEMA,
                    f"table {name!r} has no column {self._layout.done!r} that this account may "
                    "read: without it nothing says when results finished",
                )
            own = zone or UTC  # of moments, which need none
            bounds = [datetime.fromtimestamp(t, own) for t in (self._grid.begin, self._grid.end)]
            self._question = _Question(sql, sql.done, bounds, self._grid.unit)
        return self._question


class _Question:
    """What is asked of a table for each range of ids."""

    def __init__(
        self, sql: Expressions, done: ColumnElement[Any], bounds: list[datetime], unit: int
    ) -> None:
        self.sql = sql
        within = sql.dialect.within(done, *bounds, zone=sql.table.date_done_zone)
        moment = sql.dialect.coarse_moment(done, unit)
        retries = func.coalesce(sql.dialect.total(sql.retries), 0)
        columns = (sql.state_label, *sql.labels, moment, func.count(), retries)
        groups = select(*columns)
        self._failures: Select[Any] | None = None
        if sql.state is not None:
            others = [sql.value(state) for state in sorted(READY_STATES - {FAILURE})]
            groups = groups.where(sql.exact_state.in_(others)).group_by(sql.exact_state)
            failed = sql.exact_state == sql.value(FAILURE)
            self._failures = sql.rows_where(failed, within).order_by(sql.id).limit(MOST_FAILURES)
        self._groups: Select[Any] = groups.where(within).group_by(*grouping(sql.keys), moment)

    def ask(self, connection: Connection, start: int, highest: int, rows: int) -> Piece:
        """Read a chunk of so many rows, or fewer where many have failed."""
        own = self.sql.id
        ids = select(own).where(own.between(start, highest)).order_by(own)
        end = connection.execute(ids.limit(1).offset(rows - 1)).scalar()
        upto = highest if end is None else int(end)
        groups: list[Group] = []
        if self._failures is not None:
            found = connection.execute(self._failures.where(own.between(start, upto))).all()
            if len(found) == MOST_FAILURES:
                upto = int(found[-1][0])
            groups += map(
                _failure, map(self.sql.row, found, self.sql.exceptions(connection, found))
            )
        grouped = self._groups.where(own.between(start, upto))
        groups += self._read(connection.execute(grouped).all())
        return Piece(upto, groups, sum(group.rows for group in groups if group.done is None))

    def _read(self, found: Any) -> Iterator[Group]:
        text, epoch = self.sql.text, self.sql.epoch
        moments: dict[Any, float | None] = {}
        for state, task, worker, queue, moment, rows, retries in found:
            if moment not in moments:
                moments[moment] = epoch(moment)
            labels = (text(state), text(task), text(worker), text(queue))
            retried = count_of(retries) if retries else 0
            yield Group(*labels, rows, retried, moments[moment])


def _failure(row: Row) -> Group:
    return Group(*row.labels, 1, row.retries, row.done, exception=row.exception)
