"""Where reading of one table stands: cursor, gaps, watch list. Pure: no clock, no database.

This is the heart of the exporter; the rules R1 to R13 it names are those of docs/counting.md.
A step is: `plan` says what to ask, the reader asks it in one database snapshot, `advance` says
what the answer means as a `Change`, and `apply` takes the change over once it is safe.
"""

from __future__ import annotations

import heapq
from array import array
from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, TypedDict

from exporter.counting import audit
from exporter.counting.audit import Audit, Found, Segments
from exporter.counting.lifecycle import LONGEST_RECHECK, Lifecycle, Rules, Seen, Watch
from exporter.counting.results import SUCCESS, Finished, Group, Row, Vanished
from exporter.counting.spans import MIN_ID, Missing, Span, each, missing, outside
from exporter.counting.watchlist import Gauged, WatchList

CHUNK_ROWS = 5_000
RECENT_IDS = 1_000  # how far below the newest row a transaction open at our start is looked for
REBORN_IDS = 1_000
MAX_GAPS = 10_000
MAX_ANCHORS = 15  # beside the lowest
MAX_NAMELESS = 10_000  # rows, about, that are watched only because their name may still come
GAPS_A_STEP = 2_000
WATCHED_A_STEP = 2_000
ASIDE_HERDS = 20  # that rows may be put aside for, in catching up
# A statement may have drawn its id but not yet its transaction id; after this it surely has both.
SETTLING = 1.0  # seconds

NEVER = float("inf")


class Gap(NamedTuple):
    """Ids missing below the cursor, which may still be committed (rule R2)."""

    missing: Missing
    since: float  # first seen missing
    due: float  # ask again then
    horizon: int | None = None  # final once every transaction before this one has ended

    @property
    def span(self) -> Span:
        """Its lowest and highest id."""
        return self.missing.span


Digest = tuple[object, ...]


@dataclass(slots=True, eq=False)
class Herd:
    """Watched rows that are asked about together, since most stay as they are."""

    ids: Sequence[int]
    youngest: float  # when the last of them was first seen
    until: float  # end of the first watch to end
    due: float = 0.0
    digest: Digest = ()  # of these rows, when last seen
    seen: float = 0.0  # when that was


class Anchor(NamedTuple):
    """A row that was read, by what identifies it for good: its task id."""

    id: int
    key: str


class Horizon(NamedTuple):
    """Transaction ids: the oldest that runs, and the first that is not in use yet."""

    oldest_running: int
    next_unassigned: int


@dataclass(frozen=True, slots=True)
class Plan:
    """What to ask the database, all of it in one snapshot."""

    look: bool = False  # first sight of a table whose history is not to be counted
    after: int | None = None  # read rows above this id; None: all
    gaps: tuple[Missing, ...] = ()  # ascending, apart
    watched: tuple[int, ...] = ()
    herds: tuple[Herd, ...] = ()
    known: Mapping[int, Watch] = field(default_factory=dict)  # what those rows were
    below: int | None = None  # look for unfinished rows below this id
    deleted: Span | None = None  # ids up to the cursor that were seen to be gone
    anchors: tuple[Anchor, ...] = ()  # ascending; if the last holds, so do the others
    audit: Audit | None = None
    now: float = 0.0  # Unix time, seconds
    open_for: float = 0.0  # seconds in which rows may change, and missing ones may come
    chunk: int = CHUNK_ROWS  # rows
    news: bool = False  # not history: name the newest task of each group, too

    def is_over(self, newest: float | None, slack: float) -> bool:
        """Whether rows that finished by then stay as they are; dates may be off by `slack`."""
        return newest is not None and newest < self.now - self.open_for - slack


