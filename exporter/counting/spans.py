"""Ranges of ids. Pure arithmetic."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise
from typing import NamedTuple

MIN_ID = -(2**63)  # ids are signed; SQL Server's sequences may begin here
SMALL_HOLE = 64  # ids
LONGEST_MASK = 8192  # ids


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


class Missing(NamedTuple):
    """Ids of a span that are not there; bit n of `known` says that `span.lo + n` is there.

    So one object says what a hundred spans would where every other id is missing.
    """

    span: Span
    known: int = 0

    @property
    def size(self) -> int:
        """How many ids are missing; what is open below, from MIN_ID, counts nothing."""
        return 0 if self.span.lo == MIN_ID else self.span.size - self.known.bit_count()

    def __contains__(self, row_id: object) -> bool:
        return (
            isinstance(row_id, int)
            and row_id in self.span
            and not self.known >> (row_id - self.span.lo) & 1
        )

    def without(self, ids: Iterable[int]) -> Iterator[Missing]:
        """Yield what is still missing once these ids (each one of ours) are there."""
        if self.span.size > LONGEST_MASK:
            yield from map(Missing, outside(self.span, each(ids)))
            return
        known = self.known
        for row_id in ids:
            known |= 1 << (row_id - self.span.lo)
        if known.bit_count() < self.span.size:
            yield Missing(self.span, known)

    def pieces(self) -> Iterator[Span]:
        """Yield the spans of the missing ids."""
        if not self.known:
            yield self.span
            return
        lo = self.span.lo
        yield from outside(self.span, each(lo + n for n in _bits(self.known)))


def _bits(mask: int) -> Iterator[int]:
    while mask:
        lowest = mask & -mask
        yield lowest.bit_length() - 1
        mask ^= lowest


def missing(holes: Iterable[Span]) -> Iterator[Missing]:
    """Put together holes (ascending) that are small and close; all ids between them are there."""
    window: list[Span] = []
    for hole in holes:
        small = hole.size <= SMALL_HOLE and hole.lo > MIN_ID
        if window and not (
            small
            and hole.lo - window[-1].hi <= SMALL_HOLE
            and hole.hi - window[0].lo < LONGEST_MASK
        ):
            yield _together(window)
            window = []
        window.append(hole)
        if not small:
            yield Missing(hole)
            window = []
    if window:
        yield _together(window)


def _together(window: Sequence[Span]) -> Missing:
    lo, known = window[0].lo, 0
    for below, above in pairwise(window):
        between = above.lo - below.hi - 1
        known |= ((1 << between) - 1) << (below.hi + 1 - lo)
    return Missing(Span(lo, window[-1].hi), known)


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


def inside(ids: Iterable[int], gaps: Iterable[Missing]) -> Iterator[int]:
    """Yield those ids (ascending) that were missing in one of the gaps (ascending, apart)."""
    remaining = iter(gaps)
    gap = next(remaining, None)
    for row_id in ids:
        while gap is not None and gap.span.hi < row_id:
            gap = next(remaining, None)
        if gap is None:
            return
        if row_id in gap:
            yield row_id


def windows(gaps: Iterable[Missing], reach: int) -> Iterator[list[Missing]]:
    """Put gaps (ascending, apart) together that have at most `reach` ids between them."""
    window: list[Missing] = []
    for gap in gaps:
        if window and gap.span.lo - window[-1].span.hi > reach:
            yield window
            window = []
        window.append(gap)
    if window:
        yield window
