"""Which tasks should have succeeded by now, with or without anybody who schedules them. Pure."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from fnmatch import translate
from functools import lru_cache
from typing import NamedTuple

REMEMBERED = 20_000  # names of tasks


@dataclass(frozen=True, slots=True)
class Expectation:
    """A success is due so many seconds after the last one, of each task that matches."""

    task: str  # a name, or a pattern of the shell: *, ?, [...]
    within: float  # seconds


class Expected(NamedTuple):
    """What is expected of one task."""

    task: str  # or the pattern, while no task matches it
    within: float  # seconds
    since: float  # Unix time of the last success, or of when the table was first read
    overdue: bool


class Expectations:
    """Those of a backend; of several that match a task the first counts."""

    def __init__(self, expectations: Sequence[Expectation]) -> None:
        self._expectations = expectations
        self._patterns = [re.compile(translate(each.task)) for each in expectations]
        self._of = lru_cache(REMEMBERED)(self._matching)

    def __bool__(self) -> bool:
        return bool(self._expectations)

    def judge(
        self,
        last_success: Callable[[str], float | None],
        tasks: Iterable[str],
        began: float,
        now: float,
    ) -> list[Expected]:
        """Say of each of the known tasks whether it is overdue; Unix times, in seconds.

        Who was never seen to succeed has had its time since `began`, when the table was first read.
        """
        unmet = {each.task: each for each in reversed(self._expectations)}
        found = []
        for task in tasks:
            matching = self._of(task)
            for each in matching:
                unmet.pop(each.task, None)
            if matching:
                since = last_success(task)
                found.append(_judged(matching[0], task, began if since is None else since, now))
        return found + [_judged(each, pattern, began, now) for pattern, each in unmet.items()]

    def _matching(self, task: str) -> tuple[Expectation, ...]:
        pairs = zip(self._expectations, self._patterns, strict=True)
        return tuple(each for each, pattern in pairs if pattern.match(task))


def _judged(each: Expectation, task: str, since: float, now: float) -> Expected:
    return Expected(task, each.within, since, now - since > each.within)