@dataclass(frozen=True, slots=True)
class Batch:
    """What the database answered to a plan. `top` is None where the table is empty."""

    plan: Plan
    top: int | None = None  # highest id
    bottom: Anchor | None = None  # the row of the lowest id
    last: Anchor | None = None  # the row of the highest id that was read
    held: bool = True  # the last of `plan.anchors` is there, unchanged
    keys: Mapping[int, str] = field(default_factory=dict)  # else: those of the anchors still there
    lower: tuple[int, ...] = ()  # and ids below all of them (the lowest REBORN_IDS)
    upto: int | None = None  # rows above `plan.after` were read up to this id; None: none there
    first: int | None = None  # lowest id of these, where none was read before
    over: bool = False  # they finished so long ago that none changes, or is still to come
    groups: tuple[Group, ...] = ()  # SUCCESS among them; where they are over, most others, too
    rows: tuple[Row, ...] = ()  # all others among them
    fetched: int = 0  # how many rows were read one by one, of a chunk above or below
    holes: tuple[Span, ...] = ()  # ids missing among them, or among the newest rows at first look
    late: tuple[Row, ...] = ()  # rows in `plan.gaps`
    late_complete: bool = True  # `late` holds all there are
    digests: tuple[Digest, ...] = ()  # of `plan.herds`
    strays: tuple[int, ...] = ()  # rows of `plan.herds` that are not as known, or gone
    watched: tuple[Row, ...] = ()  # rows of `plan.watched` and `strays` that are still there
    below_rows: tuple[Row, ...] = ()  # unfinished rows in [below_from, plan.below)
    below_from: int | None = None  # None: nothing is left below
    reborn: tuple[int, ...] = ()  # ids in `plan.deleted` that are there (the lowest REBORN_IDS)
    found: Found | None = None  # by `plan.audit`
    named: bool = False  # a row with a name was seen
    horizon: Horizon | None = None  # where there are gaps to close, and the server says it

    @classmethod
    def of_no_table(cls, plan: Plan) -> Batch:
        """Answer for a table that is not there: so are none of its rows."""
        strays = tuple(row_id for herd in plan.herds for row_id in herd.ids)
        return cls(plan, digests=((),) * len(plan.herds), strays=strays)

    @property
    def goes_on(self) -> bool:
        """Whether a chunk was read, and is not the last."""
        return self.upto not in (None, self.top) or self.below_from is not None


class Mark(TypedDict):
    """Where reading stands, without gaps and watch list, as a checkpoint keeps it."""

    cursor: int | None
    origin: int | None
    fallen: int | None
    returned: list[int]
    anchors: list[dict[str, int | str]]
    below: int | None
    named: bool
    complete: bool


@dataclass(slots=True)
class Change:
    """What one step changes; all of it or nothing is taken over."""

    cursor: int | None
    origin: int | None = None  # rows up to this id were there before we looked: history
    fallen: int | None = None
    returned: tuple[int, ...] = ()
    anchors: tuple[Anchor, ...] = ()
    below: int | None = None
    named: bool = False
    complete: bool = False  # all that was there at our first look is counted
    caught_up: bool = True
    top: int | None = None
    gaps: tuple[Gap, ...] = ()
    segments: Segments = ()
    watch: dict[int, Watch | None] = field(default_factory=dict)  # None: watched no longer
    herds: tuple[tuple[Herd, Digest], ...] = ()  # those that were looked at
    outcomes: list[Finished | Vanished] = field(default_factory=list)
    successes: list[tuple[int, str]] = field(default_factory=list)  # id and task, of single rows
    late_rows: int = 0
    expired_ids: int = 0
    resets: int = 0

    @property
    def mark(self) -> Mark:
        """Where reading will stand."""
        return _mark(self)

    def moves(self, position: Position) -> bool:
        """Whether this is progress: where it is none, another step would be the same."""
        return bool(
            self.mark != position.mark
            or self.gaps != position.gaps
            or self.segments != position.segments
            or self.watch
            or self.herds
        )

    def take(self, row_id: int, seen: Seen) -> None:
        """Note what is to be done about a row."""
        self.watch[row_id] = seen.watch
        outcome = seen.outcome
        if outcome is not None:
            self.outcomes.append(outcome)
        if isinstance(outcome, Finished) and outcome.state == SUCCESS:
            self.successes.append((row_id, outcome.task))


def _apart(missing: Missing) -> Iterator[Missing]:
    return map(Missing, missing.pieces())


