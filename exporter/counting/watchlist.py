"""Watched rows by id: some fifty bytes each, whatever their labels are. Pure.

A hundred thousand rows that never finish are no reason to grow. So a row is a place in arrays, in
blocks of neighbouring ids, and labels are kept once for all rows that have them. Where rows bring
more label sets than there is room for, new ones are folded, the worker first and the task last
(R10): these rows count as any others when they finish, but are not told apart until then.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Iterator, Mapping
from itertools import chain
from math import inf, isnan, nan
from typing import Any

from exporter.counting.lifecycle import Watch, foldable
from exporter.counting.results import OTHER, READY_STATES, Labels, ladder

BLOCK = 512  # rows; twice as many are split
FOLDED_STATES = 100  # that are kept where tasks are not, beside those that Celery knows

Gauged = tuple[str, str, str, str]  # task, state, worker, queue
Block = tuple["array[Any]", ...]  # by column; the n-th of each is of one row

# id, labels, first_seen, until, started, counted, flags; no time is NaN.
COLUMNS = "qIdddIB"
IDS, LABELS, FIRST_SEEN, UNTIL, STARTED, COUNTED, FLAGS = range(len(COLUMNS))
SETTLED, FOLDED, RERUN, NAMELESS = 1, 2, 4, 8
NOT_COUNTED = ("", "", "", "")  # no state


class _Shared:
    """Labels that many rows have, each kept once, as long as a row has them."""

    def __init__(self) -> None:
        self.places: dict[Labels, int] = {}
        self.values: list[Labels] = []
        self._rows: list[int] = []
        self._free: list[int] = []

    def take(self, value: Labels) -> int:
        """Return the place of labels that one more row has."""
        place = self.places.get(value)
        if place is None:
            if not self._free:
                self._free.append(len(self.values))
                self.values.append(value)
                self._rows.append(0)
            place = self.places[value] = self._free.pop()
            self.values[place] = value
        self._rows[place] += 1
        return place

    def drop(self, place: int) -> Labels:
        """Return the labels of that place, which one row less has."""
        value = self.values[place]
        self._rows[place] -= 1
        if not self._rows[place]:
            del self.places[value]
            self._free.append(place)
        return value


class WatchList(Mapping[int, Watch]):
    """Watched rows by id, ascending.

    `unfinished` counts the unfinished rows by (task, state, worker, queue). Of these labels about
    `label_sets` are told apart; `folded` counts the rows whose own are not.
    """

    def __init__(self, label_sets: int) -> None:
        self.label_sets = label_sets
        self.unfinished: Counter[Gauged] = Counter()
        self.folded = 0
        self.nameless = 0  # rows that count without a name
        self._rows = 0
        self._lows: list[int] = []  # the lowest id of each block, or less
        self._blocks: list[Block] = []
        self._labels = _Shared()
        self._labels.take(NOT_COUNTED)
        self._oldest: dict[tuple[str, str], float] | None = None

    def __len__(self) -> int:
        """How many rows."""
        return self._rows

    def __iter__(self) -> Iterator[int]:
        """Yield the ids."""
        return chain.from_iterable(block[IDS] for block in self._blocks)

    def __contains__(self, row_id: object) -> bool:
        """Whether the row is watched."""
        return isinstance(row_id, int) and self._find(row_id)[2]

    def __getitem__(self, row_id: int) -> Watch:
        """Return what is known of a row."""
        number, place, there = self._find(row_id)
        if not there:
            raise KeyError(row_id)
        block = self._blocks[number]
        counted = self._labels.values[block[COUNTED][place]]
        return Watch(
            *self._labels.values[block[LABELS][place]],
            block[FIRST_SEEN][place],
            _time(block[UNTIL][place]),
            _time(block[STARTED][place]),
            None if counted == NOT_COUNTED else counted,
            rerun=bool(block[FLAGS][place] & RERUN),
        )

    def held(self) -> Iterator[tuple[int, bool]]:
        """Yield each id, and whether the row has finished and waits for its name (R13)."""
        for block in self._blocks:
            for row_id, until, flags in zip(block[IDS], block[UNTIL], block[FLAGS], strict=True):
                yield row_id, not (isnan(until) or flags & SETTLED)

    def put(self, row_id: int, watch: Watch) -> None:
        """Watch a row, or take over what is known of it now."""
        number, place, there = self._find(row_id)
        if there:
            self._forget(self._blocks[number], place)
            for column, value in zip(self._blocks[number], self._kept(row_id, watch), strict=True):
                column[place] = value
            return
        self._rows += 1
        if number < 0 and self._blocks:  # below all others
            number, self._lows[0] = 0, row_id
        if number == len(self._blocks) - 1 and (number < 0 or place == 2 * BLOCK):
            number, place = number + 1, 0  # ids ascend: leave full blocks behind
            self._blocks.append(tuple(map(array, COLUMNS)))
            self._lows.append(row_id)
        elif len(self._blocks[number][IDS]) == 2 * BLOCK:
            self._split(number)
            number, place, _ = self._find(row_id)
        for column, value in zip(self._blocks[number], self._kept(row_id, watch), strict=True):
            column.insert(place, value)

    def remove(self, row_id: int) -> None:
        """Watch a row no longer, if it was."""
        number, place, there = self._find(row_id)
        if not there:
            return
        self._rows -= 1
        block = self._blocks[number]
        self._forget(block, place)
        for column in block:
            del column[place]
        if number and len(block[IDS]) + len(self._blocks[number - 1][IDS]) <= BLOCK:
            for below, column in zip(self._blocks[number - 1], block, strict=True):
                below.extend(column)
        elif block[IDS]:
            return
        del self._blocks[number], self._lows[number]

    def set_back(self, now: float, held: float, settled: float) -> None:
        """Let no row have been seen after `now`, nor be watched longer than so many seconds on."""
        self._oldest = None
        for block in self._blocks:
            for place, first_seen in enumerate(block[FIRST_SEEN]):
                if first_seen > now:
                    block[FIRST_SEEN][place] = now
            for place, until in enumerate(block[UNTIL]):
                latest = now + (settled if block[FLAGS][place] & SETTLED else held)
                if until > latest:
                    block[UNTIL][place] = latest

    def oldest(self) -> dict[tuple[str, str], float]:
        """When the oldest unfinished row of each (task, state) was first seen, Unix time."""
        if self._oldest is None:
            found = [inf] * len(self._labels.values)
            for block in self._blocks:
                for labels, first_seen in zip(block[LABELS], block[FIRST_SEEN], strict=True):
                    if first_seen < found[labels]:  # noqa: PLR1730  # min() is twice as slow
                        found[labels] = first_seen
            self._oldest = {}
            for (state, task, _, _), place in self._labels.places.items():
                if found[place] < inf and state not in READY_STATES:
                    before = self._oldest.get((task, state), inf)
                    self._oldest[task, state] = min(before, found[place])
        return self._oldest

    def _find(self, row_id: int) -> tuple[int, int, bool]:
        """Return the block and the place where a row is, or would be, and whether it is there."""
        number = bisect_right(self._lows, row_id) - 1
        if number < 0:
            return number, 0, False
        ids = self._blocks[number][IDS]
        place = bisect_left(ids, row_id)
        return number, place, place < len(ids) and ids[place] == row_id

    def _split(self, number: int) -> None:
        block = self._blocks[number]
        self._blocks.insert(number + 1, tuple(column[BLOCK:] for column in block))
        self._lows.insert(number + 1, block[IDS][BLOCK])
        for column in block:
            del column[BLOCK:]

    def _kept(self, row_id: int, watch: Watch) -> tuple[Any, ...]:
        """Count a row in, and say what its columns are to hold."""
        self._oldest = None
        labels = self._fold(watch.labels)
        place = self._labels.take(labels)
        counted = labels if watch.counted == watch.labels else self._fold(watch.counted)
        folded = OTHER in labels
        self.folded += folded
        self.nameless += watch.nameless
        if watch.unfinished:
            self.unfinished[_gauged(labels)] += 1
            if len(self.unfinished) > 2 * self.label_sets + FOLDED_STATES:
                self.unfinished = +self.unfinished
        return (
            row_id,
            place,
            watch.first_seen,
            nan if watch.until is None else watch.until,
            nan if watch.started is None else watch.started,
            self._labels.take(counted),
            SETTLED * watch.settled
            | FOLDED * folded
            | RERUN * watch.rerun
            | NAMELESS * watch.nameless,
        )

    def _forget(self, block: Block, place: int) -> None:
        """Count a row out."""
        self._oldest = None
        flags = block[FLAGS][place]
        self.folded -= bool(flags & FOLDED)
        self.nameless -= bool(flags & NAMELESS)
        self._labels.drop(block[COUNTED][place])
        labels = self._labels.drop(block[LABELS][place])
        if isnan(block[UNTIL][place]):
            self.unfinished[_gauged(labels)] -= 1

    def _fold(self, own: Labels | None) -> Labels:
        """Return the labels to keep: its own, or what there is room for (R10)."""
        if own is None:
            return NOT_COUNTED
        known, most = self._labels.places, self.label_sets
        if own in known:
            return own
        order = foldable(own)
        until = (most + FOLDED_STATES, most, most / 2, most * 3 / 4)  # state, task, worker, queue
        rooms = (*(until[part] for part in order), inf)
        for rung, room in zip(ladder(own, order), rooms, strict=True):
            state, task, worker, queue = rung
            if rung in known or len(known) <= room:
                break
        return state, task, worker, queue


def _gauged(labels: Labels) -> Gauged:
    state, task, worker, queue = labels
    return task, state, worker, queue


def _time(value: float) -> float | None:
    """Read a column."""
    return None if isnan(value) else value
