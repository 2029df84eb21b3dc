"""Asks the database what a plan wants, in one snapshot, and returns a Batch.

The database aggregates: SUCCESS rows come back as groups, and only rows that matter one by one
(unfinished, failed, revoked) as rows. Where a database offers no snapshot, a range is read by one
statement, row by row, and grouped here (R9).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from decimal import Decimal
from functools import lru_cache
from math import isfinite
from typing import Any
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
    null,
    or_,
    select,
    true,
)
from sqlalchemy.sql import Select

from exporter.backends import failures
from exporter.backends.family import ResultTable
from exporter.counting.audit import Audit, Found, missing
from exporter.counting.lifecycle import ZONE_SLACK, Watch, slack_shown_by
from exporter.counting.position import RECENT_IDS
from exporter.counting.resets import REAPPEARED_IDS
from exporter.counting.results import FAILURE, READY_STATES, SUCCESS, Group, Row
from exporter.counting.spans import MIN_ID, Missing, Span, holes, inside, windows
from exporter.counting.step import Anchor, Batch, Cohort, Digest, Horizon, Plan
from exporter.sql.dialects import Dialect, decoded

IDS_A_STATEMENT = 1_000  # SQL Server takes 2,100 parameters
EDGE_ROWS = 100
NEWEST_ROWS = 1_000  # whose dates show how far off the zone may be
MOST_ROWS = 10_000  # that are read one by one at once, about: a hundred bytes each, for a while
MOST_GROUPS = 20_000  # that are read at once: several hundred bytes each, for a while
LABELS_KEPT = 20_000  # texts that are kept, so that equal ones are one
READERS_KEPT = 100  # more tables that differ from each other are rare
NEIGHBOURS = 3  # reading a range of so many rows costs less than one row of it by id
WINDOW_REACH = 1_000  # reading this many known ids is cheaper than another statement


@dataclass(frozen=True, slots=True)
class Health:
    """What the table says about itself; asked now and then."""

    highest_id: int | None
    id_used_ratio: float | None
    oldest_result: float | None  # Unix time, seconds
    rows_estimate: int | None


@dataclass(slots=True)
class _Chunk:
    """Rows of a range of ids."""

    asked: int = 0  # rows
    upto: int | None = None
    first: int | None = None
    over: bool = False
    groups: list[Group] = field(default_factory=list)
    rows: Sequence[Row] = ()
    fetched: int = 0  # rows that came one by one
    holes: Sequence[Span] = ()


class Reader:
    """Reads tables that are alike, of any backend: `reader_of` returns one for all of them."""

    def __init__(self, table: ResultTable, dialect: Dialect, zone: ZoneInfo) -> None:
        self.table = table
        self.dialect = dialect
        self._snapshot = dialect.snapshot
        # Of wall times; a moment has none to be shifted by.
        self._zone = None if table.date_done_zone or zone.key == "UTC" else zone
        self._text = lru_cache(LABELS_KEPT)(dialect.text)
        self._id = table.id
        layout = table.layout
        self._state = table.column(layout.state)
        names = (layout.task, layout.worker, layout.queue)
        self._keys = [self._of(name, dialect.exact) for name in names]
        self._labels = [self._of(name, dialect.label) for name in names]
        self._task_id = self._of(layout.task_id, dialect.label)
        retries = table.column(layout.retries)
        self._retries: ColumnElement[Any] = literal(0) if retries is None else retries
        done = table.column(layout.done)
        self._done: ColumnElement[Any] | None = done
        self._ready = [self._value(state) for state in sorted(READY_STATES)]
        state = self._state
        self._exact_state = literal(SUCCESS) if state is None else dialect.exact(state)
        self._state_label = literal(SUCCESS) if state is None else dialect.label(state)
        unlike = self._exact_state != self._value(SUCCESS)
        self._success = true() if state is None else ~unlike
        self._no_success = false() if state is None else or_(state.is_(None), unlike)
        self._row_columns = [
            self._id,
            self._state_label,
            *self._labels,
            self._retries,
            self._moment(done),
            self._task_id,
            self._start_of_result(table.column(layout.result)),
        ]
        self._traceback = table.column(layout.traceback)
        # Whatever is written to a row, a new state, another worker, comes with a newer date. The
        # finished are counted, too, and the labels: a worker's clock may be slow, or in seconds.
        labels = map(table.column, names)
        counts: list[ColumnElement[Any]] = [func.count()]
        counts += [func.count(column) for column in labels if column is not None]
        if self._state is not None:
            ready = sorted(READY_STATES)  # as the column compares them: it is only a digest
            counts += [func.count(case((self._state == state, 1))) for state in ready]
        if done is not None:
            counts += [func.count(done), self._moment(func.max(done))]
        self._digest = select(*counts)
        # Of every poll, so made once. Each by itself: an index answers them at once, but not both
        # in one statement's FROM.
        top, lowest = (select(end(self._id)).scalar_subquery() for end in (func.max, func.min))
        newest = select(self._task_id).where(self._id == bindparam("newest")).scalar_subquery()
        self._ends = select(top, lowest, null())
        self._ends_and_newest = select(top, lowest, newest)
        self._top = select(func.max(self._id))
        self._oldest = self._oldest_of(self._id, EDGE_ROWS)
        self._oldest_of_the_newest = self._oldest_of(self._id.desc(), NEWEST_ROWS)
        ids = self._id.in_(bindparam("ids", expanding=True))
        self._task_ids_by_id = select(self._id, self._task_id).where(ids)
        self._rows_by_id = self._select_rows(ids).order_by(self._id)
        # Of many ids, which are ours, so they stand in the statement itself.
        many = bindparam("ids", type_=BigInteger(), expanding=True, literal_execute=True)
        self._listed = self._id.in_(many)

    # -- a plan ------------------------------------------------------------------------------

    def read(self, connection: Connection, plan: Plan) -> Batch:
        """Ask everything that `plan` wants."""
        top, bottom, held = self._edges(connection, plan)
        if plan.look:
            return self._first_look(connection, plan, top, bottom)
        chunk = _Chunk(plan.chunk)
        if top is not None and (plan.after is None or plan.after < top):
            if self._snapshot:
                chunk = self._aggregated(connection, plan, top)
            else:
                chunk = self._row_by_row(connection, plan)
        late, late_complete = self._late(connection, plan.gaps, min(plan.chunk, MOST_ROWS))
        below = None if plan.below is None else plan.below - 1
        below_rows, below_from = self._unfinished_upto(connection, plan, below)
        looks = [self._look_at(connection, cohort, plan.known) for cohort in plan.cohorts]
        changed = [row_id for _, some in looks for row_id in some]
        return Batch(
            plan=replace(plan, chunk=chunk.asked),
            top=top if chunk.upto is None or top is None else max(top, chunk.upto),
            bottom=bottom,
            last=None if chunk.upto is None else self._anchor(connection, chunk.upto),
            held=held,
            keys={} if held else self._task_ids(connection, [anchor.id for anchor in plan.anchors]),
            lower=() if held else tuple(self._ids_in(connection, _below(plan.anchors))),
            upto=chunk.upto,
            first=chunk.first,
            over=chunk.over,
            groups=tuple(chunk.groups),
            rows=tuple(chunk.rows),
            fetched=max(chunk.fetched, len(below_rows)),
            holes=tuple(chunk.holes),
            late=tuple(late),
            late_complete=late_complete,
            digests=tuple(digest for digest, _ in looks),
            changed=tuple(changed),
            watched=tuple(self._by_id(connection, [*plan.watched, *changed])),
            below_rows=tuple(below_rows),
            below_from=below_from,
            reappeared=tuple(self._ids_in(connection, plan.deleted)),
            found=self._found(connection, plan.audit),
            named=any(group.task for group in chunk.groups) or any(r.task for r in chunk.rows),
            horizon=self._horizon(connection) if plan.gaps else None,
        )

    def _edges(self, connection: Connection, plan: Plan) -> tuple[int | None, Anchor | None, bool]:
        """Read the highest id, the lowest row, and whether the last known row is still there."""
        newest = plan.anchors[-1] if plan.anchors else None
        ends = (self._ends_and_newest, {"newest": newest.id}) if newest else (self._ends, {})
        top, lowest, found = connection.execute(*ends).one()
        held = newest is None or (found is not None and self.dialect.text(found) == newest.key)
        if lowest is None:
            return top, None, held
        known = plan.anchors[0] if plan.anchors else None
        if held and known is not None and known.id == lowest:
            return top, known, held
        return top, self._anchor(connection, lowest), held

    def _anchor(self, connection: Connection, row_id: int) -> Anchor | None:
        key = self._task_ids(connection, [row_id]).get(row_id)
        return None if key is None else Anchor(row_id, key)

    def _task_ids(self, connection: Connection, ids: Sequence[int]) -> dict[int, str]:
        found = connection.execute(self._task_ids_by_id, {"ids": ids})
        return {row_id: self.dialect.text(key) for row_id, key in found}

    def _first_look(
        self, connection: Connection, plan: Plan, top: int | None, bottom: Anchor | None
    ) -> Batch:
        """See what is unfinished or on its way; what has finished is history."""
        if top is None:
            return Batch(plan=plan)
        lowest = max(MIN_ID, top - RECENT_IDS)
        recent = connection.execute(
            select(self._id, self._labels[0]).where(self._id >= lowest).order_by(self._id)
        ).all()
        below_rows, below_from = self._unfinished_upto(connection, plan, top)
        return Batch(
            plan=plan,
            top=top,
            bottom=bottom,
            last=self._anchor(connection, top),
            holes=tuple(holes([row[0] for row in recent])),
            fetched=len(below_rows),
            below_rows=tuple(below_rows),
            below_from=below_from,
            named=any(self.dialect.text(row[1]) for row in recent),
        )

    def _aggregated(self, connection: Connection, plan: Plan, top: int) -> _Chunk:
        chunk = _Chunk()
        if plan.after is None:
            chunk.first = start = connection.execute(select(func.min(self._id))).scalar_one()
        else:
            start = plan.after + 1
        end = self._chunk_end(connection, plan, top)
        found: Sequence[Any] = []
        if self._state is not None:
            others = self._select_rows(self._id.between(start, end), self._no_success)
            found = connection.execute(others.order_by(self._id).limit(MOST_ROWS)).all()
        full = len(found) == MOST_ROWS
        chunk.upto = end = found[-1][0] if full else end
        where = self._id.between(start, end)
        chunk.groups = self._groups(connection, where, news=plan.news)
        if len(chunk.groups) > MOST_GROUPS:  # a chunk of as many rows has no more
            return self._aggregated(connection, replace(plan, chunk=MOST_GROUPS), top)
        total = len(found) + sum(group.rows for group in chunk.groups)
        chunk.asked = total if full else plan.chunk
        self._sort(connection, plan, chunk, found)
        if not chunk.over and total != end - start + 1:
            chunk.holes = list(self._holes(connection, where, plan.after))
        return chunk

    def _sort(
        self, connection: Connection, plan: Plan, chunk: _Chunk, found: Sequence[Any]
    ) -> None:
        """Add rows to the chunk: in groups, where nothing is to be asked of them one by one."""
        chunk.fetched = len(found)
        moments = [self._epoch(done) for *_, done, _, _ in found]
        dates = (*moments, *(group.done for group in chunk.groups))
        newest = max((moment for moment in dates if moment is not None), default=None)
        chunk.over = plan.is_over(newest, self._slack(connection, plan))
        settled, others = [], []
        exceptions = self._exceptions(connection, found)
        for moment, exception, values in zip(moments, exceptions, found, strict=True):
            if self._is_settled(values, over=chunk.over):
                settled.append((moment, exception, values))
            else:
                others.append(self._row(values, exception))
        chunk.groups += self._summed(settled)
        chunk.rows = others

    def _slack(self, connection: Connection, plan: Plan) -> float:
        """Bound how far off dates of history may be; of news, all that are read matter anyway."""
        if plan.news or self._done is None:
            return ZONE_SLACK
        oldest = connection.execute(self._oldest_of_the_newest).scalar()
        return slack_shown_by(self._epoch(oldest), plan.now)

    def _oldest_of(self, order: ColumnElement[Any], rows: int) -> Select[Any]:
        """Ask for the oldest `date_done` of the finished among the first rows in this order.

        Rows that never finish stay for ever, and may be the lowest.
        """
        done = null() if self._done is None else self._done
        columns = (self._id, self._exact_state.label("state"), done.label("done"))
        first = select(*columns).order_by(order).limit(rows).subquery().c
        query = select(self._moment(func.min(first.done)))
        return query if self._state is None else query.where(first.state.in_(self._ready))

    def _is_settled(self, values: Any, *, over: bool) -> bool:
        """Whether a row is a success, or stays as it is."""
        _, state, task, *_, done, _, _ = values
        name = SUCCESS if self._state is None else self._text(state)
        if name == SUCCESS:
            return True
        if not over or name not in READY_STATES or done is None:
            return False
        return name == FAILURE or bool(task)  # else its name may come yet

    def _summed(self, dated: Iterable[tuple[float | None, str, Any]]) -> Iterator[Group]:
        """Aggregate rows as the database does: 1 µs each, where a `Row` would take 8."""
        sums: dict[tuple[Any, ...], tuple[int, int, float | None]] = {}
        for moment, exception, (_, state, task, worker, queue, retries, _, _, _) in dated:
            key = (state, task, worker, queue, exception)
            count, retried, newest = sums.get(key, (0, 0, None))
            if newest is None or (moment is not None and newest < moment):
                newest = moment
            sums[key] = count + 1, retried + _count(retries), newest
        text = self._text
        for (state, *labels, exception), (count, retried, newest) in sums.items():
            name = SUCCESS if self._state is None else text(state)
            task, worker, queue = map(text, labels)
            yield Group(name, task, worker, queue, count, retried, newest, exception=exception)

    def _groups(
        self, connection: Connection, where: ColumnElement[bool], *, news: bool
    ) -> list[Group]:
        """Aggregate successes: one group more than MOST_GROUPS, where there are too many."""
        query = (
            select(
                *self._labels,
                func.count(),
                func.coalesce(self.dialect.total(self._retries), 0),
                self._moment(None if self._done is None else func.max(self._done)),
                func.max(self._id) if news else null(),
            )
            .where(where, self._success)
            .group_by(*_grouping(self._keys))
            .limit(MOST_GROUPS + 1)
        )
        text = self._text
        groups: list[Group] = []
        newest_ids: list[int] = []
        found: Sequence[Any] = connection.execute(query).all()
        for task, worker, queue, count, retries, done, newest in found:
            if count:  # without labels there is one group, even of nothing
                labels = (text(task), text(worker), text(queue))
                groups.append(Group(SUCCESS, *labels, count, _count(retries), self._epoch(done)))
                newest_ids.append(newest)
        return self._with_task_ids(connection, groups, newest_ids) if news else groups

    def _holes(
        self, connection: Connection, where: ColumnElement[bool], after: int | None
    ) -> Iterator[Span]:
        """Yield the ids missing after that one; the database finds them where it can."""
        ids = select(self._id).where(where).order_by(self._id)
        if not self.dialect.has_window_functions(connection):
            start = [] if after is None else [after]
            yield from holes([*start, *connection.execute(ids).scalars()])
            return
        below: ColumnElement[Any] = func.lag(self._id, type_=self._id.type).over(order_by=self._id)
        if after is not None:
            below = func.coalesce(below, after)
        pairs = select(self._id.label("above"), below.label("below")).where(where).subquery()
        apart = select(pairs.c.below, pairs.c.above).where(pairs.c.above > pairs.c.below + 1)
        for ends in connection.execute(apart.order_by(pairs.c.above)):
            yield from holes(ends)

    def _with_task_ids(
        self, connection: Connection, groups: list[Group], newest_ids: list[int]
    ) -> list[Group]:
        """Name the newest task of each group, for exemplars."""
        names: dict[int, str] = {}
        for ids in _portions(newest_ids):
            names |= self._task_ids(connection, ids)
        return [
            group._replace(task_id=names.get(newest, ""))
            for group, newest in zip(groups, newest_ids, strict=True)
        ]

    def _chunk_end(self, connection: Connection, plan: Plan, top: int) -> int:
        """Return the highest id of the next chunk; ids may be sparse, so count rows."""
        if plan.after is not None and top - plan.after <= plan.chunk:
            return top
        query = select(self._id).order_by(self._id).limit(1).offset(plan.chunk - 1)
        if plan.after is not None:
            query = query.where(self._id > plan.after)
        end = connection.execute(query).scalar()
        return top if end is None else int(end)

    def _row_by_row(self, connection: Connection, plan: Plan) -> _Chunk:
        """Read a range by one statement: nothing can change between two looks at it."""
        limit = min(plan.chunk, MOST_ROWS)
        where = true() if plan.after is None else self._id > plan.after
        query = self._select_rows(where).order_by(self._id).limit(limit)
        found = connection.execute(query).all()
        if not found:
            return _Chunk(limit)
        chunk = _Chunk(limit, upto=found[-1][0], first=found[0][0])
        self._sort(connection, plan, chunk, found)
        if not chunk.over:
            start = [] if plan.after is None else [plan.after]
            chunk.holes = list(holes([*start, *(row[0] for row in found)]))
        return chunk

    def _horizon(self, connection: Connection) -> Horizon | None:
        running = self.dialect.transactions(connection)
        return running and Horizon(*running)

    # -- rows --------------------------------------------------------------------------------

    def _late(
        self, connection: Connection, gaps: Sequence[Missing], limit: int
    ) -> tuple[list[Row], bool]:
        """Read rows that have turned up in gaps, and say whether that is all of them.

        Gaps lie close together, so ask for the ids of a whole window, and then for the few rows.
        """
        late: list[int] = []
        for window in windows(gaps, WINDOW_REACH):
            lo, hi = window[0].span.lo, window[-1].span.hi
            known = hi - lo + 1 - sum(gap.span.size - gap.known.bit_count() for gap in window)
            query = select(self._id).where(self._id.between(lo, hi)).order_by(self._id)
            ids = connection.execute(query.limit(known + limit)).scalars()
            late += inside(ids, window)
            if len(late) >= limit:
                return list(self._by_id(connection, late[:limit])), False
        return list(self._by_id(connection, late)), True

    def _look_at(
        self, connection: Connection, cohort: Cohort, known: Mapping[int, Watch]
    ) -> tuple[Digest, list[int]]:
        """Return the digest of a cohort, and the rows that are not as known where it is another."""
        lo, hi = cohort.ids[0], cohort.ids[-1]
        if hi - lo < NEIGHBOURS * len(cohort.ids):
            # Others between them only make the digest change more often than it need.
            found = connection.execute(self._digest.where(self._id.between(lo, hi))).one()
        else:
            listed = self._digest.where(self._listed)
            found = connection.execute(listed, {"ids": cohort.ids}).one()
        digest = tuple(found)
        if digest == cohort.digest:
            return digest, []
        labels = select(self._id, self._state_label, *self._labels)
        rows = connection.execute(labels.where(self._listed), {"ids": cohort.ids})
        text = self._text
        as_known = {
            row_id
            for row_id, state, task, worker, queue in rows
            if known[row_id].shows((text(state), text(task), text(worker), text(queue)))
        }
        return digest, [i for i in cohort.ids if i not in as_known]

    def _found(self, connection: Connection, audit: Audit | None) -> Found | None:
        """Count the successes of a segment; where some are missing, read what may replace them."""
        if audit is None or self._state is None:
            return None
        within = self._id.between(*audit.segment.span)
        query = select(self._labels[0], func.count()).where(within, self._success)
        successes: Counter[str] = Counter()  # two names may make one label: NULL and ""
        for name, count in connection.execute(query.group_by(*_grouping(self._keys[:1]))):
            successes[self._text(name)] += count
        if not missing(audit.segment.counted, successes):
            return Found(successes)
        others = select(self._id).where(within, self._no_success).order_by(self._id)
        unknown = [
            row_id for row_id in connection.execute(others).scalars() if row_id not in audit.known
        ]
        return Found(successes, tuple(self._by_id(connection, unknown)))

    def _ids_in(self, connection: Connection, span: Span | None) -> Iterable[int]:
        """Read the lowest ids in a span."""
        if span is None:
            return ()
        query = select(self._id).where(self._id.between(span.lo, span.hi))
        return connection.execute(query.order_by(self._id).limit(REAPPEARED_IDS)).scalars()

    def _by_id(self, connection: Connection, ids: Sequence[int]) -> Iterator[Row]:
        for some in _portions(ids):
            found = connection.execute(self._rows_by_id, {"ids": some}).all()
            exceptions = self._exceptions(connection, found)
            yield from (self._row(row, name) for row, name in zip(found, exceptions, strict=True))

    def _unfinished_upto(
        self, connection: Connection, plan: Plan, upto: int | None
    ) -> tuple[list[Row], int | None]:
        """Read unfinished rows in a chunk of rows up to an id, and say how far down that was."""
        if upto is None or upto < MIN_ID or self._state is None:
            return [], None
        beyond = select(self._id).where(self._id <= upto).order_by(self._id.desc())
        start = connection.execute(beyond.limit(1).offset(plan.chunk - 1)).scalar()
        not_ready = or_(self._state.is_(None), self._exact_state.not_in(self._ready))
        unfinished = and_(self._id <= upto, not_ready)
        if start is not None:
            unfinished = and_(unfinished, self._id >= start)
        query = self._select_rows(unfinished).order_by(self._id.desc()).limit(MOST_ROWS)
        rows = [self._row(found) for found in connection.execute(query)]
        return rows, rows[-1].id if len(rows) == MOST_ROWS else start

    def _select_rows(self, *where: ColumnElement[bool]) -> Select[Any]:
        return select(*self._row_columns).where(*where)

    def _exceptions(self, connection: Connection, found: Sequence[Any]) -> Iterable[str]:
        """Name the exception of each row, "" where there is none, or nothing tells."""
        names = [_exception(result) for *_, result in found]
        silent = [
            row_id
            for (row_id, state, *_), name in zip(found, names, strict=True)
            if not name and self._text(state) == FAILURE
        ]
        if not silent or self._traceback is None:
            return names
        told = self._from_tracebacks(connection, self._traceback, silent)
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
            end = select(self._id, self.dialect.end_of_text(traceback, characters))
            for some in _portions(ids):
                found = connection.execute(end.where(self._listed), {"ids": some})
                names |= {row_id: name_in(decoded(text)) for row_id, text in found}
            ids = [row_id for row_id in ids if not names.get(row_id)]
        return names

    def _start_of_result(self, result: ColumnElement[Any] | None) -> ColumnElement[Any]:
        """Cut the first bytes in the database: a result may be megabytes."""
        if result is None or self._state is None:
            return null()
        failed = self._exact_state == self._value(FAILURE)
        return case((failed, self.dialect.start_of_bytes(result, failures.RESULT_BYTES)))

    def _row(self, found: Any, exception: str = "") -> Row:
        row_id, state, task, worker, queue, retries, done, task_id, _ = found
        label = self._text
        return Row(
            row_id,
            SUCCESS if self._state is None else label(state),
            label(task),
            label(worker),
            label(queue),
            _count(retries),
            self._epoch(done),
            self.dialect.text(task_id),
            exception,
        )

    def rows(self, connection: Connection, ids: Sequence[int]) -> list[Row]:
        """Read rows by id."""
        return list(self._by_id(connection, ids))

    # -- the table's health ------------------------------------------------------------------

    def health(self, connection: Connection) -> Health:
        """Ask what changes slowly; each of these is cheap at any size of the table."""
        top = connection.execute(self._top).scalar()
        oldest = None if self._done is None else connection.execute(self._oldest).scalar()
        limit = (
            None
            if top is None
            else self.dialect.highest_id(
                connection, self.table.table, self.table.layout.id, self.table.layout.sequence
            )
        )
        return Health(
            highest_id=top,
            id_used_ratio=None if top is None or limit is None else used_ratio(top, limit),
            oldest_result=self._epoch(oldest),
            rows_estimate=self.dialect.rows_estimate(connection, self.table.table),
        )

    def newest(self, connection: Connection) -> list[Row]:
        """Read the newest rows, for `check`."""
        query = self._select_rows().order_by(self._id.desc()).limit(NEWEST_ROWS)
        return [self._row(found) for found in connection.execute(query)]

    # -- values ------------------------------------------------------------------------------

    def _of(
        self, name: str | None, expression: Callable[[ColumnElement[Any]], ColumnElement[Any]]
    ) -> ColumnElement[Any]:
        column = self.table.column(name)
        return null() if column is None else expression(column)

    def _moment(self, column: ColumnElement[Any] | None) -> ColumnElement[Any]:
        return null() if column is None else self.dialect.moment(column)

    def _value(self, value: str) -> ColumnElement[Any]:
        return literal(self.dialect.exact_value(value))

    def _epoch(self, value: Any) -> float | None:
        """Turn a `date_done` into Unix time."""
        return self.dialect.seconds(value, self._zone)


_readers: dict[Hashable, Reader] = {}


def reader_of(table: ResultTable, dialect: Dialect, zone: ZoneInfo) -> Reader:
    """Return the reader of all tables that are like this one: it takes 4 ms and 100 KiB to make."""
    server = (type(dialect), dialect.variant, dialect.snapshot)
    key = (*server, table.table, table.layout, table.shape, table.date_done_zone, zone.key)
    reader = _readers.get(key)
    if reader is None:
        if len(_readers) >= READERS_KEPT:
            _readers.clear()
        reader = _readers[key] = Reader(table, dialect, zone)
    return reader


def _count(value: Any) -> int:
    """Return a number of retries; a counter cannot take whatever else SQLite may have stored."""
    return max(0, int(value)) if isinstance(value, (int, float, Decimal)) and isfinite(value) else 0


def _exception(result: Any) -> str:
    return failures.from_result(bytes(result)) if result else ""


def _below(anchors: Sequence[Anchor]) -> Span | None:
    return Span(MIN_ID, anchors[0].id - 1) if anchors and anchors[0].id > MIN_ID else None


def _portions(ids: Sequence[int]) -> Iterator[Sequence[int]]:
    for start in range(0, len(ids), IDS_A_STATEMENT):
        yield ids[start : start + IDS_A_STATEMENT]


def used_ratio(top: int, highest: int) -> float:
    """Return how much of the id space is used, of the whole of it where ids began below zero."""
    return top / highest if top >= 0 else (top + highest + 1) / (2 * (highest + 1))


def _grouping(keys: Iterable[ColumnElement[Any]]) -> list[ColumnElement[Any]]:
    """Leave out the labels that the table does not have: there is no grouping by a constant."""
    return [key for key in keys if not key.compare(null())]
