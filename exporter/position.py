"""Where reading of one table stands: cursor, gaps, watch list. Pure: no clock, no database.

This is the heart of the exporter; the rules R1 to R13 it names are those of docs/counting.md.
A step is: `plan` says what to ask, the reader asks it in one database snapshot, `advance` says
what the answer means as a `Change`, and `apply` takes the change over once it is safe.
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from exporter.results import STARTED, SUCCESS, Finished, Group, Row, Span, Vanished

MIN_ID = -(2**63)  # ids are signed; SQL Server's sequences may start here (FACTS: SQL Server)
CHUNK_ROWS = 5_000
RECENT_IDS = 1_000  # how far below the newest row a transaction open at our start is looked for
REBORN_IDS = 1_000
MAX_GAPS = 10_000
MAX_EMPTY_SETS = 50_000  # label sets without an unfinished row that are still remembered, at 0
GAPS_A_STEP = 2_000
WATCHED_A_STEP = 2_000
LONGEST_RECHECK = 60.0  # seconds; rule R3
# `date_done` is wall time in a zone we may be told wrongly; no zone is further off than this.
ZONE_SLACK = 26 * 3600.0
# A statement may have drawn its id but not yet its transaction id; after this it surely has both.
SETTLING = 1.0


@dataclass(frozen=True, slots=True)
class Rules:
    """What a backend's configuration says about counting. Times in seconds."""

    start: str = "end"
    poll_interval: float = 15.0
    late_commit_grace: float = 300.0
    revision_window: float = 3600.0
    # Whether rows carry names (`result_extended`); None: as seen in the table.
    named: bool | None = None


class Gap(NamedTuple):
    """Ids missing below the cursor, which may still be committed (rule R2)."""

    span: Span
    since: float  # first seen missing
    due: float  # ask again then
    horizon: int | None = None  # final once every transaction before this one has ended


class Horizon(NamedTuple):
    """PostgreSQL's transaction horizon of a snapshot: `pg_snapshot_xmin` and `_xmax`."""

    oldest_running: int
    next_unassigned: int


class Watch(NamedTuple):
    """A row that is asked for again by id."""

    state: str
    task: str
    worker: str
    queue: str
    first_seen: float
    due: float
    until: float | None = None  # finished rows: end of the watch
    started: float | None = None  # first seen STARTED, while we were looking
    # What this row was counted as, if it was: (task, state). Rule R4.
    counted: tuple[str, str] | None = None
    settled: bool = False  # the state above is the one that was counted


@dataclass(frozen=True, slots=True)
class Plan:
    """What to ask the database, all of it in one snapshot."""

    look: bool = False  # first sight of a table whose history is not to be counted
    after: int | None = None  # read rows above this id; None: all
    gaps: tuple[Span, ...] = ()
    watched: tuple[int, ...] = ()
    below: int | None = None  # look for unfinished rows below this id
    deleted: Span | None = None  # ids up to the cursor that were seen to be gone
    old: float = 0.0  # ids missing among rows finished before this are holes of history
    chunk: int = CHUNK_ROWS


@dataclass(frozen=True, slots=True)
class Batch:
    """What the database answered to a plan. `top` is None where the table is empty."""

    plan: Plan
    top: int | None = None  # highest id
    upto: int | None = None  # rows above `plan.after` were read up to this id; None: none there
    first: int | None = None  # lowest id of these
    groups: tuple[Group, ...] = ()  # SUCCESS among them
    rows: tuple[Row, ...] = ()  # all others among them
    holes: tuple[Span, ...] = ()  # ids missing among them, or among the newest rows at first look
    late: tuple[Row, ...] = ()  # rows in `plan.gaps`
    late_complete: bool = True  # `late` holds all there are
    watched: tuple[Row, ...] = ()  # rows of `plan.watched` that are still there
    below_rows: tuple[Row, ...] = ()  # unfinished rows in [below_from, plan.below)
    below_from: int | None = None  # None: nothing is left below
    reborn: tuple[int, ...] = ()  # ids in `plan.deleted` that are there (the lowest REBORN_IDS)
    named: bool = False  # a row with a name was seen
    horizon: Horizon | None = None


