"""Where reading of one table stands: cursor, gaps, watch list. Pure: no clock, no database.

This is the heart of the exporter; the rules R1 to R13 it names are those of docs/counting.md.
A step is: `plan` says what to ask, the reader asks it in one database snapshot, `advance` says
what the answer means as a `Change`, and `apply` takes the change over once it is safe.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import fields

from exporter.counting import audit, gaps, resets, zones
from exporter.counting.audit import Audit, Found, Segments
from exporter.counting.groups import Open, OpenGroups
from exporter.counting.lifecycle import Lifecycle, Rules
from exporter.counting.rechecks import NEVER, Rechecks
from exporter.counting.results import Finished, Group, Row
from exporter.counting.spans import MIN_ID, Missing, Span, each, missing, outside
from exporter.counting.step import (
    CHUNK_ROWS,
    Anchor,
    Batch,
    Change,
    Gap,
    Mark,
    Plan,
    Standing,
    zone_in,
)
from exporter.counting.watchlist import Gauged, WatchList
from exporter.counting.zones import Dates, Learned, Sighting

RECENT_IDS = 1_000  # how far below the newest row a transaction open at our start is looked for
MAX_NAMELESS = 10_000  # rows, about, that are watched only because their name may still come
GAPS_A_STEP = 2_000


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
        self.open_groups = OpenGroups({})
        self.sightings: tuple[Sighting, ...] = ()
        self._read: float | None = None  # when all was read last, Unix time, seconds
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
            if self.deleted_above is None or self.cursor is None
            else Span(self.deleted_above + 1, self.cursor),
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
        self.open_groups.set_back(now)
        self.gaps = tuple(
            gap._replace(since=min(gap.since, now), due=min(gap.due, now)) for gap in self.gaps
        )
        self._read = None if self._read is None else min(self._read, now)
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
            or (self.followed_above is not None and bool(self.open_groups.unread()))
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
            settled=self.settled,
            sightings=self.sightings,
            read=self._read,
            dates=self._dates(now) if batch.walls else None,
        )
        room = self.watched.nameless < MAX_NAMELESS
        life = Lifecycle(self.rules, now, change.named, room, change.dates)
        left: list[Gap] = []
        reused = resets.reused_from(self, batch, self._waits_for)
        if plan.look:
            change.cursor = change.origin = batch.top
            left += gaps.seen(missing(self._holes(batch)), now, self.rules)
        elif reused is not None:
            left += self._begin_again(reused, (), batch, life, change)
        elif plan.deleted and resets.restarted(self, batch, self._waits_for):
            left += self._begin_again(plan.deleted.lo, self.came_late, batch, life, change)
        else:
            self._recheck(batch, life, change)
            self._take_late(batch, life, change)
            left, change.expired_ids = gaps.asked(self.gaps, batch, now, self.rules)
            change.deleted_above, change.came_late = resets.deleted(self, batch)
            change.segments = audit.credit(change.segments, change.successes)
            self._look_into(batch, life, change)
            if batch.upto is not None:
                self._read_chunk(batch, life, change)
                if plan.deleted:  # ids went on above it, or began again and these come late
                    left = list(gaps.apart(left))
                    known = [gap.span for gap in gaps.apart(self.gaps)] + each(self.came_late)
                    open_ids = map(Missing, outside(plan.deleted, known))
                    left += gaps.seen(open_ids, now, self.rules)
                left += gaps.seen(missing(self._holes(batch)), now, self.rules)
        kept, given_up = gaps.bounded(left)
        change.gaps = tuple(kept)
        change.expired_ids += given_up
        change.segments = audit.current(change.segments, now, self.rules.revision_window)
        if not change.resets:
            change.anchors = resets.anchors(self, batch)
        for row in batch.below_rows:
            if row.id not in self.watched and not self._waits_for(row.id):
                change.take(row.id, life.first_sight(row, live=False))
        change.below = batch.below_from
        change.caught_up = batch.top is None or (
            change.cursor is not None and change.cursor >= batch.top
        )
        change.complete = self.complete or change.caught_up
        self._learn(change)
        self._follow_groups(batch, now, change)
        if change.caught_up:
            change.read = plan.now
        return change

    def _dates(self, now: float) -> Dates:
        after = self._read
        if after is None and self.settled is not None:
            after = self.settled.agreed
        return Dates(self.settled, after, now)

    def _learn(self, change: Change) -> None:
        """Take what has finished for what it tells of the zone of dates."""
        if change.dates is None:
            return
        before = Learned(self.settled, self.sightings)
        learned = zones.learn(before, change.dates, change.walls)
        change.settled, change.sightings, change.confirmed = learned

    def _follow_groups(self, batch: Batch, now: float, change: Change) -> None:
        """Say which groups are open, and which have completed."""
        if batch.groups_seen is None:
            return
        known = self.followed_above
        if known is None:
            known = batch.top if batch.plan.look else batch.plan.after
        if change.resets and known is not None:
            known = None if change.cursor is None else min(known, change.cursor)
        change.followed_above = MIN_ID if known is None else known
        change.groups = self.open_groups.advance(
            batch.groups_seen,
            now,
            live=self.live,
            above=(MIN_ID if change.cursor is None else change.cursor) if change.resets else None,
        )

    def _read_chunk(self, batch: Batch, life: Lifecycle, change: Change) -> None:
        change.outcomes += [_counted(group, change.dates) for group in batch.groups]
        for row in batch.rows:
            change.take(row.id, life.first_sight(row, live=self.live))
        change.walls += _dates_of(batch.groups)
        change.walls += _dates_of(row for row in batch.rows if row.finished)
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

    def _take_late(self, batch: Batch, life: Lifecycle, change: Change) -> None:
        """Count rows that have turned up in gaps."""
        for row in batch.late:
            change.late_rows += 1
            change.take(row.id, life.first_sight(row, live=self.live))

    def _waits_for(self, row_id: int) -> bool:
        return gaps.wait_for(self.gaps, row_id)

    def _begin_again(
        self, lo: int, came_late: tuple[int, ...], batch: Batch, life: Lifecycle, change: Change
    ) -> list[Gap]:
        """Read on from below `lo`, or the highest of those `came_late`, late commits above it."""
        cursor = max(came_late, default=lo - 1)
        change.resets = 1
        # What has these ids now is new; what lies below them is what it was.
        change.origin = (
            min(self.origin, lo - 1) if self.origin is not None and lo > MIN_ID else None
        )
        change.cursor = cursor if cursor >= MIN_ID else None
        change.anchors = tuple(anchor for anchor in self.anchors if anchor.id < lo)
        change.segments = tuple(s for s in self.segments if s.span.hi < lo)
        for row_id, watch in self.watched.items():
            if row_id >= lo and row_id not in came_late:
                change.take(row_id, life.again(None, watch))
        self._recheck(batch, life, change)
        below = [gap for gap in self.gaps if gap.span.hi < lo]
        open_ids = outside(Span(lo, cursor), each(came_late)) if cursor >= lo else ()
        return below + [Gap(Missing(span), life.now, life.now) for span in open_ids]

    # -- rows --------------------------------------------------------------------------------

    def _recheck(self, batch: Batch, life: Lifecycle, change: Change) -> None:
        """Compare watched rows with what they are now (R3, R4, R5, R13)."""
        change.cohorts = tuple(zip(batch.plan.cohorts, batch.digests, strict=True))
        present = {row.id: row for row in batch.watched}
        for row_id in (*batch.plan.watched, *batch.changed):
            watch = self.watched.get(row_id)
            row = present.get(row_id)
            if watch is not None and row_id not in change.watch:
                change.take(row_id, life.again(row, watch))
                if watch.unfinished and row is not None and row.finished:
                    change.walls += _dates_of([row])

    # -- taking over -------------------------------------------------------------------------

    def apply(self, change: Change) -> None:
        """Take a change over. Never fails."""
        for field in fields(Standing):
            setattr(self, field.name, getattr(change, field.name))
        self.looked = True
        self.top = change.top
        self.gaps = change.gaps
        self.segments = change.segments
        self.sightings = change.sightings
        self._read = change.read
        self.live = self.live or change.caught_up
        self.rechecks.take(change.watch, dict(change.cohorts))
        if change.groups is not None:
            self.open_groups.apply(change.groups)
        more_to_come = self.below is not None or self.backlog > 0
        self.rechecks.make_cohorts(more_to_come=more_to_come)

    def restore(
        self,
        mark: Mark,
        gaps: tuple[Gap, ...],
        segments: Segments,
        watched: WatchList,
        open_groups: Mapping[int, Open] | None = None,
    ) -> None:
        """Go on from a checkpoint. All that is watched is due at once."""
        change = Change(
            cursor=mark["cursor"],
            origin=mark["origin"],
            deleted_above=mark["deleted_above"],
            came_late=tuple(mark["came_late"]),
            anchors=tuple(Anchor(int(a["id"]), str(a["key"])) for a in mark["anchors"]),
            below=mark["below"],
            named=mark["named"] if self.rules.named is None else self.rules.named,
            complete=mark["complete"],
            followed_above=mark.get("followed_above"),
            settled=zone_in(mark),
            caught_up=False,
            gaps=gaps,
            segments=segments,
        )
        self.watched = watched
        self.rechecks = Rechecks(self.rules, watched)
        self.rechecks.restore()
        self.open_groups = OpenGroups(open_groups or {})
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
        return gaps.ids(self.gaps)

    @property
    def backlog(self) -> int:
        """How many ids lie between the cursor and the highest id."""
        if self.top is None or self.cursor is None:
            return 0
        return max(0, self.top - self.cursor)

    @property
    def left(self) -> int:
        """How many ids are to be read: the backlog, and where unfinished rows are looked for."""
        if self.below is None or not self.anchors:
            return self.backlog
        return self.backlog + max(0, self.below - self.anchors[0].id)


def _counted(group: Group, dates: Dates | None) -> Finished:
    """Return what a group counts as."""
    if dates is None:
        return Finished(*group)
    # Not by `_replace`, which is as slow as all else that is done here with a group.
    return Finished(*group[:6], dates.told(group.done), *group[7:], wall=group.done)


def _dates_of(results: Iterable[Row | Group]) -> Iterator[float]:
    return (result.done for result in results if result.done is not None)
