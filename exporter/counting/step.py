"""A step: what is asked of a table, what it answers, what that changes. Pure.

The rules R1 to R13 that are named here are those of docs/counting.md.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, NotRequired, TypedDict

from exporter.counting.audit import Audit, Found, Segments
from exporter.counting.groups import Followed, Sight
from exporter.counting.lifecycle import Seen, Watch
from exporter.counting.results import SUCCESS, Finished, Group, Row, Vanished
from exporter.counting.spans import Missing, Span
from exporter.counting.zones import Dates, Settled, Sighting

CHUNK_ROWS = 5_000


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
class Cohort:
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
    cohorts: tuple[Cohort, ...] = ()
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
    lower: tuple[int, ...] = ()  # and ids below all of them (the lowest REAPPEARED_IDS)
    upto: int | None = None  # rows above `plan.after` were read up to this id; None: none there
    first: int | None = None  # lowest id of these, where none was read before
    over: bool = False  # they finished so long ago that none changes, or is still to come
    groups: tuple[Group, ...] = ()  # SUCCESS among them; where they are over, most others, too
    rows: tuple[Row, ...] = ()  # all others among them
    fetched: int = 0  # how many rows were read one by one, of a chunk above or below
    holes: tuple[Span, ...] = ()  # ids missing among them, or among the newest rows at first look
    late: tuple[Row, ...] = ()  # rows in `plan.gaps`
    late_complete: bool = True  # `late` holds all there are
    digests: tuple[Digest, ...] = ()  # of `plan.cohorts`
    changed: tuple[int, ...] = ()  # rows of `plan.cohorts` that are not as known, or gone
    watched: tuple[Row, ...] = ()  # rows of `plan.watched` and `changed` that are still there
    below_rows: tuple[Row, ...] = ()  # unfinished rows in [below_from, plan.below)
    below_from: int | None = None  # None: nothing is left below
    reappeared: tuple[int, ...] = ()  # the lowest ids in `plan.deleted` that are there
    found: Found | None = None  # by `plan.audit`
    named: bool = False  # a row with a name was seen
    groups_seen: Sight | None = None  # None: groups are not followed, or this is no table of them
    walls: bool = False  # dates are wall time of a zone that they have to tell
    horizon: Horizon | None = None  # where there are gaps to close, and the server says it

    @classmethod
    def of_no_table(cls, plan: Plan) -> Batch:
        """Answer for a table that is not there: so are none of its rows."""
        changed = tuple(row_id for cohort in plan.cohorts for row_id in cohort.ids)
        return cls(plan, digests=((),) * len(plan.cohorts), changed=changed)

    @property
    def goes_on(self) -> bool:
        """Whether a chunk was read, and is not the last."""
        return self.upto not in (None, self.top) or self.below_from is not None


class Mark(TypedDict):
    """Where reading stands, without gaps and watch list, as a checkpoint keeps it."""

    cursor: int | None
    origin: int | None
    deleted_above: int | None
    came_late: list[int]
    anchors: list[dict[str, int | str]]
    below: int | None
    named: bool
    complete: bool
    # Not there in older ones.
    followed_above: NotRequired[int]
    settled: NotRequired[dict[str, Any] | None]


def zone_in(mark: Mark) -> Settled | None:
    """Return what is known of the zone of dates."""
    settled = mark.get("settled")
    return None if settled is None else Settled(**settled)


@dataclass(slots=True)
class Standing:
    """Where reading stands, without gaps and watch list."""

    cursor: int | None = None
    origin: int | None = None  # rows up to this id were there before we looked: history
    # While the newest rows are gone: the lowest that the highest id has fallen to. All rows above
    # it, up to the cursor, were seen to be gone, but for those that came late there since.
    deleted_above: int | None = None
    came_late: tuple[int, ...] = ()
    anchors: tuple[Anchor, ...] = ()
    below: int | None = None  # unfinished rows below this id are still to be looked for
    named: bool = False
    complete: bool = False  # all that was there at our first look is counted
    followed_above: int | None = None  # groups above this id are followed; None: none are
    settled: Settled | None = None  # what is known of the zone of dates

    @property
    def mark(self) -> Mark:
        """The same, as a checkpoint keeps it."""
        mark: Mark = {
            "cursor": self.cursor,
            "origin": self.origin,
            "deleted_above": self.deleted_above,
            "came_late": list(self.came_late),
            "anchors": [{"id": anchor.id, "key": anchor.key} for anchor in self.anchors],
            "below": self.below,
            "named": self.named,
            "complete": self.complete,
            "settled": None if self.settled is None else self.settled._asdict(),
        }
        if self.followed_above is not None:
            mark["followed_above"] = self.followed_above
        return mark


@dataclass(slots=True)
class Change(Standing):
    """What one step changes; all of it or nothing is taken over."""

    caught_up: bool = True
    top: int | None = None
    gaps: tuple[Gap, ...] = ()
    segments: Segments = ()
    watch: dict[int, Watch | None] = field(default_factory=dict)  # None: watched no longer
    cohorts: tuple[tuple[Cohort, Digest], ...] = ()  # those that were looked at
    outcomes: list[Finished | Vanished] = field(default_factory=list)
    successes: list[tuple[int, str]] = field(default_factory=list)  # id and task, of single rows
    groups: Followed | None = None
    late_rows: int = 0
    expired_ids: int = 0
    resets: int = 0
    dates: Dates | None = None  # how they were read, where they have to tell their zone
    walls: list[float] = field(default_factory=list)  # dates of what has just finished
    sightings: tuple[Sighting, ...] = ()
    confirmed: bool = False  # what is known of their zone, by a result of this step
    read: float | None = None  # when all was read last, Unix time, seconds

    def moves(self, mark: Mark, gaps: tuple[Gap, ...], segments: Segments) -> bool:
        """Whether this is progress: where it is none, another step would be the same."""
        return bool(
            self.mark != mark
            or self.gaps != gaps
            or self.segments != segments
            or self.watch
            or self.cohorts
            or (self.groups is not None and self.groups.sight.again)
        )

    def take(self, row_id: int, seen: Seen) -> None:
        """Note what is to be done about a row."""
        self.watch[row_id] = seen.watch
        outcome = seen.outcome
        if outcome is not None:
            self.outcomes.append(outcome)
        if isinstance(outcome, Finished) and outcome.state == SUCCESS:
            self.successes.append((row_id, outcome.task))
