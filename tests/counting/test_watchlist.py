"""The list of watched rows against a dict of them, and what a row costs."""

from __future__ import annotations

import tracemalloc
from collections import Counter

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from exporter.counting import watchlist
from exporter.counting.lifecycle import Watch
from exporter.counting.results import OTHER
from exporter.counting.watchlist import FOLDED_STATES, WatchList
from tests.counting.test_position import TIMES

ROWS = 30_000
BYTES_A_ROW = 60

times = st.sampled_from([1.5, 2.5, 3.5])
watches = st.builds(
    Watch,
    st.sampled_from(["STARTED", "REVOKED", "FAILURE"]),
    st.sampled_from(["a", ""]),
    st.sampled_from(["w", ""]),
    st.sampled_from(["q", ""]),
    times,
    st.none() | times,
    st.none() | times,
    st.none() | st.sampled_from([("FAILURE", "a", "w", "q"), ("REVOKED", "", "", "")]),
    rerun=st.booleans(),
)


class AsADict(RuleBasedStateMachine):
    """Put and remove rows, one by one and as ranges, in blocks of a few."""

    def __init__(self) -> None:
        super().__init__()
        self.patch = pytest.MonkeyPatch()
        self.patch.setattr(watchlist, "BLOCK", 3)
        self.rows = WatchList(1000)
        self.model: dict[int, Watch] = {}

    @rule(row_id=st.integers(-(2**63), 2**63 - 1) | st.integers(0, 50), watch=watches)
    def put(self, row_id: int, watch: Watch) -> None:
        self.rows.put(row_id, watch)
        self.model[row_id] = watch

    @rule(ids=st.permutations(range(20)) | st.just(range(40)), watch=watches)
    def put_range(self, ids: list[int], watch: Watch) -> None:
        for row_id in ids:
            self.put(row_id, watch)

    @precondition(lambda self: self.model)
    @rule(data=st.data())
    def remove(self, data: st.DataObject) -> None:
        gone = data.draw(st.sets(st.sampled_from(sorted(self.model))))
        for row_id in gone | {-7}:
            self.rows.remove(row_id)
            self.model.pop(row_id, None)

    @rule()
    def set_back(self) -> None:
        self.rows.set_back(2.0, held=0.5, settled=1.0)
        for row_id, watch in self.model.items():
            first_seen = min(watch.first_seen, 2.0)
            latest = 3.0 if watch.settled else 2.5
            until = None if watch.until is None else min(watch.until, latest)
            self.model[row_id] = watch._replace(first_seen=first_seen, until=until)

    @invariant()
    def same(self) -> None:
        assert list(self.rows.items()) == sorted(self.model.items())
        assert len(self.rows) == len(self.model)
        assert dict(self.rows.held()) == {i: watch.held for i, watch in self.model.items()}
        assert 21 not in self.rows or 21 in self.model
        unfinished = [watch for watch in self.model.values() if watch.unfinished]
        labels = Counter((w.task, w.state, w.worker, w.queue) for w in unfinished)
        assert +self.rows.unfinished == labels
        assert self.rows.folded == 0
        assert self.rows.nameless == sum(watch.nameless for watch in self.model.values())

    def teardown(self) -> None:
        self.patch.undo()


AsADict.TestCase.settings = settings(max_examples=25 * TIMES, stateful_step_count=15)
TestAsADict = AsADict.TestCase


def _started(number: int, state: str = "STARTED", since: float = 0.0) -> Watch:
    return Watch(state, f"task {number}", f"worker {number}", "q", first_seen=since)


@pytest.mark.parametrize("step", [1, -1, 7919], ids=["ascending", "descending", "scattered"])
def test_a_row_costs_little_whatever_its_labels_are(step: int) -> None:
    """Also where each was first seen at another moment, has made-up names and a made-up state."""
    rows = WatchList(label_sets=100)
    tracemalloc.start()
    try:
        for number in range(ROWS):
            row_id = number * step % ROWS
            rows.put(row_id, _started(number, f"state {number}", since=float(number)))
        used, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(rows) == ROWS
    assert used / ROWS < BYTES_A_ROW * (2 if step == -1 else 1)


def test_few_that_stay_of_many_cost_little() -> None:
    rows = WatchList(label_sets=100)
    for row_id in range(ROWS):
        rows.put(row_id, _started(1))
    tracemalloc.start()
    try:
        kept = WatchList(label_sets=100)
        for row_id in range(ROWS):
            kept.put(row_id, _started(1))
        for row_id in range(ROWS):
            if row_id % 1000:
                kept.remove(row_id)
        used, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert list(kept) == list(range(0, ROWS, 1000))
    assert used < 0.1 * BYTES_A_ROW * ROWS


def test_labels_are_folded_worker_first_and_task_last() -> None:
    rows = WatchList(label_sets=8)
    for number in range(4):
        rows.put(number, _started(number))
    assert rows.folded == 0
    for number in range(4, 300):
        rows.put(number, _started(number))
    assert rows.folded == 296
    tasks, workers, queues = ({labels[part] for labels in rows.unfinished} for part in (0, 2, 3))
    assert len(rows.unfinished) == 9
    assert len(tasks) == 9
    assert OTHER in tasks
    assert len(workers) == 5
    assert queues == {"q", OTHER}
    assert sum(rows.unfinished.values()) == 300


def test_states_are_kept_longest_and_those_of_finished_rows_always() -> None:
    rows = WatchList(label_sets=4)
    for number in range(1000):
        rows.put(number, _started(number, f"state {number}"))
    rows.put(1000, _started(1000, "FAILURE")._replace(until=9.0))
    assert rows[1000].state == "FAILURE"
    assert rows[999].state == OTHER
    assert len(rows.unfinished) <= 4 + FOLDED_STATES + 1


def test_room_that_is_left_is_used_again() -> None:
    rows = WatchList(label_sets=2)
    for number in range(100):
        rows.put(number, _started(number))
    assert (rows[0].task, rows[99].task) == ("task 0", OTHER)
    for number in range(100):
        rows.remove(number)
    assert rows.folded == 0
    rows.put(1, _started(7))
    assert rows[1].task == "task 7"
    assert rows.oldest() == {("task 7", "STARTED"): 0.0}


def test_a_folded_row_shows_only_what_is_known_of_it() -> None:
    rows = WatchList(label_sets=0)
    rows.put(1, _started(1))
    assert rows[1].shows(("STARTED", "another", "w", "q"))
    assert not rows[1].shows(("FAILURE", "another", "w", "q"))
    for number in range(200):
        rows.put(number, _started(number, f"state {number}"))
    assert rows[199].shows(("any", "another", "w", "q"))
    assert not rows[199].shows(("SUCCESS", "another", "w", "q"))
