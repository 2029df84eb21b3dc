"""Looks again at ranges of ids read a while ago, for successes that were overwritten (R4). Pure.

Up to Celery 5.6 every state may overwrite SUCCESS, and `revoke()` even wipes the name. Those rows
are too many to watch one by one. So the successes of a range are counted once more at growing ages,
and only where some are missing are the rows looked at that have another state now.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from math import inf
from typing import NamedTuple

from exporter.counting.results import OTHER, Row
from exporter.counting.spans import Span

AGES = (1 / 64, 1 / 16, 1 / 4, 15 / 16)  # when a segment is audited, in revision windows
STRETCH = AGES[0]  # how long a segment is added to, in revision windows
MOST_ROWS = 50_000  # in a segment; more than a chunk more, at most
MOST_TASKS = 1_000  # that are told apart in a segment; the others are counted together


class Segment(NamedTuple):
    """A range of ids that was read, and how many successes of each task were counted in it."""

    span: Span
    since: float  # Unix time, seconds
    audits: int  # how many of AGES are over
    counted: Mapping[str, int]  # under OTHER those that are not told apart, if there are any
    # When to know no more of it, Unix time: the rows of it that may change are watched until then
    # by the rules of its time, and later a row that nobody watches would be taken for another.
    until: float = inf

    def due(self, window: float) -> float:
        """When to look at it again."""
        return self.since + AGES[self.audits] * window


Segments = tuple[Segment, ...]  # ascending, apart


@dataclass(frozen=True, slots=True)
class Audit:
    """What to ask: the successes in a segment, and if some are missing the rows not in `known`."""

    segment: Segment
    known: Collection[int] = ()


@dataclass(frozen=True, slots=True)
class Found:
    """What the table says: successes by task, and rows with another state that are not known."""

    successes: Mapping[str, int]
    others: tuple[Row, ...] = ()


def missing(counted: Mapping[str, int], present: Mapping[str, int]) -> Counter[str]:
    """Return by task how many of those counted are no longer there: overwritten, or deleted."""
    return Counter(counted) - _told_apart(present, counted)


def blame(missing: Counter[str], row: Row, counted: Collection[str]) -> str | None:
    """Name the task whose success this row was; take it off `missing`. None: it was not one.

    Where the name was wiped and more than one task misses some, it stays without a name (R11).
    """
    task = row.task if row.task in counted else OTHER
    if not row.task and not missing[task]:
        tasks = list(+missing)
        if len(tasks) != 1:
            return "" if tasks else None
        (task,) = tasks
    if not missing[task]:
        return None
    missing[task] -= 1
    return row.task if task == OTHER else task


def _told_apart(rows: Mapping[str, int], tasks: Collection[str]) -> Counter[str]:
    """Count rows of other tasks than these together."""
    result: Counter[str] = Counter()
    for task, count in rows.items():
        result[task if task in tasks else OTHER] += count
    return result


def _together(before: Mapping[str, int], more: Mapping[str, int]) -> Counter[str]:
    """Add counts by task; those of rare tasks, where there are too many, are no longer told apart.

    Once some are not, no other is: it may be one of them.
    """
    both = Counter(before) + (_told_apart(more, before) if OTHER in before else Counter(more))
    if len(both) <= MOST_TASKS:
        return both
    return _told_apart(both, dict(both.most_common(MOST_TASKS - 1)))


def extend(
    segments: Segments, span: Span, counted: Mapping[str, int], now: float, window: float
) -> Segments:
    """Add what was just read, to the last segment while that is young and small."""
    last = segments[-1] if segments else None
    if (
        last is not None
        and last.span.hi + 1 == span.lo
        and now < last.since + STRETCH * window
        and not last.audits
        and sum(last.counted.values()) < MOST_ROWS
    ):
        both = _together(last.counted, counted)
        grown = last._replace(span=Span(last.span.lo, span.hi), counted=both)
        return (*segments[:-1], grown)
    return (*segments, Segment(span, now, 0, _together({}, counted), now + window))


def credit(segments: Segments, successes: Iterable[tuple[int, str]]) -> Segments:
    """Count successes, given by id and task, that came later to the segments they belong to."""
    came: dict[int, Counter[str]] = {}
    for row_id, task in successes:
        index = bisect_right(segments, row_id, key=lambda segment: segment.span.lo) - 1
        if index >= 0 and row_id in segments[index].span:
            came.setdefault(index, Counter())[task] += 1
    result = list(segments)
    for index, more in came.items():
        result[index] = result[index]._replace(counted=_together(result[index].counted, more))
    return tuple(result)


def looked_at(
    segments: Segments, span: Span, present: Mapping[str, int], now: float, window: float
) -> Segments:
    """Take note of an audit of `span`: what is gone from there is not missed again."""

    def after(segment: Segment) -> Segment:
        kept = Counter(segment.counted) & _told_apart(present, segment.counted)
        over = sum(now >= segment.since + age * window for age in AGES)
        return segment._replace(audits=max(over, segment.audits + 1), counted=kept)

    return tuple(after(segment) if segment.span == span else segment for segment in segments)


def current(segments: Segments, now: float, window: float) -> Segments:
    """Return those that are to be audited yet: beyond the window nothing is known for sure."""
    return tuple(
        s for s in segments if s.audits < len(AGES) and now < min(s.since + window, s.until)
    )
