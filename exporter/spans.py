"""Ranges of ids. Pure arithmetic."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise
from typing import NamedTuple

MIN_ID = -(2**63)  # ids are signed; SQL Server's sequences may begin here


class Span(NamedTuple):
    """A range of ids, both ends included."""

    lo: int
    hi: int

    @property
    def size(self) -> int:
        """How many ids it holds."""
        return self.hi - self.lo + 1

    def __contains__(self, row_id: object) -> bool:
        return isinstance(row_id, int) and self.lo <= row_id <= self.hi


def each(ids: Iterable[int]) -> list[Span]:
    """Make a span of each id."""
    return [Span(row_id, row_id) for row_id in ids]


def outside(span: Span, others: Iterable[Span]) -> Iterator[Span]:
    """Yield the parts of `span` that none of the others covers."""
    lo = span.lo
    for other in sorted(others):
        if other.hi < lo or other.lo > span.hi:
            continue
        if lo < other.lo:
            yield Span(lo, other.lo - 1)
        lo = other.hi + 1
    if lo <= span.hi:
        yield Span(lo, span.hi)


def holes(ids: Sequence[int]) -> Iterator[Span]:
    """Yield the ids missing between neighbours (ascending)."""
    for below, above in pairwise(ids):
        if above - below > 1:
            yield Span(below + 1, above - 1)


def inside(ids: Iterable[int], spans: Iterable[Span]) -> Iterator[int]:
    """Yield those ids (ascending) that lie in one of the spans (ascending, apart)."""
    remaining = iter(spans)
    span = next(remaining, None)
    for row_id in ids:
        while span is not None and span.hi < row_id:
            span = next(remaining, None)
        if span is None:
            return
        if row_id >= span.lo:
            yield row_id


def windows(spans: Iterable[Span], reach: int) -> Iterator[list[Span]]:
    """Put spans (ascending, apart) together that have at most `reach` ids between them."""
    window: list[Span] = []
    for span in spans:
        if window and span.lo - window[-1].hi > reach:
            yield window
            window = []
        window.append(span)
    if window:
        yield window


def size(spans: Iterable[Span]) -> int:
    """Count the ids; a span that is open below, from MIN_ID, counts nothing."""
    return sum(span.size for span in spans if span.lo > MIN_ID)
