"""Where reading of one table stands: cursor, gaps, watch list. Pure: no clock, no database.

This is the heart of the exporter; the rules R1 to R13 it names are those of docs/counting.md.
A step is: `plan` says what to ask, the reader asks it in one database snapshot, `advance` says
what the answer means as a `Change`, and `apply` takes the change over once it is safe.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import fields

from exporter.counting import audit
from exporter.counting.audit import Audit, Found, Segments
from exporter.counting.lifecycle import Lifecycle, Rules
from exporter.counting.rechecks import NEVER, Rechecks
from exporter.counting.results import Finished
from exporter.counting.spans import MIN_ID, Missing, Span, each, missing, outside
from exporter.counting.step import (
    CHUNK_ROWS,
    Anchor,
    Batch,
    Change,
    Gap,
    Horizon,
    Mark,
    Plan,
    Standing,
)
from exporter.counting.watchlist import Gauged, WatchList

RECENT_IDS = 1_000  # how far below the newest row a transaction open at our start is looked for
REBORN_IDS = 1_000
MAX_GAPS = 10_000
MAX_ANCHORS = 15  # beside the lowest
MAX_NAMELESS = 10_000  # rows, about, that are watched only because their name may still come
GAPS_A_STEP = 2_000
# A statement may have drawn its id but not yet its transaction id; after this it surely has both.
SETTLING = 1.0  # seconds


class Position(Standing):
    """Cursor, gaps and watch list of one table."""

    def __init__(self, rules: Rules) -> None:
        super().__init__(named=bool(rules.named))
        self.rules = rules
        self.looked = False
        self.top: int | None = None
        self.live = False  # caught up once: what is new from now on is news, not history
        self.gaps: tuple[Gap, ...] = ()
        self.segments: Segments = ()
        self.watched = WatchList(rules.label_sets)
        self.rechecks = Rechecks(rules, self.watched)
        self._clock = NEVER  # set back, as far as we know, where others wrote the checkpoint

    # -- asking ------------------------------------------------------------------------------

    def pass_to(self, now: float) -> None:
        """Let time pass: what falls due by `now` (Unix time, seconds) will be asked for."""
        if now < self._clock:
            self._set_back(now)
        self._clock = now
        self.rechecks.pass_to(now)

    def plan(self, now: float, chunk: int = CHUNK_ROWS) -> Plan:
        """Say what to ask at `now`, `chunk` rows of what is new at most. Touches nothing."""
        return Plan(
            look=not self.looked and self.rules.start == "end",
            after=self.cursor,
            gaps=tuple(sorted(gap.missing for gap in self.gaps if gap.due <= now)[:GAPS_A_STEP]),
            watched=self.rechecks.asked,
            cohorts=self.rechecks.turn,
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
        self.rechecks.set_back(now)
        self.gaps = tuple(
            gap._replace(since=min(gap.since, now), due=min(gap.due, now)) for gap in self.gaps
        )
        end = now + self.rules.revision_window
        self.segments = tuple(
            s._replace(since=min(s.since, now), until=min(s.until, end)) for s in self.segments
        )

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
            or self.rechecks.busy(now)
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
                    gaps = [
                        gap._replace(missing=m)
                        for gap in gaps
                        for m in map(Missing, gap.missing.pieces())
                    ]
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
        change.cohorts = tuple(zip(batch.plan.cohorts, batch.digests, strict=True))
        present = {row.id: row for row in batch.watched}
        for row_id in (*batch.plan.watched, *batch.strays):
            watch = self.watched.get(row_id)
            if watch is not None and row_id not in change.watch:
                change.take(row_id, life.again(present.get(row_id), watch))

    # -- taking over -------------------------------------------------------------------------

    def apply(self, change: Change) -> None:
        """Take a change over. Never fails."""
        for field in fields(Standing):
            setattr(self, field.name, getattr(change, field.name))
        self.looked = True
        self.top = change.top
        self.gaps = change.gaps
        self.segments = change.segments
        self.live = self.live or change.caught_up
        self.rechecks.take(change.watch, dict(change.cohorts))
        more_to_come = self.below is not None or self.backlog > 0
        self.rechecks.make_cohorts(more_to_come=more_to_come)

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
        self.rechecks = Rechecks(self.rules, watched)
        self.rechecks.restore()
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
