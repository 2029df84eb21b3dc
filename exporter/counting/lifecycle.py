"""What becomes of one row, from the first time it is seen to the last. Pure.

A row is unfinished, then perhaps held until it has a name, then settled, which is when it counts;
a settled row other than SUCCESS is watched on, since another run may replace it, or its labels may
come later. Rule numbers are those of docs/counting.md.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

from exporter.counting.results import (
    OTHER,
    REVOKED,
    STARTED,
    STATES,
    SUCCESS,
    Finished,
    Labels,
    Row,
    Vanished,
)
from exporter.counting.zones import LONGEST_RECHECK, Dates

# `date_done` is wall time in a zone we may be told wrongly. Zones reach from -12 to +14 hours, so
# it is off by no more than this, and what lies further ahead of our clock is not believed.
ZONE_SLACK = 26 * 3600.0  # seconds
SEASON_SLACK = 3600.0  # in autumn, wall time has one hour twice


@dataclass(frozen=True, slots=True)
class Rules:
    """What a backend's configuration says about counting. Times in seconds."""

    start: Literal["end", "beginning"] = "end"
    poll_interval: float = 15.0
    late_commit_grace: float = 300.0
    revision_window: float = 3600.0
    cohort: int = 1000  # rows that are watched together once they stay as they are
    cohorts_a_step: int = 25  # of them; more than that take turns
    label_sets: int = 20_000  # of watched rows that are told apart; more than that are folded
    # Whether rows carry names (`result_extended`); None: as seen in the table.
    named: bool | None = None
    waits: bool = True  # for names that may come later; else what is there counts at once

    def recheck(self, age: float) -> float:
        """Say how long to wait before asking again for what is `age` seconds old.

        At least half a poll interval: polls keep no exact beat, and what is due a little early is
        surely asked for at the next.
        """
        return max(self.poll_interval / 2, min(age / 10, LONGEST_RECHECK))


class Watch(NamedTuple):
    """A row that is asked for again by id. Labels may be folded (R10)."""

    state: str
    task: str
    worker: str
    queue: str
    first_seen: float
    until: float | None = None  # finished rows: end of the watch
    started: float | None = None  # first seen STARTED, while we were looking
    counted: Labels | None = None  # what it was last counted as, if it was (R4)
    rerun: bool = False  # it was seen unfinished since

    @property
    def unfinished(self) -> bool:
        """Whether the row had not finished when it was last seen."""
        return self.until is None

    @property
    def labels(self) -> Labels:
        """State, task, worker and queue, as last seen."""
        return self[:4]

    @property
    def settled(self) -> bool:
        """Whether the row counts as what it was last seen as."""
        return self.counted == self[:4] and self.until is not None and not self.rerun

    @property
    def held(self) -> bool:
        """Whether the row has finished and waits for its name (R13)."""
        return self.until is not None and not self.settled

    @property
    def nameless(self) -> bool:
        """Whether the row counts without a name that may still come (R13)."""
        return not self.task and self.settled and _lacks_its_name(self.labels)

    def shows(self, labels: Labels) -> bool:
        """Whether a row with these labels is as it was when last seen, as far as that is known."""
        return _unfolded(self.labels, labels) == labels


class Seen(NamedTuple):
    """What to do about a row: go on watching it (None: no longer), and what it counts as."""

    watch: Watch | None
    outcome: Finished | Vanished | None = None


def slack_shown_by(oldest: float | None, now: float) -> float:
    """Bound how far off dates may be, in seconds; `oldest` is the oldest of the newest results.

    A zone that makes results look older by hours makes these look so, too, even if just written.
    """
    if oldest is None:
        return ZONE_SLACK
    return min(max(now - oldest, 0.0) + SEASON_SLACK, ZONE_SLACK)


