"""Reads what is new, chunk by chunk: rows that matter one by one, groups of the others.

The database aggregates: SUCCESS rows come back as groups, and only rows that matter one by one
(unfinished, failed, revoked) as rows. Where a database offers no snapshot, a range is read by one
statement, row by row, and grouped here (R9).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from sqlalchemy import ColumnElement, Connection, func, null, select, true
from sqlalchemy.sql import Select

from exporter.backends.expressions import (
    BELOW_ZERO,
    DONE,
    ENTRY,
    RETRIES,
    SIZES,
    STATE,
    TASK,
    TOOK,
    Expressions,
    count_of,
    grouping,
    portions,
)
from exporter.counting.lifecycle import ZONE_SLACK, slack_shown_by
from exporter.counting.results import FAILURE, READY_STATES, SUCCESS, Group, Row
from exporter.counting.spans import Span, holes
from exporter.counting.step import Plan
from exporter.metrics.samples import Histogram

EDGE_ROWS = 100
NEWEST_ROWS = 1_000  # whose dates show how far off the zone may be
MOST_ROWS = 10_000  # that are read one by one at once, about: a hundred bytes each, for a while
MOST_GROUPS = 20_000  # that are read at once: several hundred bytes each, for a while


@dataclass(slots=True)
class Chunk:
    """Rows of a range of ids."""

    asked: int = 0  # rows
    upto: int | None = None
    first: int | None = None
    over: bool = False
    groups: list[Group] = field(default_factory=list)
    rows: Sequence[Row] = ()
    fetched: int = 0  # rows that came one by one
    holes: Sequence[Span] = ()


class Chunks:
    """Reads chunks of tables that are alike."""

    def __init__(self, sql: Expressions) -> None:
        self._sql = sql
        self._snapshot = sql.dialect.snapshot  # as of those that are alike
        self._oldest = self._oldest_of(sql.id, EDGE_ROWS)
        self._oldest_of_the_newest = self._oldest_of(sql.id.desc(), NEWEST_ROWS)

    def read(self, connection: Connection, plan: Plan, top: int | None) -> Chunk:
        """Read rows above `plan.after`, up to `top`, the highest id."""
        if top is None or (plan.after is not None and plan.after >= top):
            return Chunk(plan.chunk)
        if self._snapshot:
            return self._aggregated(connection, plan, top)
        return self._row_by_row(connection, plan)

    def oldest(self, connection: Connection) -> float | None:
        """Read when the oldest result was, about; Unix time, seconds."""
        if self._sql.done is None:
            return None
        return self._sql.epoch(connection.execute(self._oldest).scalar())

    def _aggregated(self, connection: Connection, plan: Plan, top: int) -> Chunk:
        chunk = Chunk()
        if plan.after is None:
            chunk.first = start = connection.execute(select(func.min(self._sql.id))).scalar_one()
        else:
            start = plan.after + 1
        end = self._chunk_end(connection, plan, top)
        found: Sequence[Any] = []
        if self._sql.state is not None:
            others = self._sql.rows_where(self._sql.id.between(start, end), self._sql.no_success)
            found = connection.execute(others.order_by(self._sql.id).limit(MOST_ROWS)).all()
        full = len(found) == MOST_ROWS
        chunk.upto = end = found[-1][0] if full else end
        where = self._sql.id.between(start, end)
        chunk.groups = self._groups(connection, where, news=plan.news)
        if len(chunk.groups) > MOST_GROUPS:  # a chunk of as many rows has no more
            return self._aggregated(connection, replace(plan, chunk=MOST_GROUPS), top)
        if self._sql.sizes:
            chunk.groups = list(self._sized(connection, where, chunk.groups))
        total = len(found) + sum(group.rows for group in chunk.groups)
        chunk.asked = total if full else plan.chunk
        self._sort(connection, plan, chunk, found)
        if not chunk.over and total != end - start + 1:
            chunk.holes = list(self._holes(connection, where, plan.after))
        return chunk

    def _sort(self, connection: Connection, plan: Plan, chunk: Chunk, found: Sequence[Any]) -> None:
        """Add rows to the chunk: in groups, where nothing is to be asked of them one by one."""
        chunk.fetched = len(found)
        moments = [self._sql.epoch(values[DONE]) for values in found]
        dates = (*moments, *(group.done for group in chunk.groups))
        newest = max((moment for moment in dates if moment is not None), default=None)
        chunk.over = plan.is_over(newest, self._slack(connection, plan))
        settled, others = [], []
        exceptions = self._sql.exceptions(connection, found)
        for moment, exception, values in zip(moments, exceptions, found, strict=True):
            if self._is_settled(values, over=chunk.over):
                settled.append((moment, exception, values))
            else:
                others.append(self._sql.row(values, exception))
        chunk.groups += self._summed(settled)
        chunk.rows = others

    def _slack(self, connection: Connection, plan: Plan) -> float:
        """Bound how far off dates of history may be; of news, all that are read matter anyway."""
        if plan.news or self._sql.done is None:
            return ZONE_SLACK
        oldest = connection.execute(self._oldest_of_the_newest).scalar()
        return slack_shown_by(self._sql.epoch(oldest), plan.now)

    def _oldest_of(self, order: ColumnElement[Any], rows: int) -> Select[Any]:
        """Ask for the oldest `date_done` of the finished among the first rows in this order.

        Rows that never finish stay for ever, and may be the lowest.
        """
        done = null() if self._sql.done is None else self._sql.done
        columns = (self._sql.id, self._sql.exact_state.label("state"), done.label("done"))
        first = select(*columns).order_by(order).limit(rows).subquery().c
        query = select(self._sql.moment(func.min(first.done)))
        return query if self._sql.state is None else query.where(first.state.in_(self._sql.ready))

    def _is_settled(self, values: Any, *, over: bool) -> bool:
        """Whether a row is a success, or stays as it is."""
        name = SUCCESS if self._sql.state is None else self._sql.text(values[STATE])
        if name == SUCCESS:
            return True
        if not over or name not in READY_STATES or values[DONE] is None:
            return False
        return name == FAILURE or bool(values[TASK])  # else its name may come yet

    def _summed(self, dated: Iterable[tuple[float | None, str, Any]]) -> Iterator[Group]:
        """Aggregate rows as the database does: 1 µs each, where a `Row` would take 8."""
        sums: dict[tuple[Any, ...], tuple[int, int, float | None]] = {}
        measured: dict[tuple[Any, ...], _Measured] = {}
        measures = any(self._sql.measures)
        for moment, exception, values in dated:
            _, state, task, worker, queue, retries, *_ = values
            key = (state, task, worker, queue, values[ENTRY], exception)
            count, retried, newest = sums.get(key, (0, 0, None))
            if newest is None or (moment is not None and newest < moment):
                newest = moment
            sums[key] = count + 1, retried + count_of(retries), newest
            if measures:
                if key not in measured:
                    measured[key] = _Measured(self._sql)
                measured[key].add(values)
        text = self._sql.text
        for key, (count, retried, newest) in sums.items():
            state, *labels, exception = key
            name = SUCCESS if self._sql.state is None else text(state)
            task, worker, queue, entry = map(text, labels)
            group = Group(name, task, worker, queue, count, retried, newest, exception=exception)
            group = group._replace(entry=entry) if entry else group
            yield measured[key].of(group) if measures else group

    def _groups(
        self, connection: Connection, where: ColumnElement[bool], *, news: bool
    ) -> list[Group]:
        """Aggregate successes: one group more than MOST_GROUPS, where there are too many.

        Each entry of beat and each bucket makes a group, the one with the newest row last.
        """
        sql, newest_id = self._sql, func.max(self._sql.id)
        ran = (null(), null()) if sql.run is None else (sql.run.bucket, sql.run.total)
        within = grouping((sql.exact_entry, ran[0], sql.retry_bucket))
        measured = (sql.entry, *ran, sql.retry_bucket) if within else ()  # each column costs
        query = (
            select(
                *sql.labels,
                func.count(),
                func.coalesce(sql.dialect.total(sql.retries), 0),
                sql.moment(None if sql.done is None else func.max(sql.done)),
                newest_id if news else null(),
                *measured,
            )
            .where(where, sql.success)
            .group_by(*grouping(sql.keys), *within)
            .limit(MOST_GROUPS + 1)
        )
        if within and news:
            query = query.order_by(newest_id)
        text = sql.text
        groups: list[Group] = []
        newest_ids: list[int] = []
        found: Sequence[Any] = connection.execute(query).all()
        for task, worker, queue, count, retries, done, newest, *values in found:
            if count:  # without labels there is one group, even of nothing
                labels = (text(task), text(worker), text(queue))
                group = Group(SUCCESS, *labels, count, count_of(retries), sql.epoch(done))
                groups.append(self._measured(group, *values) if values else group)
                newest_ids.append(newest)
        return self._with_task_ids(connection, groups, newest_ids) if news else groups

    def _measured(
        self, group: Group, entry: Any, bucket: int | None, took: Any, retry_bucket: int | None
    ) -> Group:
        """Add what is the same in the rows of a group: which entry, and which buckets."""
        measures, rows = self._sql.measures, group.rows
        ran = retried = None
        if bucket == BELOW_ZERO:
            ran = Histogram.of_bucket(measures.runtimes, 0, rows, 0.0)
        elif bucket is not None:
            ran = Histogram.of_bucket(measures.runtimes, bucket, rows, took)
        if retry_bucket is not None:
            total = float(group.retries)
            retried = Histogram.of_bucket(measures.retries, retry_bucket, rows, total)
        return group._replace(took=ran, retried=retried, entry=self._sql.text(entry))

    def _sized(
        self, connection: Connection, where: ColumnElement[bool], groups: list[Group]
    ) -> Iterator[Group]:
        """Add how many bytes successes take: those of a task all to one of its groups."""
        sql = self._sql
        sizes = (size.label(f"size_{number}") for number, size in enumerate(sql.sizes))
        each = select(sql.labels[0].label("task"), *sizes).where(where, sql.success)
        task, *columns = sql.dialect.computed(each).c
        sums = (
            sql.dialect.total(column) if there else null()
            for column, there in zip(columns, sql.has_sizes, strict=True)
        )
        query = select(task, *sums).group_by(*([task] if grouping(sql.labels[:1]) else []))
        of_tasks: dict[str, list[int]] = {}
        for name, *found in connection.execute(query):
            before = of_tasks.setdefault(sql.text(name), [0] * len(found))  # NULL and "" are one
            before[:] = [total + count_of(more) for total, more in zip(before, found, strict=True)]
        for group in groups:
            own = of_tasks.pop(group.task, [])
            yield group._replace(payload=sql.payload(own)) if own else group

    def _holes(
        self, connection: Connection, where: ColumnElement[bool], after: int | None
    ) -> Iterator[Span]:
        """Yield the ids missing after that one; the database finds them where it can."""
        own = self._sql.id
        ids = select(own).where(where).order_by(own)
        if not self._sql.dialect.has_window_functions(connection):
            start = [] if after is None else [after]
            yield from holes([*start, *connection.execute(ids).scalars()])
            return
        below: ColumnElement[Any] = func.lag(own, type_=own.type).over(order_by=own)
        if after is not None:
            below = func.coalesce(below, after)
        pairs = select(own.label("above"), below.label("below")).where(where).subquery()
        apart = select(pairs.c.below, pairs.c.above).where(pairs.c.above > pairs.c.below + 1)
        for ends in connection.execute(apart.order_by(pairs.c.above)):
            yield from holes(ends)

    def _with_task_ids(
        self, connection: Connection, groups: list[Group], newest_ids: list[int]
    ) -> list[Group]:
        """Name the newest task of each group, for exemplars."""
        names: dict[int, str] = {}
        for ids in portions(newest_ids):
            names |= self._sql.task_ids(connection, ids)
        return [
            group._replace(task_id=names.get(newest, ""))
            for group, newest in zip(groups, newest_ids, strict=True)
        ]

    def _chunk_end(self, connection: Connection, plan: Plan, top: int) -> int:
        """Return the highest id of the next chunk; ids may be sparse, so count rows."""
        if plan.after is not None and top - plan.after <= plan.chunk:
            return top
        query = select(self._sql.id).order_by(self._sql.id).limit(1).offset(plan.chunk - 1)
        if plan.after is not None:
            query = query.where(self._sql.id > plan.after)
        end = connection.execute(query).scalar()
        return top if end is None else int(end)

    def _row_by_row(self, connection: Connection, plan: Plan) -> Chunk:
        """Read a range by one statement: nothing can change between two looks at it."""
        limit = min(plan.chunk, MOST_ROWS)
        where = true() if plan.after is None else self._sql.id > plan.after
        query = self._sql.rows_where(where).order_by(self._sql.id).limit(limit)
        found = connection.execute(query).all()
        if not found:
            return Chunk(limit)
        chunk = Chunk(limit, upto=found[-1][0], first=found[0][0])
        self._sort(connection, plan, chunk, found)
        if not chunk.over:
            start = [] if plan.after is None else [plan.after]
            chunk.holes = list(holes([*start, *(row[0] for row in found)]))
        return chunk


class _Measured:
    """What is measured of rows that become one group."""

    def __init__(self, sql: Expressions) -> None:
        self._sql = sql
        self._took: Histogram | None = None
        self._retried: Histogram | None = None
        self._sizes = [0] * len(sql.sizes)

    def add(self, values: Any) -> None:
        """Add a row's."""
        measures, took = self._sql.measures, values[TOOK]
        if took is not None:
            self._took = (self._took or Histogram.empty(measures.runtimes)).observe(took)
        if (retried := self._sql.retried(values[RETRIES])) is not None:
            self._retried = (self._retried or Histogram.empty(measures.retries)).observe(retried)
        sizes = zip(self._sizes, values[SIZES:], strict=True)
        self._sizes = [total + count_of(size) for total, size in sizes]

    def of(self, group: Group) -> Group:
        """Return the group with what was added."""
        payload = self._sql.payload(self._sizes)
        return group._replace(took=self._took, retried=self._retried, payload=payload)