@dataclass(slots=True)
class Change:
    """What one step changes; all of it or nothing is taken over."""

    cursor: int | None
    looked: bool = True
    fallen: int | None = None
    returned: tuple[int, ...] = ()
    below: int | None = None
    named: bool = False
    caught_up: bool = True
    top: int | None = None
    gaps: tuple[Gap, ...] = ()
    watch: dict[int, Watch | None] = field(default_factory=dict)  # None: watched no longer
    outcomes: list[Finished | Vanished] = field(default_factory=list)
    late_rows: int = 0
    expired_ids: int = 0
    resets: int = 0


class Position:
    """Cursor, gaps and watch list of one table.

    `unfinished` counts the unfinished rows by (task, state, worker, queue).
    """

    def __init__(self, rules: Rules) -> None:
        self.rules = rules
        # Polls keep no exact beat: what is due a little earlier is surely asked at the next.
        self._soon = rules.poll_interval / 2
        self.looked = False
        self.cursor: int | None = None
        self.top: int | None = None
        # While the newest rows are gone: the highest id left then, and late commits above it.
        self.fallen: int | None = None
        self.returned: tuple[int, ...] = ()
        self.below: int | None = None
        self.named = bool(rules.named)
        self.live = False  # caught up once: what is new from now on is news, not history
        self.gaps: tuple[Gap, ...] = ()
        self.watched: dict[int, Watch] = {}
        self.unfinished: Counter[tuple[str, str, str, str]] = Counter()
        self._oldest: dict[tuple[str, str], list[tuple[float, int]]] = {}
        self._schedule: list[tuple[float, int]] = []
        self._asked: dict[int, None] = {}  # an ordered set
        self._clock = 0.0

    # -- asking ------------------------------------------------------------------------------

    def plan(self, now: float) -> Plan:
        """Say what to ask at `now` (Unix time, seconds)."""
        if now < self._clock:  # the clock was set back: nothing may wait for it to return
            self.watched = {i: watch._replace(due=now) for i, watch in self.watched.items()}
            self._schedule = [(now, row_id) for row_id in self.watched]
            self.gaps = tuple(gap._replace(due=min(gap.due, now)) for gap in self.gaps)
        self._clock = now
        self._collect_due(now)
        return Plan(
            look=not self.looked and self.rules.start == "end",
            after=self.cursor,
            gaps=tuple(sorted(gap.span for gap in self.gaps if gap.due <= now)[:GAPS_A_STEP]),
            watched=tuple(self._asked),
            below=self.below,
            deleted=None
            if self.fallen is None or self.cursor is None
            else Span(self.fallen + 1, self.cursor),
            old=now - self.rules.late_commit_grace - ZONE_SLACK,
        )

    def _collect_due(self, now: float) -> None:
        """Move ids that are due from the schedule to `_asked`, where they stay until applied."""
        while self._schedule and self._schedule[0][0] <= now and len(self._asked) < WATCHED_A_STEP:
            due, row_id = heapq.heappop(self._schedule)
            watch = self.watched.get(row_id)
            if watch is not None and watch.due <= due:
                self._asked[row_id] = None

    def busy(self, now: float) -> bool:
        """Whether another step has work to do at once."""
        return (
            not self.live
            or self.below is not None
            or (self.top is not None and (self.cursor is None or self.cursor < self.top))
            or bool(self._schedule and self._schedule[0][0] <= now)
            or any(gap.due <= now for gap in self.gaps)
        )

    # -- understanding -----------------------------------------------------------------------

    def advance(self, batch: Batch, now: float) -> Change:
        """Say what `batch`, read at `now`, changes. Touches nothing."""
        plan = batch.plan
        change = Change(
            cursor=self.cursor,
            below=self.below,
            named=self.named or (batch.named and self.rules.named is None),
            top=batch.top,
        )
        gaps: list[Gap] = []
        if plan.look:
            change.cursor = batch.top
            gaps += self._new_gaps(batch, now)
        elif self._restarted(batch):
            gaps += self._begin_again(batch, now, change)
        else:
            self._recheck(batch, now, change)
            gaps += self._ask_gaps(batch, now, change)
            self._note_deleted(batch, change)
            if batch.upto is not None:
                self._read_chunk(batch, now, change)
                if plan.deleted:  # ids went on above it, or began again and these come late
                    known = [gap.span for gap in gaps] + _each(self.returned)
                    spans = _outside(plan.deleted, known)
                    gaps += [Gap(span, now, now + self._soon) for span in spans]
                gaps += self._new_gaps(batch, now)
        if len(gaps) > MAX_GAPS:
            change.expired_ids += _ids(gap.span for gap in gaps[:-MAX_GAPS])
            gaps = gaps[-MAX_GAPS:]
        change.gaps = tuple(gaps)
        for row in batch.below_rows:
            if row.id not in self.watched:
                self._first_sight(row, now, change, live=False)
        change.below = batch.below_from
        change.caught_up = batch.top is None or (
            change.cursor is not None and change.cursor >= batch.top
        )
        return change

    def _read_chunk(self, batch: Batch, now: float, change: Change) -> None:
        for group in batch.groups:
            change.outcomes.append(
                Finished(
                    SUCCESS,
                    group.task,
                    group.worker,
                    group.queue,
                    group.rows,
                    group.retries,
                    group.done,
                )
            )
        for row in batch.rows:
            self._first_sight(row, now, change, live=self.live)
        change.cursor = batch.upto

    def _new_gaps(self, batch: Batch, now: float) -> Iterator[Gap]:
        if self.cursor is None and batch.first is not None and batch.first > MIN_ID:
            # The first rows of all: transactions with lower ids may be on their way.
            yield Gap(Span(MIN_ID, batch.first - 1), now, now + self._soon)
        for span in batch.holes:
            yield Gap(span, now, now + self._soon)

    def _ask_gaps(self, batch: Batch, now: float, change: Change) -> list[Gap]:
        """Take late rows out of the gaps, and drop those gaps that are final (R2)."""
        asked = set(batch.plan.gaps)
        found = sorted(batch.late)
        for row in found:
            change.late_rows += 1
            self._first_sight(row, now, change, live=self.live)
        kept: list[Gap] = []
        for gap in self.gaps:
            if gap.span not in asked:
                kept.append(gap)
                continue
            rest = list(_without(gap.span, [row.id for row in found]))
            if batch.late_complete and self._final(gap, batch.horizon, now):
                change.expired_ids += _ids(rest)
                continue
            age = now - gap.since
            horizon = gap.horizon
            if horizon is None and batch.horizon is not None and age >= SETTLING:
                horizon = batch.horizon.next_unassigned
            due = now + _interval(age, self._soon)
            kept += [Gap(span, gap.since, due, horizon) for span in rest]
        return kept

    def _final(self, gap: Gap, horizon: Horizon | None, now: float) -> bool:
        if now - gap.since >= self.rules.late_commit_grace:
            return True
        return (
            horizon is not None
            and gap.horizon is not None
            and horizon.oldest_running >= gap.horizon
        )

    def _restarted(self, batch: Batch) -> bool:
        """Whether ids began again below the cursor (R6).

        Ids never come back by themselves: where one does that was seen deleted, and it is no late
        commit, they began again.
        """
        waited_for = [gap.span for gap in self.gaps]
        return any(
            row_id not in self.returned and not _contained(row_id, waited_for)
            for row_id in batch.reborn
        )

    def _begin_again(self, batch: Batch, now: float, change: Change) -> list[Gap]:
        """Read on from below the deleted ids, or the highest of those taken as late commits."""
        assert batch.plan.deleted is not None  # noqa: S101  # without it there is no restart
        lo = batch.plan.deleted.lo
        cursor = max(self.returned, default=lo - 1)
        change.resets = 1
        change.cursor = cursor if cursor >= MIN_ID else None
        change.fallen, change.returned = None, ()
        for row_id, watch in self.watched.items():
            if row_id >= lo and row_id not in self.returned:
                self._gone(row_id, watch, change)
        self._recheck(batch, now, change)
        gaps = [gap for gap in self.gaps if gap.span.hi < lo]
        missing = _without(Span(lo, cursor), self.returned) if cursor >= lo else ()
        return gaps + [Gap(span, now, now) for span in missing]

    def _note_deleted(self, batch: Batch, change: Change) -> None:
        """Remember from where up to the cursor rows were deleted, and which came late there."""
        top = MIN_ID - 1 if batch.top is None else batch.top
        if self.cursor is None or top >= self.cursor:
            change.fallen, change.returned = None, ()
            return
        there = {row.id for row in batch.late}
        if len(batch.reborn) < REBORN_IDS:
            there.update(row_id for row_id in self.returned if row_id in batch.reborn)
        else:
            there.update(self.returned)
        change.fallen = top if self.fallen is None else min(top, self.fallen)
        change.returned = tuple(sorted(i for i in there if i > change.fallen))

    # -- rows --------------------------------------------------------------------------------

    def _first_sight(self, row: Row, now: float, change: Change, *, live: bool) -> None:
        if not row.finished:
            change.watch[row.id] = Watch(
                row.state,
                row.task,
                row.worker,
                row.queue,
                first_seen=now,
                due=now + self._soon,
                started=now if live and row.state == STARTED else None,
            )
        elif self._hold(row, now, change):
            change.watch[row.id] = self._held(row, now)
        else:
            change.outcomes.append(_finished(row))
            if self._may_be_revised(row, now):
                change.watch[row.id] = self._settled(row, now)

    def _recheck(self, batch: Batch, now: float, change: Change) -> None:
        """Compare watched rows with what they are now (R3, R4, R5, R13)."""
        present = {row.id: row for row in batch.watched}
        for row_id in batch.plan.watched:
            watch = self.watched.get(row_id)
            if watch is None or row_id in change.watch:
                continue
            row = present.get(row_id)
            if row is None:
                self._gone(row_id, watch, change)
            elif not row.finished:
                self._unfinished_again(row, watch, now, change)
            elif watch.settled and watch.state == row.state:
                self._still_settled(row_id, watch, now, change)
            elif self._hold(row, now, change) and (
                watch.until is None or watch.settled or now < watch.until
            ):
                change.watch[row_id] = self._held(row, now, watch)
            else:
                self._finish(row, watch, now, change)

    def _gone(self, row_id: int, watch: Watch, change: Change) -> None:
        change.watch[row_id] = None
        if watch.until is None:
            change.outcomes.append(Vanished(watch.task, watch.state))
        elif not watch.settled:  # finished and held: deleted before it got a name
            change.outcomes.append(
                Finished(watch.state, watch.task, watch.worker, watch.queue, revises=watch.counted)
            )

    def _unfinished_again(self, row: Row, watch: Watch, now: float, change: Change) -> None:
        """Keep watching; a row that had finished is unfinished again (R4)."""
        first_seen = now if watch.until is not None else watch.first_seen
        started = watch.started
        if row.state != STARTED:
            started = None
        elif watch.state != STARTED or watch.until is not None:
            started = now
        change.watch[row.id] = watch._replace(
            state=row.state,
            task=row.task,
            worker=row.worker,
            queue=row.queue,
            first_seen=first_seen,
            due=now + _interval(now - first_seen, self._soon),
            until=None,
            started=started,
            settled=False,
        )

    def _still_settled(self, row_id: int, watch: Watch, now: float, change: Change) -> None:
        if watch.until is not None and now >= watch.until:
            change.watch[row_id] = None
        else:
            due = now + _interval(now - watch.first_seen, self._soon)
            change.watch[row_id] = watch._replace(due=due)

    def _finish(self, row: Row, watch: Watch, now: float, change: Change) -> None:
        change.outcomes.append(
            _finished(row, runtime=_runtime(watch.started, row.done, now), revises=watch.counted)
        )
        keep = self._may_be_revised(row, now)
        change.watch[row.id] = self._settled(row, now) if keep else None

    def _hold(self, row: Row, now: float, change: Change) -> bool:
        """Whether a finished row without a name may still be given one (R13).

        Only rows that are not SUCCESS, and only where the table's rows have names at all: a worker
        writes SUCCESS and the name together, and with `result_extended` off there is never a name.
        """
        return (
            not row.task
            and row.state != SUCCESS
            and change.named
            and self._recent(row, self.rules.late_commit_grace, now)
        )

    def _held(self, row: Row, now: float, watch: Watch | None = None) -> Watch:
        held_before = watch is not None and watch.until is not None and not watch.settled
        return Watch(
            row.state,
            row.task,
            row.worker,
            row.queue,
            first_seen=watch.first_seen if watch else now,
            due=now + self._soon,
            until=watch.until
            if watch is not None and held_before
            else now + self.rules.late_commit_grace,
            started=watch.started if watch else None,
            counted=watch.counted if watch else None,
        )

    def _settled(self, row: Row, now: float) -> Watch:
        return Watch(
            row.state,
            row.task,
            row.worker,
            row.queue,
            first_seen=now,
            due=now + self._soon,
            until=now + self.rules.revision_window,
            counted=(row.task, row.state),
            settled=True,
        )

    def _may_be_revised(self, row: Row, now: float) -> bool:
        return row.state != SUCCESS and self._recent(row, self.rules.revision_window, now)

    @staticmethod
    def _recent(row: Row, span: float, now: float) -> bool:
        return row.done is None or row.done > now - span - ZONE_SLACK

    # -- taking over -------------------------------------------------------------------------

    def apply(self, change: Change) -> None:
        """Take a change over. Never fails."""
        self.cursor = change.cursor
        self.top = change.top
        self.looked = True
        self.fallen = change.fallen
        self.returned = change.returned
        self.below = change.below
        self.named = change.named
        self.gaps = change.gaps
        self.live = self.live or change.caught_up
        for row_id, watch in change.watch.items():
            self._put(row_id, watch)
        self._asked.clear()
        if len(self.unfinished) - len(self.watched) > MAX_EMPTY_SETS:
            self.unfinished = +self.unfinished

    def _put(self, row_id: int, watch: Watch | None) -> None:
        before = self.watched.pop(row_id, None)
        if before is not None and before.until is None:
            self.unfinished[before.task, before.state, before.worker, before.queue] -= 1
        if watch is None:
            return
        self.watched[row_id] = watch
        heapq.heappush(self._schedule, (watch.due, row_id))
        if watch.until is None:
            self.unfinished[watch.task, watch.state, watch.worker, watch.queue] += 1
            key = (watch.task, watch.state)
            heapq.heappush(self._oldest.setdefault(key, []), (watch.first_seen, row_id))

    def oldest(self) -> dict[tuple[str, str], float]:
        """When the oldest unfinished row of each (task, state) was first seen, Unix time."""
        result = {}
        for (task, state), heap in list(self._oldest.items()):
            while heap and not self._is_oldest(heap[0], task, state):
                heapq.heappop(heap)
            if heap:
                result[task, state] = heap[0][0]
            else:
                del self._oldest[task, state]
        return result

    def _is_oldest(self, entry: tuple[float, int], task: str, state: str) -> bool:
        watch = self.watched.get(entry[1])
        return (
            watch is not None
            and watch.until is None
            and (watch.first_seen, watch.task, watch.state) == (entry[0], task, state)
        )

    @property
    def gap_ids(self) -> int:
        """How many ids are missing below the cursor and may still come."""
        return _ids(gap.span for gap in self.gaps)

    @property
    def backlog(self) -> int:
        """How many ids lie between the cursor and the highest id."""
        if self.top is None or self.cursor is None:
            return 0
        return max(0, self.top - self.cursor)