@dataclass(frozen=True, slots=True)
class Lifecycle:
    """Looks at rows at one moment."""

    rules: Rules
    now: float  # Unix time, seconds
    named: bool  # whether rows of this table carry names at all
    room: bool = True  # for more rows that are watched only because their name may still come
    dates: Dates | None = None  # how they are read, where they have to tell their zone

    def first_sight(self, row: Row, *, live: bool) -> Seen:
        """See a row that is not watched. `live`: we would have seen it start."""
        if not row.finished:
            started = self.now if live and row.state == STARTED else None
            return Seen(self._watch(row, started=started))
        # What is history by its own date is not waited for, or it would be a spike later. Where the
        # date deceives, a name that comes later is a revision.
        waits = live or row.done is None or self._just_now(row.done)
        if waits and self._may_get_a_name(row):
            return Seen(self._held(row, None))
        return self._settle(row, None)

    def again(self, row: Row | None, watch: Watch) -> Seen:
        """See a watched row again; None: it was deleted."""
        if row is None:
            return self._gone(watch)
        if not row.finished:
            return Seen(self._unfinished(row, watch))
        if _counted(watch, row) == row.labels and not watch.rerun:
            return Seen(self._unchanged(row, watch))
        waited = watch.held and watch.until is not None and self.now >= watch.until
        if self._may_get_a_name(row) and not waited:
            return Seen(self._held(row, watch))
        return self._settle(row, watch)

    def may_change(self, done: float | None) -> bool:
        """Whether what finished then is still within the revision window."""
        return self._recent(done, self.rules.revision_window)

    def counted_success(self, task: str) -> Watch:
        """Return what the watch of a row would be that was counted as a success of this task."""
        labels = (SUCCESS, task, "", "")
        return Watch(*labels, self.now, self.now, counted=labels)

    def _gone(self, watch: Watch) -> Seen:
        if watch.unfinished:
            return Seen(None, Vanished(watch.task, watch.state))
        if watch.held:  # it had finished, so it counts, under what is known
            return Seen(None, Finished(*watch.labels, revises=_task_and_state(watch.counted)))
        return Seen(None)

    def _unfinished(self, row: Row, watch: Watch) -> Watch:
        """Follow a row's labels and state; one that had finished begins anew (R4)."""
        anew = not watch.unfinished
        first_seen = self.now if anew else watch.first_seen
        started = None
        if row.state == STARTED:
            running = watch.state == STARTED and not anew
            started = watch.started if running else self.now
        counted = watch.counted
        return self._watch(
            row, first_seen, started=started, counted=counted, rerun=counted is not None
        )

    def _unchanged(self, row: Row, watch: Watch) -> Watch | None:
        """Watch a row on that counts already as what it is."""
        until, counted = watch.until, _still(watch.counted, row.labels)
        back = counted == row.labels and not watch.settled  # the name that it had lost
        over = until is None or self.now >= until
        if back or (over and self._waits_nameless(row)):
            until = self.now + self.rules.revision_window
        elif over:
            return None
        return Watch(*row.labels, watch.first_seen, until, counted=counted)

    def _held(self, row: Row, watch: Watch | None) -> Watch:
        until = self.now + self.rules.late_commit_grace
        if watch is None:
            return self._watch(row, until=until)
        return self._watch(
            row,
            until=watch.until if watch.held else until,
            started=watch.started,
            counted=watch.counted,
            rerun=watch.rerun,
        )

    def _settle(self, row: Row, watch: Watch | None) -> Seen:
        labels = row.labels
        before = _counted(watch, row) if watch else None
        done = row.done if self.dates is None else self.dates.told(row.done)
        outcome = Finished(
            *labels,
            retries=row.retries,
            done=done,
            task_id=row.task_id,
            exception=row.exception,
            took=row.took if before is None else None,  # once a row
            retried=row.retried,
            payload=row.payload,
            entry=row.entry,
            runtime=_runtime(watch.started, done, self.now) if watch else None,
            revises=_task_and_state(before),
            wall=None if self.dates is None else row.done,
        )
        if row.state == SUCCESS or not (self.may_change(row.done) or self._waits_nameless(row)):
            return Seen(None, outcome)
        until = self.now + self.rules.revision_window
        return Seen(self._watch(row, until=until, counted=labels), outcome)

    def _watch(
        self,
        row: Row,
        first_seen: float | None = None,
        *,
        until: float | None = None,
        started: float | None = None,
        counted: Labels | None = None,
        rerun: bool = False,
    ) -> Watch:
        first_seen = self.now if first_seen is None else first_seen
        return Watch(*row.labels, first_seen, until, started, counted, rerun)

    def _may_get_a_name(self, row: Row) -> bool:
        """Whether a finished row without a name may still be given one (R13).

        Only rows that are not SUCCESS, and only where the table's rows have names at all: a worker
        writes SUCCESS and the name together, and with `result_extended` off there is never a name.
        """
        return (
            self.rules.waits
            and self.named
            and not row.task
            and row.state != SUCCESS
            and self._recent(row.done, self.rules.late_commit_grace)
        )

    def _waits_nameless(self, row: Row) -> bool:
        """Whether a row that counts without a name is watched until it has one (R13)."""
        return self.room and self.named and _lacks_its_name(row.labels)

    def _just_now(self, done: float) -> bool:
        """Whether it finished within the grace, taking the date as it is."""
        return abs(self.now - done) < self.rules.late_commit_grace

    def _recent(self, done: float | None, span: float) -> bool:
        return done is None or done > self.now - span - ZONE_SLACK


def _lacks_its_name(labels: Labels) -> bool:
    """Whether a worker that discards the task, when that is due, will give the row its name."""
    state, task, _, _ = labels
    return state == REVOKED and not task


def foldable(labels: Labels) -> list[int]:
    """Return which of a row's labels may fold, in this order: the worker first, the state last.

    One that is not there never does, since it may come (R13), nor does a state of Celery's own, by
    which rows are counted and timed.
    """
    state, task, worker, queue = range(len(labels))
    order = (worker, queue, task) if labels[state] in STATES else (worker, queue, task, state)
    return [part for part in order if labels[part]]


def _unfolded(known: Labels, now: Labels) -> Labels:
    """Return what is known of a row's labels; those that were folded, as they are now.

    Even where there is none any more: a name that is wiped mostly comes back.
    """
    if OTHER not in known:
        return known
    state, task, worker, queue = (n if k == OTHER else k for k, n in zip(known, now, strict=True))
    return known[0] if now[0] in STATES else state, task, worker, queue


def _counted(watch: Watch, row: Row) -> Labels | None:
    """Return what a row was last counted as."""
    return None if watch.counted is None else _unfolded(watch.counted, row.labels)


def _still(counted: Labels | None, now: Labels) -> Labels:
    """Return what a row counts as, as finely as is known: not as none what had folded."""
    state, task, worker, queue = (
        OTHER if k == OTHER and not n else n for k, n in zip(counted or now, now, strict=True)
    )
    return state, task, worker, queue


def _task_and_state(counted: Labels | None) -> tuple[str, str] | None:
    return None if counted is None else (counted[1], counted[0])


def _runtime(started: float | None, done: float | None, now: float) -> float | None:
    """Seconds from first seen STARTED to `date_done`, or to now where that makes no sense."""
    if started is None:
        return None
    if done is None or not started <= done <= now:
        # Clocks differ, whole seconds on MySQL, or another zone: we saw it end between two polls.
        done = now
    return max(0.0, done - started)