def _mark(of: Change | Position) -> Mark:
    return {
        "cursor": of.cursor,
        "origin": of.origin,
        "fallen": of.fallen,
        "returned": list(of.returned),
        "anchors": [{"id": anchor.id, "key": anchor.key} for anchor in of.anchors],
        "below": of.below,
        "named": of.named,
        "complete": of.complete,
    }


class Position:
    """Cursor, gaps and watch list of one table."""

    def __init__(self, rules: Rules) -> None:
        self.rules = rules
        self.looked = False
        self.cursor: int | None = None
        self.origin: int | None = None
        self.top: int | None = None
        # While the newest rows are gone: the highest id left then, and late commits above it.
        self.fallen: int | None = None
        self.returned: tuple[int, ...] = ()
        self.anchors: tuple[Anchor, ...] = ()
        self.below: int | None = None
        self.named = bool(rules.named)
        self.complete = False
        self.live = False  # caught up once: what is new from now on is news, not history
        self.gaps: tuple[Gap, ...] = ()
        self.segments: Segments = ()
        self.watched = WatchList(rules.label_sets)
        # Each watched row is in the schedule, or in a herd, where it is not due by itself, or was
        # put aside, while neighbours may follow: a hundred thousand would fill the schedule.
        self._schedule: list[tuple[float, int]] = []
        self._due: dict[int, float] = {}  # of those in the schedule
        self._calm: set[int] = set()  # in the schedule, but ready for a herd
        self._aside = array("q")
        self._herds: list[Herd] = []  # first those that were not looked at for the longest time
        self._herded = -NEVER  # when herds were last looked at
        self._asked: dict[int, None] = {}  # an ordered set
        self._clock = NEVER  # set back, as far as we know, where others wrote the checkpoint

    # -- asking ------------------------------------------------------------------------------

    def plan(self, now: float, chunk: int = CHUNK_ROWS) -> Plan:
        """Say what to ask at `now` (Unix time, seconds), `chunk` rows of what is new at most."""
        if now < self._clock:
            self._set_back(now)
        self._clock = now
        herds = self._gather_herds(now)
        self._collect_due(now)
        return Plan(
            look=not self.looked and self.rules.start == "end",
            after=self.cursor,
            gaps=tuple(sorted(gap.missing for gap in self.gaps if gap.due <= now)[:GAPS_A_STEP]),
            watched=tuple(self._asked),
            herds=herds,
            known=self.watched,
            below=self.below,
            deleted=None
            if self.fallen is None or self.cursor is None
            else Span(self.fallen + 1, self.cursor),
            anchors=self.anchors,
            audit=self._audit(now),
            now=now,
            open_for=max(self.rules.late_commit_grace, self.rules.revision_window),
            chunk=chunk,
            news=self.live,
        )

    def _set_back(self, now: float) -> None:
        """Let nothing lie in the future: where the clock was set back nobody waits for its return.

        Also after a restart: then everything is due in any case. It is since long ago, so that the
        poll that has begun does not end before: `once` has no later one.
        """
        self.watched.set_back(now, self.rules.late_commit_grace, self.rules.revision_window)
        self._due = dict.fromkeys(self._due, -NEVER)
        self._schedule = [(-NEVER, row_id) for row_id in self._due]
        for herd in self._herds:
            herd.due = -NEVER
            herd.seen = min(herd.seen, now)
            herd.until = min((self.watched[i].until or NEVER for i in herd.ids), default=NEVER)
        self._herded = -NEVER
        self.gaps = tuple(
            gap._replace(since=min(gap.since, now), due=min(gap.due, now)) for gap in self.gaps
        )
        end = now + self.rules.revision_window
        self.segments = tuple(
            s._replace(since=min(s.since, now), until=min(s.until, end)) for s in self.segments
        )

    def _gather_herds(self, now: float) -> tuple[Herd, ...]:
        """Return herds to look at; members whose own time is over are due by themselves."""
        herds = self._herds_due(now)[: self.rules.herds_a_step]
        for herd in herds:
            if herd.until <= now or len(herd.ids) < self.rules.herd / 4:
                self._thin(herd, now)
        self._herds = [herd for herd in self._herds if herd.ids]
        return tuple(herd for herd in herds if herd.ids)

    def _herds_due(self, now: float) -> list[Herd]:
        """Return herds that may be looked at, first those that were not for the longest time.

        Many take turns: one step of a poll looks at some, and others only at those that nobody has
        looked at for a minute (R3).
        """
        in_this_poll = now < self._herded + self.rules.poll_interval / 2
        latest = now - LONGEST_RECHECK if in_this_poll else now
        return [herd for herd in self._herds if herd.due <= now and herd.seen <= latest]

    def _thin(self, herd: Herd, now: float) -> None:
        """Let members go whose own time is over, and all of them where few are left."""
        ends = {row_id: self.watched[row_id].until or NEVER for row_id in herd.ids}
        members = [row_id for row_id in herd.ids if ends[row_id] > now]
        if len(members) < self.rules.herd / 4:
            members = []
        for row_id in ends.keys() - members:
            self._put_on_schedule(row_id, now)
        herd.ids = array("q", members)
        herd.until = min((ends[row_id] for row_id in members), default=NEVER)

    def _collect_due(self, now: float) -> None:
        """Move ids that are due from the schedule to `_asked`, where they stay until applied."""
        while self._schedule and self._schedule[0][0] <= now and len(self._asked) < WATCHED_A_STEP:
            due, row_id = heapq.heappop(self._schedule)
            if self._due.get(row_id) == due:
                self._asked[row_id] = None

    def _audit(self, now: float) -> Audit | None:
        """Return the next segment to audit, once there is nothing newer to read."""
        if not self.live or self.backlog:
            return None
        window = self.rules.revision_window
        due = (segment for segment in self.segments if segment.due(window) <= now)
        return next((Audit(segment, self.watched) for segment in due), None)

    def busy(self, now: float) -> bool:
        """Whether another step has work to do at once."""
        return (
            not self.live
            or self.below is not None
            or (self.top is not None and (self.cursor is None or self.cursor < self.top))
            or bool(self._schedule and self._schedule[0][0] <= now)
            or bool(self._herds_due(now))
            or any(gap.due <= now for gap in self.gaps)
            or self._audit(now) is not None
        )

    # -- understanding -----------------------------------------------------------------------

    def advance(self, batch: Batch, now: float) -> Change:
        """Say what `batch`, read at `now`, changes. Touches nothing."""
        plan = batch.plan
        change = Change(
            cursor=self.cursor,
            origin=self.origin,
            below=self.below,
            named=self.named or (batch.named and self.rules.named is None),
            top=batch.top,
            segments=self.segments,
        )
        life = Lifecycle(self.rules, now, change.named, self.watched.nameless < MAX_NAMELESS)
        gaps: list[Gap] = []
        reused = self._reused_from(batch)
        if plan.look:
            change.cursor = change.origin = batch.top
            gaps += self._gaps(missing(self._holes(batch)), now)
        elif reused is not None:
            gaps += self._begin_again(reused, (), batch, life, change)
        elif plan.deleted and self._restarted(batch):
            gaps += self._begin_again(plan.deleted.lo, self.returned, batch, life, change)
        else:
            self._recheck(batch, life, change)
            gaps += self._ask_gaps(batch, life, change)
            self._note_deleted(batch, change)
            change.segments = audit.credit(change.segments, change.successes)
            self._look_into(batch, life, change)
            if batch.upto is not None:
                self._read_chunk(batch, life, change)
                if plan.deleted:  # ids went on above it, or began again and these come late
                    gaps = [gap._replace(missing=m) for gap in gaps for m in _apart(gap.missing)]
                    known = [span for gap in self.gaps for span in gap.missing.pieces()]
                    known += each(self.returned)
                    gaps += self._gaps(map(Missing, outside(plan.deleted, known)), now)
                gaps += self._gaps(missing(self._holes(batch)), now)
        if len(gaps) > MAX_GAPS:
            change.expired_ids += sum(gap.missing.size for gap in gaps[:-MAX_GAPS])
            gaps = gaps[-MAX_GAPS:]
        change.gaps = tuple(gaps)
        change.segments = audit.current(change.segments, now, self.rules.revision_window)
        if not change.resets:
            change.anchors = self._anchors(batch)
        for row in batch.below_rows:
            if row.id not in self.watched and not self._waits_for(row.id):
                change.take(row.id, life.first_sight(row, live=False))
        change.below = batch.below_from
        change.caught_up = batch.top is None or (
            change.cursor is not None and change.cursor >= batch.top
        )
        change.complete = self.complete or change.caught_up
        return change

    def _read_chunk(self, batch: Batch, life: Lifecycle, change: Change) -> None:
        change.outcomes += [Finished(*group) for group in batch.groups]
        for row in batch.rows:
            change.take(row.id, life.first_sight(row, live=self.live))
        if batch.upto is not None and not batch.over:
            counted: Counter[str] = Counter()
            for group in batch.groups:
                counted[group.task] += group.rows
            after = batch.plan.after
            span = Span(MIN_ID if after is None else after + 1, batch.upto)
            window = self.rules.revision_window
            change.segments = audit.extend(change.segments, span, counted, life.now, window)
        change.cursor = batch.upto

    def _look_into(self, batch: Batch, life: Lifecycle, change: Change) -> None:
        """Take rows that were counted as SUCCESS and are something else now for revised (R4)."""
        plan = batch.plan.audit
        if plan is None:
            return
        found = batch.found or Found(plan.segment.counted)  # no states: nothing can change
        span = plan.segment.span
        counted = next((s.counted for s in change.segments if s.span == span), {})
        lacking = audit.missing(counted, found.successes)
        if lacking and not audit.missing(plan.segment.counted, found.successes):
            return  # successes came that hid it from the reader, who looked at no row: again, then
        for row in found.others:
            if row.id in change.watch or self._waits_for(row.id):
                continue
            task = audit.blame(lacking, row, counted) if life.may_change(row.done) else None
            if task is not None:
                change.take(row.id, life.again(row, life.counted_success(task)))
        window = self.rules.revision_window
        change.segments = audit.looked_at(change.segments, span, found.successes, life.now, window)

    def _holes(self, batch: Batch) -> Iterator[Span]:
        """Yield the ids that the rows just read lack."""
        if self.cursor is None and batch.first is not None and batch.first > MIN_ID:
            # The first rows of all: transactions with lower ids may be on their way.
            yield Span(MIN_ID, batch.first - 1)
        yield from batch.holes

    def _gaps(self, found: Iterable[Missing], now: float) -> list[Gap]:
        return [Gap(some, now, now + self.rules.recheck(0.0)) for some in found]

    def _ask_gaps(self, batch: Batch, life: Lifecycle, change: Change) -> list[Gap]:
        """Take late rows out of the gaps, and drop those gaps that are final (R2)."""
        now = life.now
        asked = set(batch.plan.gaps)
        found = sorted(row.id for row in batch.late)
        for row in batch.late:
            change.late_rows += 1
            change.take(row.id, life.first_sight(row, live=self.live))
        kept: list[Gap] = []
        for gap in self.gaps:
            if gap.missing not in asked:
                kept.append(gap)
                continue
            filled = found[bisect_left(found, gap.span.lo) : bisect_right(found, gap.span.hi)]
            rest = list(gap.missing.without(filled))
            if batch.late_complete and self._final(gap, batch.horizon, now):
                change.expired_ids += sum(some.size for some in rest)
                continue
            age = now - gap.since
            horizon = gap.horizon
            if horizon is None and batch.horizon is not None and age >= SETTLING:
                horizon = batch.horizon.next_unassigned
            due = now + self.rules.recheck(age)
            kept += [Gap(some, gap.since, due, horizon) for some in rest]
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
        return any(
            row_id not in self.returned and not self._waits_for(row_id) for row_id in batch.reborn
        )

    def _waits_for(self, row_id: int) -> bool:
        """Whether the id was missing when its neighbours were read."""
        return any(row_id in gap.missing for gap in self.gaps)

    def _reused_from(self, batch: Batch) -> int | None:
        """Return the lowest id known to be in use by another row than the one we read (R6).

        Where the newest row that we know is still there, nothing has restarted. Else the others
        tell: a known id with another task id, or rows below all that were ever there.
        """
        if batch.held or not self.anchors:
            return None
        changed = [a.id for a in self.anchors if batch.keys.get(a.id, a.key) != a.key]
        same = [a.id for a in self.anchors if batch.keys.get(a.id) == a.key]
        if changed:
            # With nothing left of what was there, all of it is new, from the lowest id on.
            return min(changed) if same else MIN_ID
        new_below = any(not self._waits_for(row_id) for row_id in batch.lower)
        return MIN_ID if new_below and not same else None

    def _anchors(self, batch: Batch) -> tuple[Anchor, ...]:
        """Keep the lowest row and the newest ones in mind."""
        known = self.anchors
        if not batch.held:
            known = tuple(anchor for anchor in known if anchor.id in batch.keys)
        lowest = batch.bottom.id if batch.bottom else MIN_ID
        found = {anchor.id: anchor for anchor in known if anchor.id >= lowest}
        found |= {anchor.id: anchor for anchor in (batch.bottom, batch.last) if anchor}
        ascending = sorted(found.values())
        return (*ascending[:1], *ascending[1:][-MAX_ANCHORS:])

    def _begin_again(
        self, lo: int, returned: tuple[int, ...], batch: Batch, life: Lifecycle, change: Change
    ) -> list[Gap]:
        """Read on from below `lo`, or the highest of those `returned`, late commits above it."""
        cursor = max(returned, default=lo - 1)
        change.resets = 1
        # What has these ids now is new; what lies below them is what it was.
        change.origin = (
            min(self.origin, lo - 1) if self.origin is not None and lo > MIN_ID else None
        )
        change.cursor = cursor if cursor >= MIN_ID else None
        change.anchors = tuple(anchor for anchor in self.anchors if anchor.id < lo)
        change.segments = tuple(s for s in self.segments if s.span.hi < lo)
        for row_id, watch in self.watched.items():
            if row_id >= lo and row_id not in returned:
                change.take(row_id, life.again(None, watch))
        self._recheck(batch, life, change)
        gaps = [gap for gap in self.gaps if gap.span.hi < lo]
        open_ids = outside(Span(lo, cursor), each(returned)) if cursor >= lo else ()
        return gaps + [Gap(Missing(span), life.now, life.now) for span in open_ids]

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

    def _recheck(self, batch: Batch, life: Lifecycle, change: Change) -> None:
        """Compare watched rows with what they are now (R3, R4, R5, R13)."""
        change.herds = tuple(zip(batch.plan.herds, batch.digests, strict=True))
        present = {row.id: row for row in batch.watched}
        for row_id in (*batch.plan.watched, *batch.strays):
            watch = self.watched.get(row_id)
            if watch is not None and row_id not in change.watch:
                change.take(row_id, life.again(present.get(row_id), watch))

    # -- taking over -------------------------------------------------------------------------

    def apply(self, change: Change) -> None:
        """Take a change over. Never fails."""
        self.cursor = change.cursor
        self.origin = change.origin
        self.top = change.top
        self.looked = True
        self.fallen = change.fallen
        self.returned = change.returned
        self.anchors = change.anchors
        self.below = change.below
        self.named = change.named
        self.gaps = change.gaps
        self.segments = change.segments
        self.complete = change.complete
        self.live = self.live or change.caught_up
        self._leave_herds({row_id for row_id in change.watch if self.in_a_herd(row_id)})
        for row_id, watch in change.watch.items():
            self._put(row_id, watch)
        self._asked.clear()
        looked_at = dict(change.herds)
        if looked_at:
            self._herded = self._clock
            self._herds = [herd for herd in self._herds if herd not in looked_at] + [*looked_at]
        for herd, digest in looked_at.items():
            herd.digest = digest
            herd.seen = self._clock
            herd.due = self._clock + self.rules.recheck(self._clock - herd.youngest)
        self._make_herds()

    def _put(self, row_id: int, watch: Watch | None) -> None:
        self._calm.discard(row_id)
        self._due.pop(row_id, None)
        if watch is None:
            self.watched.remove(row_id)
            return
        before = self.watched.get(row_id)
        if watch != before:
            self.watched.put(row_id, watch)
        if not watch.held and (before is None or before.shows(watch.labels)):
            self._aside.append(row_id)
        else:
            self._put_on_schedule(row_id, self._due_of(watch))

    def _due_of(self, watch: Watch) -> float:
        return self._clock + self.rules.recheck(self._clock - watch.first_seen)

    def _put_on_schedule(self, row_id: int, due: float) -> None:
        self._due[row_id] = due
        heapq.heappush(self._schedule, (due, row_id))

    def in_a_herd(self, row_id: int) -> bool:
        """Whether a row is asked about with others, or soon will be."""
        return row_id in self.watched and row_id not in self._due

    def _leave_herds(self, ids: set[int]) -> None:
        ascending = sorted(ids)
        for herd in self._herds if ids else ():
            if not herd.ids:
                continue
            lowest = bisect_left(ascending, herd.ids[0])
            if lowest < len(ascending) and ascending[lowest] <= herd.ids[-1]:
                herd.ids = array("q", (row_id for row_id in herd.ids if row_id not in ids))

    def _make_herds(self) -> None:
        """Make full herds of what is ready for them, neighbours together."""
        size = self.rules.herd
        more_to_come = self.below is not None or self.backlog  # closer neighbours, maybe
        if not self._aside or (more_to_come and len(self._aside) < ASIDE_HERDS * size):
            return
        aside = [i for i in self._aside if i in self.watched and i not in self._due]
        ready = sorted(self._calm.union(aside))
        full = len(ready) // size * size
        for start in range(0, full, size):
            herd = ready[start : start + size]
            watches = [self.watched[row_id] for row_id in herd]
            youngest = max(watch.first_seen for watch in watches)
            until = min(watch.until or NEVER for watch in watches)
            due = min(self._due.pop(row_id, NEVER) for row_id in herd)
            due = min(due, self._clock + self.rules.recheck(self._clock - youngest))
            seen = self._clock if self._clock < NEVER else -NEVER  # by us: not yet
            self._herds.append(Herd(array("q", herd), youngest, until, due, seen=seen))
        self._aside = array("q")
        self._calm = set(ready[full:])
        for row_id in self._calm.intersection(aside):
            self._put_on_schedule(row_id, self._due_of(self.watched[row_id]))

    @property
    def mark(self) -> Mark:
        """Where reading stands."""
        return _mark(self)

    def restore(
        self, mark: Mark, gaps: tuple[Gap, ...], segments: Segments, watched: WatchList
    ) -> None:
        """Go on from a checkpoint. All that is watched is due at once."""
        change = Change(
            cursor=mark["cursor"],
            origin=mark["origin"],
            fallen=mark["fallen"],
            returned=tuple(mark["returned"]),
            anchors=tuple(Anchor(int(a["id"]), str(a["key"])) for a in mark["anchors"]),
            below=mark["below"],
            named=mark["named"] if self.rules.named is None else self.rules.named,
            complete=mark["complete"],
            caught_up=False,
            gaps=gaps,
            segments=segments,
        )
        self.watched = watched
        for row_id, held in watched.held():
            if held:
                self._put_on_schedule(row_id, 0.0)
            else:
                self._aside.append(row_id)
                if len(self._aside) == ASIDE_HERDS * self.rules.herd:
                    self._make_herds()
        self.apply(change)

    @property
    def unfinished(self) -> Counter[Gauged]:
        """How many unfinished rows there are by (task, state, worker, queue)."""
        return self.watched.unfinished

    def oldest(self) -> dict[tuple[str, str], float]:
        """When the oldest unfinished row of each (task, state) was first seen, Unix time."""
        return self.watched.oldest()

    @property
    def gap_ids(self) -> int:
        """How many ids are missing below the cursor and may still come."""
        return sum(gap.missing.size for gap in self.gaps)

    @property
    def backlog(self) -> int:
        """How many ids lie between the cursor and the highest id."""
        if self.top is None or self.cursor is None:
            return 0
        return max(0, self.top - self.cursor)
