"""Reads saved groups: each once, whose tasks it has; then what becomes of these.

Where groups are open, a step reads the ids of the results that are new, or asks for the tasks that
are waited for, whichever is less.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from sqlalchemy import BindParameter, Connection, Select, bindparam, select

from exporter.backends import members
from exporter.backends.expressions import IDS_A_STATEMENT, portions
from exporter.backends.family import ResultTable
from exporter.backends.members import UntoldError
from exporter.backends.sharing import Shared
from exporter.counting.groups import (
    A_STEP,
    MOST_WAITED_FOR,
    OpenGroups,
    Saved,
    Sight,
    Untold,
)
from exporter.counting.results import READY_STATES, SUCCESS
from exporter.counting.spans import MIN_ID
from exporter.counting.step import Batch
from exporter.sql.dialects import Dialect

START = 8_000  # bytes; most groups have no more, and SQL Server cuts no more
ROWS = 100  # that are read at once, of so many bytes
PLAIN = ("VARCHAR", "NVARCHAR", "TEXT")  # types whose index finds a text

States = Mapping[str, str]  # of tasks that have finished, by id


class GroupReader:
    """Reads a table of groups, beside that of their tasks."""

    def __init__(self, tasks: ResultTable, groups: ResultTable, dialect: Dialect) -> None:
        """Take tables that `obstacle` has nothing against."""
        layout = tasks.layout
        task_id, state = (tasks.columns[str(name)] for name in (layout.task_id, layout.state))
        as_stored = tasks.table.c[str(layout.task_id)]  # which its index has
        stored = groups.columns[str(groups.layout.members)]
        self._text = dialect.text
        ids: BindParameter[Any] = bindparam("ids", expanding=True)
        known = select(dialect.label(task_id), dialect.label(state))
        self._tasks_by_name = known.where(as_stored.in_(ids))
        self._tasks_between = known.where(tasks.id.between(bindparam("low"), bindparam("high")))
        self._id = groups.id
        self._starts = select(groups.id, dialect.start_of_bytes(stored, START))
        longest = dialect.start_of_bytes(stored, members.LONGEST + 1)
        self._whole = select(longest).where(groups.id == bindparam("id"))
        self._by_id = self._starts.where(groups.id.in_(ids)).order_by(groups.id.desc())
        self._there = select(groups.id).where(groups.id.in_(ids))

    def read(
        self,
        connection: Connection,
        known: OpenGroups,
        tasks: Batch,
        groups: Batch,
        *,
        begins: bool,
    ) -> Sight:
        """Read what `tasks` and `groups`, of the same snapshot, leave to be said of groups.

        `begins`: groups were not followed before.
        """
        plan = groups.plan
        upto = groups.top if plan.look else plan.after
        old = self._newest(connection, upto) if begins and upto is not None else []
        turn, unread = known.turn(plan.now), known.unread()
        again = tuple(self._saved(connection, self._listed(connection, unread)))
        present = {
            int(row_id)
            for some in portions(turn)
            for (row_id,) in connection.execute(self._there, {"ids": some})
        } | {group.id for group in again}
        return Sight(
            new=tuple(_bounded(self._saved(connection, self._new(connection, groups)))),
            old=tuple(old),
            again=again,
            gone=tuple(group for group in (*turn, *unread) if group not in present),
            finished=self._finished(connection, known, turn, tasks),
            turn=turn,
        )

    # -- tasks -------------------------------------------------------------------------------

    def _finished(
        self, connection: Connection, known: OpenGroups, turn: Sequence[int], tasks: Batch
    ) -> States:
        """Say which of the tasks that are waited for have finished, as far as a step may tell."""
        waited_for, plan = known.members, tasks.plan
        if not waited_for:
            return {}
        found = [(row.task_id, row.state) for row in (*tasks.rows, *tasks.late, *tasks.watched)]
        new = sum(group.rows for group in tasks.groups)
        if new > len(waited_for):
            found += self._asked_for(connection, [*waited_for])
        else:
            found += self._asked_for(connection, known.waited_for_by(turn))
            if new:
                low = MIN_ID if plan.after is None else plan.after + 1
                ids = {"low": low, "high": tasks.upto}
                found += self._states(connection, self._tasks_between, ids)
        return {
            task: state for task, state in found if task in waited_for and state in READY_STATES
        }

    def _asked_for(self, connection: Connection, tasks: Sequence[str]) -> Iterator[tuple[str, str]]:
        for some in portions(tasks):
            yield from self._states(connection, self._tasks_by_name, {"ids": some})

    def _states(
        self, connection: Connection, query: Select[Any], values: Mapping[str, Any]
    ) -> Iterator[tuple[str, str]]:
        for task, state in connection.execute(query, values).all():
            yield self._text(task), self._text(state)

    # -- groups ------------------------------------------------------------------------------

    def _new(self, connection: Connection, groups: Batch) -> Iterator[Any]:
        """Yield the rows that are new in a batch."""
        after, upto = groups.plan.after, groups.upto
        while upto is not None and (after is None or after < upto):
            ids = self._id <= upto if after is None else self._id.between(after + 1, upto)
            rows = connection.execute(self._starts.where(ids).order_by(self._id).limit(ROWS)).all()
            yield from rows
            after = rows[-1][0] if len(rows) == ROWS else upto
        yield from self._listed(connection, [row.id for row in groups.late])

    def _newest(self, connection: Connection, upto: int) -> list[Saved]:
        """Return the newest groups up to one, the newest last."""
        query = select(self._id).where(self._id <= upto).order_by(self._id.desc()).limit(A_STEP)
        ids = connection.execute(query).scalars().all()
        found: list[Saved] = []
        tasks = 0
        for group in self._saved(connection, self._listed(connection, ids)):
            tasks += len(group.waits_for)
            if tasks > MOST_WAITED_FOR:
                break
            found.insert(0, group)
        return found

    def _listed(self, connection: Connection, ids: Sequence[int]) -> Iterator[Any]:
        for start in range(0, len(ids), ROWS):
            some = connection.execute(self._by_id, {"ids": ids[start : start + ROWS]})
            yield from some.all()

    def _saved(self, connection: Connection, rows: Iterable[Any]) -> Iterator[Saved]:
        """Say of groups what their tasks are now, asking for those of several at once."""
        some: list[tuple[int, list[str]]] = []
        tasks = 0
        for row_id, start in rows:
            try:
                found = members.task_ids(self._stored(connection, row_id, start))
            except UntoldError as error:
                yield Saved(row_id, untold=error.reason)
                continue
            some.append((row_id, found))
            tasks += len(found)
            if tasks >= IDS_A_STATEMENT:
                yield from self._asked(connection, some)
                some, tasks = [], 0
        yield from self._asked(connection, some)

    def _stored(self, connection: Connection, row_id: int, start: Any) -> bytes:
        """Return what is stored in a row, or as much as is looked at."""
        if start is not None and len(start) == START:
            start = connection.execute(self._whole, {"id": row_id}).scalar()
        return bytes(start or b"")

    def _asked(
        self, connection: Connection, some: Sequence[tuple[int, list[str]]]
    ) -> Iterator[Saved]:
        tasks = [task for _, own in some for task in own]
        states = dict(self._asked_for(connection, tasks))
        for row_id, own in some:
            ended = [state for task in own if (state := states.get(task)) in READY_STATES]
            waits = frozenset(task for task in own if states.get(task) not in READY_STATES)
            failed = any(state != SUCCESS for state in ended)
            yield Saved(row_id, len(own), waits, failed)


def _bounded(groups: Iterable[Saved]) -> list[Saved]:
    """Return them, the oldest that are open without their tasks where these are too many."""
    kept: list[Saved] = []
    tasks = dropped = 0
    for group in groups:
        kept.append(group)
        tasks += len(group.waits_for)
        while tasks > MOST_WAITED_FOR:
            oldest = kept[dropped]
            tasks -= len(oldest.waits_for)
            if oldest.waits_for:
                kept[dropped] = Saved(oldest.id, oldest.size, untold=Untold.NO_ROOM)
            dropped += 1
    return kept


_readers: Shared[GroupReader] = Shared()


def group_reader_of(tasks: ResultTable, groups: ResultTable, dialect: Dialect) -> GroupReader:
    """Return the reader of all pairs of tables that are like these."""
    alike = tuple((table.table, table.layout, table.shape) for table in (tasks, groups))
    return _readers.of(dialect, alike, lambda: GroupReader(tasks, groups, dialect))


def obstacle(tasks: ResultTable, groups: ResultTable) -> str:
    """Say why groups cannot be followed until they complete; "": they can be."""
    for table, name in ((groups, groups.layout.members), (tasks, tasks.layout.task_id)):
        if name is None or name not in table.all_columns:
            return f"{table.table.name} has no column that names tasks"
        if table.column(name) is None:
            return f"this account may not read column {name} of {table.table.name}"
    if not dict(tasks.shape)[str(tasks.layout.task_id)].startswith(PLAIN):
        return f"column {tasks.layout.task_id} of {tasks.table.name} is not VARCHAR"
    return ""
