"""Saved groups whose tasks have not all finished, and when they complete. Pure.

A group is read once, and its unfinished tasks are kept here by id, so that their results complete
it when they come. A checkpoint keeps no more than which groups are open: who is in them is read
again after a restart.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import NamedTuple

from exporter.counting.results import FAILURE, SUCCESS

MOST_OPEN = 10_000  # groups
MOST_WAITED_FOR = 100_000  # their unfinished tasks
A_STEP = 500  # groups that are read at once
TURN = 60.0  # seconds between two looks at what was read before
A_TURN = 1_000  # groups, and about as many tasks, at such a look


class Untold(StrEnum):
    """Why it is not known when a group completes."""

    TOO_LARGE = "too_large"
    NOT_UNDERSTOOD = "not_understood"
    NO_ROOM = "no_room"
    VANISHED = "vanished"


class Saved(NamedTuple):
    """A group as read, with what its tasks were then."""

    id: int
    size: int = 0  # tasks
    waits_for: frozenset[str] = frozenset()  # those that have not finished
    failed: bool = False  # one of the others did not succeed
    untold: Untold | None = None

    @property
    def outcome(self) -> str | None:
        """What it counts as; None: it is open."""
        if self.untold is not None:
            return self.untold
        return None if self.waits_for else _state(failed=self.failed)


class Open(NamedTuple):
    """What is kept of an open group."""

    since: float  # first seen, Unix time, seconds
    timed: bool = True  # it was saved between two polls, about then


@dataclass(frozen=True, slots=True)
class Sight:
    """What a step has seen of groups."""

    new: tuple[Saved, ...] = ()
    old: tuple[Saved, ...] = ()  # that were there before groups were followed
    again: tuple[Saved, ...] = ()  # that were asked for: a checkpoint knew them as open
    gone: tuple[int, ...] = ()  # of those that were asked for
    finished: Mapping[str, str] = field(default_factory=dict)  # tasks that are waited for, states
    turn: tuple[int, ...] = ()  # that were looked at again


@dataclass(slots=True)
class Followed:
    """What that changes; all of it or nothing is taken over."""

    sight: Sight
    now: float  # Unix time, seconds
    opened: dict[int, tuple[Open, Saved]] = field(default_factory=dict)
    closed: dict[int, str] = field(default_factory=dict)  # states, or why there is none
    sizes: list[int] = field(default_factory=list)
    durations: list[float] = field(default_factory=list)  # seconds

    def see(self, group: Saved, known: Open) -> None:
        """Note a group as it was read."""
        outcome = group.outcome
        if outcome is None:
            self.opened[group.id] = known, group
        else:
            self.close(group.id, outcome, known)

    def close(self, group: int, outcome: str, known: Open) -> None:
        """Note what became of a group."""
        self.closed[group] = outcome
        if known.timed and not isinstance(outcome, Untold):
            self.durations.append(max(0.0, self.now - known.since))


class OpenGroups:
    """The open groups of one table, by the id of their row; the oldest first."""

    def __init__(self, known: Mapping[int, Open]) -> None:
        """`known` are those that a checkpoint has kept."""
        self.known = dict(sorted(known.items(), key=lambda each: each[1].since))
        self.members: dict[str, tuple[int, ...]] = {}  # tasks that are waited for, by whom
        self._waits: dict[int, set[str]] = {}  # the same the other way round
        self._failed: set[int] = set()
        self._turned = 0.0  # Unix time, seconds
        self._last = 0  # of the last turn

    @property
    def oldest(self) -> float | None:
        """When the oldest was first seen, Unix time."""
        return next((each.since for each in self.known.values()), None)

    def unread(self) -> list[int]:
        """Say which are to be read again, some at a time."""
        if len(self._waits) == len(self.known):
            return []
        return [group for group in self.known if group not in self._waits][:A_STEP]

    def turn(self, now: float) -> tuple[int, ...]:
        """Say which to look at again: a row may have gone, and the end of a task been missed."""
        if 0.0 <= now - self._turned < TURN:
            return ()
        order = sorted(self._waits)
        at = bisect_right(order, self._last)
        tasks, taken = 0, []
        for group in (order[at:] + order[:at])[:A_TURN]:
            if tasks >= A_TURN:
                break
            tasks += len(self._waits[group])
            taken.append(group)
        return tuple(taken)

    def waited_for_by(self, groups: Sequence[int]) -> list[str]:
        """Return the tasks that any of these waits for."""
        return [*set[str]().union(*(self._waits[group] for group in groups))]

    def set_back(self, now: float) -> None:
        """Let none have been seen after `now`."""
        self.known = {
            group: each._replace(since=min(each.since, now)) for group, each in self.known.items()
        }

    # -- a step ------------------------------------------------------------------------------

    def advance(self, sight: Sight, now: float, *, live: bool, above: int | None) -> Followed:
        """Say what was seen at `now` changes. Touches nothing.

        `live`: what is new was saved since the last poll. `above`: ids began again above this one.
        """
        change = Followed(sight, now)
        gone = [group for group in self.known if above is not None and group > above]
        change.closed = dict.fromkeys((*gone, *sight.gone), Untold.VANISHED)
        for saved in sight.again:
            if saved.id not in change.closed:
                change.see(saved, self.known[saved.id])
        self._strike(change)
        if above is None:  # else all that was read is read again
            self._take(change, live=live)
        if change.opened:
            self._bound(change)
        return change

    def _take(self, change: Followed, *, live: bool) -> None:
        """Take groups that were not known."""
        for saved in change.sight.old:
            if saved.outcome is None and saved.id not in self.known:
                change.see(saved, Open(change.now, timed=False))
        for saved in change.sight.new:
            if saved.untold in (None, Untold.NO_ROOM):
                change.sizes.append(saved.size)
            change.see(saved, Open(change.now, live))

    def _strike(self, change: Followed) -> None:
        """Close those whose last tasks have finished."""
        ended = Counter[int]()
        failed = set(self._failed)
        for task, state in change.sight.finished.items():
            for group in self.members.get(task, ()):
                ended[group] += 1
                if state != SUCCESS:
                    failed.add(group)
        for group, tasks in ended.items():
            if tasks == len(self._waits[group]) and group not in change.closed:
                change.close(group, _state(failed=group in failed), self.known[group])

    def _bound(self, change: Followed) -> None:
        """Drop the oldest where there are too many."""
        waiting = {group: len(saved.waits_for) for group, (_, saved) in change.opened.items()}
        kept = {g: len(self._waits.get(g, ())) for g in self.known if g not in change.closed}
        kept |= waiting
        groups, tasks = len(kept), sum(kept.values())
        for group, own in kept.items():
            if groups <= MOST_OPEN and tasks <= MOST_WAITED_FOR:
                break
            groups, tasks = groups - 1, tasks - own
            change.opened.pop(group, None)
            change.closed[group] = Untold.NO_ROOM

    def apply(self, change: Followed) -> None:
        """Take a change over. Never fails."""
        for group in change.closed:
            self._forget(group)
        for task, state in change.sight.finished.items():
            for group in self.members.pop(task, ()):
                self._waits[group].discard(task)
                if state != SUCCESS:
                    self._failed.add(group)
        if change.opened and not self._waits:
            self._turned = change.now
        for group, (known, saved) in change.opened.items():
            self.known[group] = known
            self._waits[group] = set(saved.waits_for)
            if saved.failed:
                self._failed.add(group)
            own = (group,)
            for task in saved.waits_for:
                others = self.members.get(task)
                self.members[task] = own if others is None else others + own
        if change.sight.turn:
            self._turned, self._last = change.now, change.sight.turn[-1]

    def _forget(self, group: int) -> None:
        self.known.pop(group, None)
        self._failed.discard(group)
        for task in self._waits.pop(group, ()):
            others = tuple(other for other in self.members[task] if other != group)
            if others:
                self.members[task] = others
            else:
                del self.members[task]


def _state(*, failed: bool) -> str:
    return str(FAILURE if failed else SUCCESS)
