"""Position and tally together, with less room than there are labels: each result counts once."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from exporter.checkpoint import records
from exporter.counting import feeds
from exporter.counting.folding import placed
from exporter.counting.position import Position
from exporter.counting.results import FAILURE, OTHER, SUCCESS
from exporter.counting.step import Change
from exporter.counting.tally import Changes, Tally
from exporter.counting.watchlist import WatchList
from exporter.metrics import catalogue
from tests.counting.test_position import STATES, TIMES, Following, Table

if TYPE_CHECKING:
    from exporter.counting.results import Row
    from exporter.metrics.catalogue import Metric
    from exporter.metrics.samples import LabelValues

LIMITS = st.integers(10, 100)
MANY = ("state", "task", "worker", "queue")


class Crowd(RuleBasedStateMachine):
    """Rows with and without labels come, change their state, run again, go; restarts between."""

    def __init__(self) -> None:
        super().__init__()
        self.table = Table()
        self.counted: dict[int, LabelValues] = {}  # rows, by what they last counted as
        self.truth: Counter[LabelValues] = Counter()  # results, by task, state, worker, queue
        self.revised: Counter[LabelValues] = Counter()  # by task and state
        self.reruns: set[int] = set()
        self.unfinished: set[int] = set()
        self.vanished = 0
        self.raised = False  # what folded may have a name by now

    @initialize(limit=LIMITS)
    def start(self, limit: int) -> None:
        self.limit = limit
        self.following = Following(self.table, named=True, label_sets=limit // 2)
        self.following.take_over = self.take_over
        self.tally = Tally(limit, first_zero=0.0)

    def take_over(self, change: Change) -> None:
        position, now = self.following.position, self.following.now
        changes = self.tally.count("task", feeds.tasks, change, now, live=position.live)
        position.apply(change)
        self.tally.apply(changes)

    @rule(limit=st.none() | LIMITS)
    def restart(self, limit: int | None) -> None:
        """With what the checkpoint kept, perhaps with more or less room."""
        self.raised |= limit is not None and limit > self.limit
        self.limit = limit or self.limit
        before, tally = self.following.position, self.tally
        watched = WatchList(self.limit // 2)
        for row_id, watch in before.watched.items():
            watched.put(row_id, records.read_watch(records.watch(watch)))
        position = Position(replace(before.rules, label_sets=self.limit // 2))
        if before.looked:
            position.restore(before.mark, before.gaps, before.segments, watched)
        self.following.position = position
        self.tally = Tally(self.limit, first_zero=0.0)
        self.tally.apply(Changes(tally.values))

    @rule(
        state=st.sampled_from(STATES),
        task=st.sampled_from("abcdefgh"),
        worker=st.sampled_from(["", "v", "w"]),
        queue=st.sampled_from(["", "q", "r"]),
        at_once=st.booleans(),
    )
    def insert(self, state: str, task: str, worker: str, queue: str, *, at_once: bool) -> None:
        row_id = self.table.insert(state, task)
        row = self.table.open[row_id]
        self.table.open[row_id] = row._replace(worker=worker, queue=queue)
        if at_once:
            self.table.commit(row_id)

    @rule(of=st.sampled_from(MANY), first=st.integers(0, 60), state=st.sampled_from(STATES))
    def insert_many(self, of: str, first: int, state: str) -> None:
        for number in range(first, first + 20):
            labels = {"state": state, "task": "a", "worker": "w", "queue": "q"}
            labels[of] = f"{of} {number}"
            row_id = self.table.add(labels["state"])
            self.table.committed[row_id] = self.table.committed[row_id]._replace(**labels)

    @precondition(lambda self: self.table.open)
    @rule(data=st.data())
    def commit(self, data: st.DataObject) -> None:
        self.table.commit(data.draw(st.sampled_from(sorted(self.table.open))))

    @precondition(lambda self: self._changeable())
    @rule(data=st.data(), state=st.sampled_from(STATES))
    def update(self, data: st.DataObject, state: str) -> None:
        self.table.update(data.draw(st.sampled_from(self._changeable())), state)

    @precondition(lambda self: self._changeable())
    @rule(data=st.data())
    def wipe(self, data: st.DataObject) -> None:
        """Lose all labels, as when another command to revoke comes, and have them again."""
        row_id = data.draw(st.sampled_from(self._changeable()))
        self.poll()
        row = self.table.committed[row_id]
        self.table.committed[row_id] = row._replace(task="", worker="", queue="")
        self.following.poll(61.0)
        self.table.committed[row_id] = row
        self.poll()

    @precondition(lambda self: self.table.committed)
    @rule(data=st.data())
    def delete(self, data: st.DataObject) -> None:
        del self.table.committed[data.draw(st.sampled_from(sorted(self.table.committed)))]

    @rule()
    def poll(self) -> None:
        """Let all that is due be seen, and what must come of it."""
        self.following.poll(61.0)
        for row in self.table.committed.values():
            if row.finished:
                self._see_finished(row)
            else:
                self.unfinished.add(row.id)
                if row.id in self.counted:
                    self.reruns.add(row.id)
        gone = self.unfinished - self.table.committed.keys()
        self.vanished += len(gone)
        self.unfinished -= gone
        self.check()

    def _see_finished(self, row: Row) -> None:
        labels = (row.task, row.state, row.worker, row.queue)
        before = self.counted.get(row.id)
        if before != labels or row.id in self.reruns:
            self.truth[labels] += 1
            self.counted[row.id] = labels
            if before:
                self.revised[before[:2]] += 1
        self.reruns.discard(row.id)
        self.unfinished.discard(row.id)

    def teardown(self) -> None:
        self.poll()

    def check(self) -> None:
        results, revised = self.totals(catalogue.RESULTS), self.totals(catalogue.REVISED)
        named = {labels[0] for labels in results}
        assert self.sums(results, named) == self.sums(self.truth, named)
        assert self.sums(revised, named) == self.sums(self.revised, named)
        for labels, count in results.items():
            if OTHER not in labels:
                assert count == self.truth[labels] or (self.raised and count < self.truth[labels])
        failed = sum(count for labels, count in results.items() if labels[1] == FAILURE)
        assert self.totals(catalogue.FAILURES).total() == failed
        assert self.totals(catalogue.VANISHED).total() == self.vanished
        rows = Counter(self.counted[i] for i, row in self.table.committed.items() if row.finished)
        assert not placed(rows, +results) - results  # `verify` agrees

    def totals(self, metric: Metric) -> Counter[LabelValues]:
        totals = self.tally.values.items()
        return Counter({labels: int(total.value) for (of, labels), total in totals if of is metric})

    def sums(self, counts: Counter[LabelValues], named: set[str]) -> Counter[LabelValues]:
        """Sum up by task and state; where the limit was raised, tasks are in two places."""
        sums: Counter[LabelValues] = Counter()
        for (task, state, *_), count in counts.items():
            sums[task if task in named and not self.raised else OTHER, state] += count
        return +sums

    def _changeable(self) -> list[int]:
        """Return rows that are not SUCCESS, which Celery 5.7 keeps."""
        return [row.id for row in self.table.committed.values() if row.state != SUCCESS]


Crowd.TestCase.settings = settings(max_examples=20 * TIMES, stateful_step_count=30)
TestCrowd = pytest.mark.timeout(1800)(Crowd.TestCase)
