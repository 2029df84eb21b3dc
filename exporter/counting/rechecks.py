"""When watched rows are asked for again (R3): each by itself, or many together. Pure.

A row that stays as it is joins a cohort of its neighbours, which are asked about in one statement;
one that has changed leaves it. A hundred thousand by themselves would fill the schedule.
"""

from __future__ import annotations

import heapq
from array import array
from bisect import bisect_left
from collections.abc import Iterable, Mapping

from exporter.counting.lifecycle import Rules, Watch
from exporter.counting.step import Cohort, Digest
from exporter.counting.watchlist import WatchList
from exporter.counting.zones import LONGEST_RECHECK

WATCHED_A_STEP = 2_000
ASIDE_COHORTS = 20  # that rows may be put aside for, in catching up

NEVER = float("inf")


class Rechecks:
    """The schedule of the rows in a watch list.

    Each is in the schedule, or in a cohort, where it is not due by itself, or was put aside, while
    neighbours may follow.
    """

    def __init__(self, rules: Rules, watched: WatchList) -> None:
        self.asked: tuple[int, ...] = ()  # rows that are due, until they were looked at
        self.turn: tuple[Cohort, ...] = ()  # cohorts whose turn it is
        self._rules = rules
        self._watched = watched
        self._schedule: list[tuple[float, int]] = []
        self._due: dict[int, float] = {}  # of those in the schedule
        self._calm: set[int] = set()  # in the schedule, but ready for a cohort
        self._aside = array("q")
        self._cohorts: list[Cohort] = []  # first those that were not looked at for longest
        self._turned = -NEVER  # when cohorts were last looked at
        self._clock = NEVER  # not known: see `Position`

    def __contains__(self, row_id: int) -> bool:
        """Whether a row is due by itself."""
        return row_id in self._due

    @property
    def cohorts(self) -> tuple[Cohort, ...]:
        """All of them, those that are not due, too."""
        return tuple(self._cohorts)

    @property
    def entries(self) -> int:
        """How long the schedule is, with entries of rows that have left it."""
        return len(self._schedule)

    # -- time --------------------------------------------------------------------------------

    def pass_to(self, now: float) -> None:
        """Let what is due at `now` (Unix time, seconds) be asked for."""
        self._clock = now
        self.turn = self._gather(now)
        asked = dict.fromkeys(self.asked)
        while self._schedule and self._schedule[0][0] <= now and len(asked) < WATCHED_A_STEP:
            due, row_id = heapq.heappop(self._schedule)
            if self._due.get(row_id) == due:
                asked[row_id] = None
        self.asked = tuple(asked)

    def set_back(self, now: float) -> None:
        """Let nothing lie in the future, and all be due.

        Since long ago, so that the poll that has begun does not end before: `once` has no other.
        """
        self._due = dict.fromkeys(self._due, -NEVER)
        self._schedule = [(-NEVER, row_id) for row_id in self._due]
        for cohort in self._cohorts:
            cohort.due = -NEVER
            cohort.seen = min(cohort.seen, now)
            cohort.until = min((self._end_of(i) for i in cohort.ids), default=NEVER)
        self._turned = -NEVER

    def busy(self, now: float) -> bool:
        """Whether anything is due."""
        return bool(self._schedule and self._schedule[0][0] <= now) or bool(self._cohorts_due(now))

    def _gather(self, now: float) -> tuple[Cohort, ...]:
        """Return cohorts to look at; members whose own time is over are due by themselves."""
        turn = self._cohorts_due(now)[: self._rules.cohorts_a_step]
        for cohort in turn:
            if cohort.until <= now or len(cohort.ids) < self._rules.cohort / 4:
                self._thin(cohort, now)
        self._cohorts = [cohort for cohort in self._cohorts if cohort.ids]
        return tuple(cohort for cohort in turn if cohort.ids)

    def _cohorts_due(self, now: float) -> list[Cohort]:
        """Return cohorts that may be looked at, first those that were not for the longest time.

        Many take turns: one step of a poll looks at some, and others only at those that nobody has
        looked at for a minute.
        """
        in_this_poll = now < self._turned + self._rules.poll_interval / 2
        latest = now - LONGEST_RECHECK if in_this_poll else now
        return [cohort for cohort in self._cohorts if cohort.due <= now and cohort.seen <= latest]

    def _thin(self, cohort: Cohort, now: float) -> None:
        """Let members go whose own time is over, and all of them where few are left."""
        ends = {row_id: self._end_of(row_id) for row_id in cohort.ids}
        members = [row_id for row_id in cohort.ids if ends[row_id] > now]
        if len(members) < self._rules.cohort / 4:
            members = []
        for row_id in ends.keys() - members:
            self._put_on_schedule(row_id, now)
        cohort.ids = array("q", members)
        cohort.until = min((ends[row_id] for row_id in members), default=NEVER)

    def _end_of(self, row_id: int) -> float:
        return self._watched[row_id].until or NEVER

    # -- rows --------------------------------------------------------------------------------

    def take(self, watch: Mapping[int, Watch | None], looked_at: Mapping[Cohort, Digest]) -> None:
        """Watch rows on, or no longer (None), and take over what was seen of cohorts."""
        together = (i for i in watch if i in self._watched and i not in self._due)
        self._leave_cohorts(together)
        for row_id, now in watch.items():
            self._put(row_id, now)
        self.asked = ()
        if looked_at:
            self._turned = self._clock
            self._cohorts = [one for one in self._cohorts if one not in looked_at] + [*looked_at]
        for cohort, digest in looked_at.items():
            cohort.digest = digest
            cohort.seen = self._clock
            cohort.due = self._clock + self._rules.recheck(self._clock - cohort.youngest)

    def restore(self) -> None:
        """Let all that is watched be due."""
        for row_id, held in self._watched.held():
            if held:
                self._put_on_schedule(row_id, 0.0)
            else:
                self._aside.append(row_id)
                if len(self._aside) == ASIDE_COHORTS * self._rules.cohort:
                    self.make_cohorts(more_to_come=False)

    def make_cohorts(self, *, more_to_come: bool) -> None:
        """Make full cohorts of what is ready for them; closer neighbours may be to come."""
        size = self._rules.cohort
        if not self._aside or (more_to_come and len(self._aside) < ASIDE_COHORTS * size):
            return
        aside = [i for i in self._aside if i in self._watched and i not in self._due]
        ready = sorted(self._calm.union(aside))
        full = len(ready) // size * size
        for start in range(0, full, size):
            self._cohorts.append(self._cohort(ready[start : start + size]))
        self._aside = array("q")
        self._calm = set(ready[full:])
        for row_id in self._calm.intersection(aside):
            self._put_on_schedule(row_id, self._due_of(self._watched[row_id]))

    def _cohort(self, ids: list[int]) -> Cohort:
        watches = [self._watched[row_id] for row_id in ids]
        youngest = max(watch.first_seen for watch in watches)
        until = min(watch.until or NEVER for watch in watches)
        due = min(self._due.pop(row_id, NEVER) for row_id in ids)
        due = min(due, self._clock + self._rules.recheck(self._clock - youngest))
        seen = self._clock if self._clock < NEVER else -NEVER  # by us: not yet
        return Cohort(array("q", ids), youngest, until, due, seen=seen)

    def _put(self, row_id: int, watch: Watch | None) -> None:
        self._calm.discard(row_id)
        self._due.pop(row_id, None)
        if watch is None:
            self._watched.remove(row_id)
            return
        before = self._watched.get(row_id)
        if watch != before:
            self._watched.put(row_id, watch)
        if not watch.held and (before is None or before.shows(watch.labels)):
            self._aside.append(row_id)
        else:
            self._put_on_schedule(row_id, self._due_of(watch))

    def _due_of(self, watch: Watch) -> float:
        return self._clock + self._rules.recheck(self._clock - watch.first_seen)

    def _put_on_schedule(self, row_id: int, due: float) -> None:
        self._due[row_id] = due
        heapq.heappush(self._schedule, (due, row_id))

    def _leave_cohorts(self, ids: Iterable[int]) -> None:
        ascending = sorted(ids)
        leaving = set(ascending)
        for cohort in self._cohorts if ascending else ():
            if not cohort.ids:
                continue
            lowest = bisect_left(ascending, cohort.ids[0])
            if lowest < len(ascending) and ascending[lowest] <= cohort.ids[-1]:
                cohort.ids = array("q", (i for i in cohort.ids if i not in leaving))
