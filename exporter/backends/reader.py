"""Asks the database what a plan wants, in one snapshot, and returns a Batch."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any
from zoneinfo import ZoneInfo

from sqlalchemy import (
    ColumnElement,
    Connection,
    and_,
    bindparam,
    case,
    func,
    null,
    or_,
    select,
)

from exporter.backends import chunks
from exporter.backends.chunks import NEWEST_ROWS, Chunks
from exporter.backends.expressions import Expressions, grouping, portions
from exporter.backends.family import ResultTable
from exporter.backends.sharing import Shared
from exporter.counting.audit import Audit, Found, missing
from exporter.counting.lifecycle import Watch
from exporter.counting.measures import Measures
from exporter.counting.position import RECENT_IDS
from exporter.counting.resets import REAPPEARED_IDS
from exporter.counting.results import READY_STATES, Row
from exporter.counting.spans import MIN_ID, Missing, Span, holes, inside, windows
from exporter.counting.step import Anchor, Batch, Cohort, Digest, Horizon, Plan
from exporter.sql.dialects import Dialect

NEIGHBOURS = 3  # reading a range of so many rows costs less than one row of it by id
WINDOW_REACH = 1_000  # reading this many known ids is cheaper than another statement


@dataclass(frozen=True, slots=True)
class Health:
    """What the table says about itself; asked now and then."""

    highest_id: int | None
    id_used_ratio: float | None
    oldest_result: float | None  # Unix time, seconds
    rows_estimate: int | None


class Reader:
    """Reads tables that are alike, of any backend: `reader_of` returns one for all of them."""

    def __init__(
        self, table: ResultTable, dialect: Dialect, zone: ZoneInfo | None, measures: Measures
    ) -> None:
        self.table = table
        self.dialect = dialect
        self._sql = sql = Expressions(table, dialect, zone, measures)
        self.times = sql.run is not None  # whether it reads how long tasks ran
        self.sizes = all(sql.has_sizes)  # whether it reads those of all that is asked for
        self.walls = sql.walls  # whether dates are wall time of a zone that they have to tell
        self._chunks = Chunks(sql)
        # Whatever is written to a row, a new state, another worker, comes with a newer date. The
        # finished are counted, too, and the labels: a worker's clock may be slow, or in seconds.
        layout, done = table.layout, sql.done
        labels = map(table.column, (layout.task, layout.worker, layout.queue))
        counts: list[ColumnElement[Any]] = [func.count()]
        counts += [func.count(column) for column in labels if column is not None]
        if sql.state is not None:
            ready = sorted(READY_STATES)  # as the column compares them: it is only a digest
            counts += [func.count(case((sql.state == state, 1))) for state in ready]
        if done is not None:
            counts += [func.count(done), sql.moment(func.max(done))]
        self._digest = select(*counts)
        # Of every poll, so made once. Each by itself: an index answers them at once, but not both
        # in one statement's FROM.
        top, lowest = (select(end(sql.id)).scalar_subquery() for end in (func.max, func.min))
        newest = select(sql.task_id).where(sql.id == bindparam("newest")).scalar_subquery()
        self._ends = select(top, lowest, null())
        self._ends_and_newest = select(top, lowest, newest)
        self._top = select(func.max(sql.id))

    # -- a plan ------------------------------------------------------------------------------

    def read(self, connection: Connection, plan: Plan) -> Batch:
        """Ask everything that `plan` wants."""
        top, bottom, held = self._edges(connection, plan)
        if plan.look:
            return self._first_look(connection, plan, top, bottom)
        chunk = self._chunks.read(connection, plan, top)
        late, late_complete = self._late(connection, plan.gaps, min(plan.chunk, chunks.MOST_ROWS))
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
            keys={}
            if held
            else self._sql.task_ids(connection, [anchor.id for anchor in plan.anchors]),
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
            walls=self.walls,
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
        key = self._sql.task_ids(connection, [row_id]).get(row_id)
        return None if key is None else Anchor(row_id, key)

    def _first_look(
        self, connection: Connection, plan: Plan, top: int | None, bottom: Anchor | None
    ) -> Batch:
        """See what is unfinished or on its way; what has finished is history."""
        if top is None:
            return Batch(plan=plan, walls=self.walls)
        sql = self._sql
        lowest = max(MIN_ID, top - RECENT_IDS)
        recent = connection.execute(
            select(sql.id, sql.labels[0]).where(sql.id >= lowest).order_by(sql.id)
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
            walls=self.walls,
        )

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
            query = select(self._sql.id).where(self._sql.id.between(lo, hi)).order_by(self._sql.id)
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
            found = connection.execute(self._digest.where(self._sql.id.between(lo, hi))).one()
        else:
            listed = self._digest.where(self._sql.listed)
            found = connection.execute(listed, {"ids": cohort.ids}).one()
        digest = tuple(found)
        if digest == cohort.digest:
            return digest, []
        labels = select(self._sql.id, self._sql.state_label, *self._sql.labels)
        rows = connection.execute(labels.where(self._sql.listed), {"ids": cohort.ids})
        text = self._sql.text
        as_known = {
            row_id
            for row_id, state, task, worker, queue in rows
            if known[row_id].shows((text(state), text(task), text(worker), text(queue)))
        }
        return digest, [i for i in cohort.ids if i not in as_known]

    def _found(self, connection: Connection, audit: Audit | None) -> Found | None:
        """Count the successes of a segment; where some are missing, read what may replace them."""
        if audit is None or self._sql.state is None:
            return None
        within = self._sql.id.between(*audit.segment.span)
        query = select(self._sql.labels[0], func.count()).where(within, self._sql.success)
        successes: Counter[str] = Counter()  # two names may make one label: NULL and ""
        for name, count in connection.execute(query.group_by(*grouping(self._sql.keys[:1]))):
            successes[self._sql.text(name)] += count
        if not missing(audit.segment.counted, successes):
            return Found(successes)
        others = select(self._sql.id).where(within, self._sql.no_success).order_by(self._sql.id)
        unknown = [
            row_id for row_id in connection.execute(others).scalars() if row_id not in audit.known
        ]
        return Found(successes, tuple(self._by_id(connection, unknown)))

    def _ids_in(self, connection: Connection, span: Span | None) -> Iterable[int]:
        """Read the lowest ids in a span."""
        if span is None:
            return ()
        query = select(self._sql.id).where(self._sql.id.between(span.lo, span.hi))
        return connection.execute(query.order_by(self._sql.id).limit(REAPPEARED_IDS)).scalars()

    def _by_id(self, connection: Connection, ids: Sequence[int]) -> Iterator[Row]:
        for some in portions(ids):
            found = connection.execute(self._sql.rows_by_id, {"ids": some}).all()
            exceptions = self._sql.exceptions(connection, found)
            for row, exception in zip(found, exceptions, strict=True):
                yield self._sql.row(row, exception)

    def _unfinished_upto(
        self, connection: Connection, plan: Plan, upto: int | None
    ) -> tuple[list[Row], int | None]:
        """Read unfinished rows in a chunk of rows up to an id, and say how far down that was."""
        if upto is None or upto < MIN_ID or self._sql.state is None:
            return [], None
        beyond = select(self._sql.id).where(self._sql.id <= upto).order_by(self._sql.id.desc())
        start = connection.execute(beyond.limit(1).offset(plan.chunk - 1)).scalar()
        not_ready = or_(self._sql.state.is_(None), self._sql.exact_state.not_in(self._sql.ready))
        unfinished = and_(self._sql.id <= upto, not_ready)
        if start is not None:
            unfinished = and_(unfinished, self._sql.id >= start)
        query = self._sql.rows_where(unfinished).order_by(self._sql.id.desc())
        found = connection.execute(query.limit(chunks.MOST_ROWS))
        rows = [self._sql.row(values) for values in found]
        return rows, rows[-1].id if len(rows) == chunks.MOST_ROWS else start

    def rows(self, connection: Connection, ids: Sequence[int]) -> list[Row]:
        """Read rows by id."""
        return list(self._by_id(connection, ids))

    # -- the table's health ------------------------------------------------------------------

    def health(self, connection: Connection) -> Health:
        """Ask what changes slowly; each of these is cheap at any size of the table."""
        top = connection.execute(self._top).scalar()
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
            oldest_result=self._chunks.oldest(connection),
            rows_estimate=self.dialect.rows_estimate(connection, self.table.table),
        )

    def newest(self, connection: Connection) -> list[Row]:
        """Read the newest rows, for `check`."""
        query = self._sql.rows_where().order_by(self._sql.id.desc()).limit(NEWEST_ROWS)
        return [self._sql.row(found) for found in connection.execute(query)]


_readers: Shared[Reader] = Shared()


def reader_of(
    table: ResultTable, dialect: Dialect, zone: ZoneInfo | None, measures: Measures
) -> Reader:
    """Return the reader of all tables that are like this one: it takes 4 ms and 100 KiB to make."""
    measures = table.measured(measures)
    name = None if zone is None else zone.key
    alike = (table.table, table.layout, table.shape, table.date_done_zone, name, measures)
    return _readers.of(dialect, alike, lambda: Reader(table, dialect, zone, measures))


def _below(anchors: Sequence[Anchor]) -> Span | None:
    return Span(MIN_ID, anchors[0].id - 1) if anchors and anchors[0].id > MIN_ID else None


def used_ratio(top: int, highest: int) -> float:
    """Return how much of the id space is used, of the whole of it where ids began below zero."""
    return top / highest if top >= 0 else (top + highest + 1) / (2 * (highest + 1))