def _finished(
    row: Row, runtime: float | None = None, revises: tuple[str, str] | None = None
) -> Finished:
    return Finished(
        row.state,
        row.task,
        row.worker,
        row.queue,
        retries=row.retries,
        done=row.done,
        runtime=runtime,
        revises=revises,
    )


def _runtime(started: float | None, done: float | None, now: float) -> float | None:
    """Seconds from first seen STARTED to `date_done`, or to now where that makes no sense."""
    if started is None:
        return None
    if done is None or not started <= done <= now:
        # Clocks differ, whole seconds on MySQL, or another zone: we saw it end between two polls.
        done = now
    return max(0.0, done - started)


def _interval(age: float, shortest: float) -> float:
    """How long to wait before asking for something `age` seconds old again."""
    return max(shortest, min(age / 10, LONGEST_RECHECK))


def _without(span: Span, ids: Iterable[int]) -> Iterator[Span]:
    """Parts of `span` left when `ids` are taken out."""
    return _outside(span, _each(ids))


def _each(ids: Iterable[int]) -> list[Span]:
    return [Span(row_id, row_id) for row_id in ids]


def _outside(span: Span, others: Iterable[Span]) -> Iterator[Span]:
    """Parts of `span` that none of the others covers."""
    lo = span.lo
    for other in sorted(others):
        if other.hi < lo or other.lo > span.hi:
            continue
        if lo < other.lo:
            yield Span(lo, other.lo - 1)
        lo = other.hi + 1
    if lo <= span.hi:
        yield Span(lo, span.hi)


def _contained(row_id: int, spans: Iterable[Span]) -> bool:
    return any(span.lo <= row_id <= span.hi for span in spans)


def _ids(spans: Iterable[Span]) -> int:
    """How many ids the spans hold; the open one below the first row of all counts nothing."""
    return sum(span.size for span in spans if span.lo > MIN_ID)
