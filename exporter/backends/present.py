"""Counts the finished rows that are in a task table, for `verify`.

It judges the reader, so it shares nothing with it: no expression, no grouping by the database, only
plain columns, in the order of their ids, counted here. The reader says no more than whether it sees
the same in a row that has changed. A short snapshot for each portion of rows, so that neither
memory nor a statement's time grows with the table.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import sqlalchemy
from sqlalchemy import ColumnClause, Select, select

from exporter.backends.database import Database
from exporter.backends.family import Layout, ResultTable
from exporter.counting.position import Position
from exporter.counting.results import READY_STATES, Labels
from exporter.counting.spans import inside
from exporter.metrics.samples import LabelValues
from exporter.sql.dialects import decoded

PORTION = 20_000  # rows


def count_present(database: Database, position: Position) -> Counter[LabelValues]:
    """Count rows that must have been counted when the position was kept.

    Late ones may have come into gaps, and watched ones may have changed since: these are left out,
    unless the reader sees them otherwise than they are.
    """
    counts: Counter[LabelValues] = Counter()
    gaps = sorted(gap.missing for gap in position.gaps)
    above, upto = position.origin, position.cursor
    rows: Sequence[Any] = ()
    while upto is not None and (not rows or len(rows) == PORTION):
        with database.session() as session:
            table = session.main
            if table is None:
                break
            rows = session.connection.execute(_query(table, above, upto)).all()
            changed = {}
            for row_id, *values in rows:
                if watch := position.watched.get(row_id):
                    labels = _texts(database, table, values)
                    if not (watch.settled and watch.shows(labels)):
                        changed[int(row_id)] = labels
            again = session.readers[table.layout.kind].rows(session.connection, list(changed))
            seen = {row.id: row.labels for row in again}
        out = {row_id for row_id, labels in changed.items() if seen.get(row_id) == labels}
        out.update(inside([int(row_id) for row_id, *_ in rows], gaps))
        plain = Counter(tuple(values) for row_id, *values in rows if row_id not in out)
        for stored, number in plain.items():
            state, task, worker, queue = _texts(database, table, stored)
            if state in READY_STATES:
                counts[task, state, worker, queue] += number
        if not rows:
            break
        above = int(rows[-1][0])
    return counts


def groups_present(database: Database, position: Position, layout: Layout) -> int:
    """Count groups that must have been followed to their end when the position was kept.

    That is all that are known, but those that are open, or may have come into gaps since.
    """
    gaps = sorted(gap.missing for gap in position.gaps)
    above, upto = position.followed_above, position.cursor
    if above is None or upto is None:
        return 0
    count = 0
    ids: Sequence[int] = ()
    while not ids or len(ids) == PORTION:
        with database.session() as session:
            table = session.table(layout)
            if table is None:
                break
            own = table.id
            query = select(own).where(own > above, own <= upto).order_by(own).limit(PORTION)
            ids = session.connection.execute(query).scalars().all()
        if not ids:
            break
        count += len(set(ids) - position.open_groups.known.keys() - set(inside(ids, gaps)))
        above = ids[-1]
    return count


def _query(table: ResultTable, above: int | None, upto: int) -> Select[Any]:
    """Ask for ids with state, task, worker and queue, as they are stored."""
    layout = table.layout
    names = [layout.id, *(name for name in _names(table) if name is not None)]
    columns: list[ColumnClause[Any]] = [sqlalchemy.column(name) for name in names]
    plain = sqlalchemy.table(table.table.name, *columns, schema=table.table.schema)
    query = select(*plain.c).where(plain.c[layout.id] <= upto)
    if above is not None:
        query = query.where(plain.c[layout.id] > above)
    return query.order_by(plain.c[layout.id]).limit(PORTION)


def _names(table: ResultTable) -> list[str | None]:
    """Name the columns of state, task, worker and queue; None where there is none to read."""
    layout = table.layout
    names = (layout.state, layout.task, layout.worker, layout.queue)
    return [name if name in table.columns else None for name in names]


def _texts(database: Database, table: ResultTable, values: Any) -> Labels:
    """Return the labels that stored values make; a column that is not there makes an empty one."""
    stored = iter(values)
    state, task, worker, queue = (
        "" if name is None else _text(database, table, name, next(stored)) for name in _names(table)
    )
    return state, task, worker, queue


def _text(database: Database, table: ResultTable, name: str, value: Any) -> str:
    text = database.dialect.labelled(decoded(value))
    return text.rstrip(" ") if name in table.padded else text
