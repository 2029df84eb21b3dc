"""The position against a model of the table: whatever the writers do, each result counts once."""

from __future__ import annotations

import tracemalloc
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from exporter.counting import audit
from exporter.counting.audit import AGES, MOST_TASKS, Found
from exporter.counting.lifecycle import Rules, Watch, slack_shown_by
from exporter.counting.position import MAX_NAMELESS, Position
from exporter.counting.results import (
    OTHER,
    READY_STATES,
    SUCCESS,
    Finished,
    Group,
    Labels,
    Row,
    Vanished,
)
from exporter.counting.spans import LONGEST_MASK, MIN_ID, Span, holes
from exporter.counting.step import Anchor, Batch, Change, Cohort, Horizon, Plan
from exporter.counting.watchlist import FOLDED_STATES, WatchList
from tests.soak.sizes import LONG

TIMES = 40 if LONG else 1  # as many examples
UNFINISHED = ["STARTED", "RETRY", "PROGRESS", ""]
STATES = [*UNFINISHED, "SUCCESS", "FAILURE", "REVOKED"]
TASKS = st.sampled_from(["a", "b", ""])


@dataclass
class Table:
    """A result table as the reader sees it: what is committed, ids drawn before the commit."""

    next_id: int = 1
    committed: dict[int, Row] = field(default_factory=dict)
    open: dict[int, Row] = field(default_factory=dict)
    tasks: int = 0

    def insert(self, state: str, task: str = "a") -> int:
        self.tasks += 1
        row = Row(self.next_id, state, task, "w", "q", 0, None, task_id=f"task {self.tasks}")
        self.open[row.id] = row
        self.next_id += 1
        return row.id

    def anchor(self, row_id: int) -> Anchor:
        return Anchor(row_id, self.committed[row_id].task_id)

    def commit(self, row_id: int) -> None:
        self.committed[row_id] = self.open.pop(row_id)

    def add(self, state: str, task: str = "a") -> int:
        row_id = self.insert(state, task)
        self.commit(row_id)
        return row_id

    def update(self, row_id: int, state: str, task: str | None = None) -> None:
        row = self.committed[row_id]
        self.committed[row_id] = row._replace(state=state, task=row.task if task is None else task)

    def relabel(self, row_id: int, task: str, worker: str) -> None:
        self.committed[row_id] = self.committed[row_id]._replace(task=task, worker=worker)

    def revoke(self, done: float | None = None) -> int:
        """Store what the command to revoke stores: no name, no worker, no queue."""
        row_id = self.add("REVOKED", task="")
        row = self.committed[row_id]
        self.committed[row_id] = row._replace(worker="", queue="", done=done)
        return row_id

    def discard(self, row_id: int, task: str, done: float | None = None) -> None:
        """Store what the worker stores when a revoked task is due."""
        row = self.committed[row_id]
        self.committed[row_id] = row._replace(task=task, worker="w", queue="q", done=done)

    def touch(self, row_id: int, done: float) -> None:
        self.committed[row_id] = self.committed[row_id]._replace(done=done)

    def read(self, plan: Plan, horizon: Horizon | None = None) -> Batch:
        ids = sorted(self.committed)
        top = ids[-1] if ids else None
        known = {a.id: self.committed[a.id].task_id for a in plan.anchors if a.id in ids}
        held = not plan.anchors or known.get(plan.anchors[-1].id) == plan.anchors[-1].key
        bottom = self.anchor(ids[0]) if ids else None
        if plan.look:
            recent = holes([i for i in ids if top is not None and i > top - 1000])
            below = [r for r in self.committed.values() if not r.finished]
            return Batch(
                plan,
                top,
                bottom,
                self.anchor(top) if top is not None else None,
                holes=tuple(recent),
                below_rows=tuple(below),
                horizon=horizon,
            )
        found = None
        if plan.audit is not None:
            lo, hi = plan.audit.segment.span
            rows = [row for row in self.committed.values() if lo <= row.id <= hi]
            successes = Counter(row.task for row in rows if row.state == SUCCESS)
            others = [r for r in rows if r.state != SUCCESS and r.id not in plan.audit.known]
            if not audit.missing(plan.audit.segment.counted, successes):
                others = []  # the reader does not look, then
            found = Found(successes, tuple(others))
        changed = [
            row_id
            for cohort in plan.cohorts
            for row_id in cohort.ids
            if (row := self.committed.get(row_id)) is None
            or not plan.known[row_id].shows((row.state, row.task, row.worker, row.queue))
        ]
        new = [i for i in ids if plan.after is None or i > plan.after][: plan.chunk]
        rows = [self.committed[i] for i in new]
        good = Counter((r.task, r.worker, r.queue) for r in rows if r.state == SUCCESS)
        start = [] if plan.after is None else [plan.after]
        return Batch(
            plan,
            top,
            bottom,
            self.anchor(new[-1]) if new else None,
            held,
            {} if held else known,
            () if held else tuple(i for i in ids if i < plan.anchors[0].id),
            upto=new[-1] if new else None,
            first=new[0] if new else None,
            groups=tuple(Group(SUCCESS, *key, n, 0, None) for key, n in good.items()),
            rows=tuple(r for r in rows if r.state != SUCCESS),
            holes=tuple(holes([*start, *new])),
            late=tuple(self.committed[i] for i in ids if any(i in gap for gap in plan.gaps)),
            digests=((),) * len(plan.cohorts),
            changed=tuple(changed),
            watched=tuple(
                self.committed[i] for i in (*plan.watched, *changed) if i in self.committed
            ),
            reappeared=tuple(
                i for i in ids if plan.deleted and plan.deleted.lo <= i <= plan.deleted.hi
            ),
            found=found,
            named=any(r.task for r in rows),
            horizon=horizon,
        )


@dataclass
class Counted:
    """What the outcomes add up to."""

    results: Counter[tuple[str, str]] = field(default_factory=Counter)
    revised: Counter[tuple[str, str]] = field(default_factory=Counter)
    by_labels: Counter[Labels] = field(default_factory=Counter)
    vanished: int = 0

    def take(self, outcomes: list[Finished | Vanished]) -> None:
        for outcome in outcomes:
            if isinstance(outcome, Vanished):
                self.vanished += 1
                continue
            self.results[outcome.task, outcome.state] += outcome.rows
            self.by_labels[outcome[:4]] += outcome.rows
            if outcome.revises:
                self.revised[outcome.revises] += 1

    @property
    def net(self) -> Counter[tuple[str, str]]:
        return +(self.results - self.revised)


class Following:
    """A position that polls a table."""

    def __init__(self, table: Table, **rules: object) -> None:
        self.table = table
        defaults = {"start": "beginning", "poll_interval": 1.0, "cohort": 3, "cohorts_a_step": 2}
        graces = {"late_commit_grace": 1e9, "revision_window": 1e9}
        self.position = Position(Rules(**{**defaults, **graces, **rules}))
        self.counted = Counted()
        self.now = 1000.0
        self.late = self.expired = self.resets = 0
        self.take_over: Callable[[Change], None] | None = None  # instead of applying at once

    def restart(self, **rules: object) -> Following:
        before = self.position
        self.position = Position(replace(before.rules, **rules))
        self.position.restore(before.mark, before.gaps, before.segments, before.watched)
        return self

    def poll(self, after: float = 1.0, horizon: Horizon | None = None) -> Following:
        self.now += after
        while True:
            self.position.pass_to(self.now)
            batch = self.table.read(self.position.plan(self.now), horizon)
            change = self.position.advance(batch, self.now)
            (self.take_over or self.position.apply)(change)
            self.counted.take(change.outcomes)
            self.late += change.late_rows
            self.expired += change.expired_ids
            self.resets += change.resets
            if not self.position.busy(self.now):
                return self

    def cohorts_of_a_poll(self) -> list[Cohort]:
        """Poll; return the cohorts that were looked at."""
        looked_at: list[Cohort] = []
        self.take_over = lambda change: self._apply(change, looked_at)
        self.poll(self.position.rules.poll_interval)
        return looked_at

    def _apply(self, change: Change, looked_at: list[Cohort]) -> None:
        looked_at += [cohort for cohort, _ in change.cohorts]
        self.position.apply(change)


class ManyWriters(RuleBasedStateMachine):
    """Insert, commit late and out of order, roll back, update, overwrite, delete, truncate."""

    label_sets = Rules().label_sets
    new_table = Table

    def __init__(self) -> None:
        super().__init__()
        self.table = self.new_table()
        # Nothing is held for its name.
        self.following = Following(self.table, named=False, label_sets=self.label_sets)
        self.net: dict[tuple[int, int], Labels] = {}  # last seen by a poll, finished
        self.epoch = 0

    @rule(state=st.sampled_from(STATES), task=TASKS, at_once=st.booleans())
    def insert(self, state: str, task: str, *, at_once: bool) -> None:
        row = self.table.insert(state, task)
        if at_once:
            self.table.commit(row)

    @precondition(lambda self: self.table.open)
    @rule(data=st.data(), keep=st.booleans())
    def end_transaction(self, data: st.DataObject, *, keep: bool) -> None:
        row = data.draw(st.sampled_from(sorted(self.table.open)))
        if keep:
            self.table.commit(row)
        else:
            del self.table.open[row]

    @rule(jump=st.integers(1, 3000))
    def draw_ids_in_vain(self, jump: int) -> None:
        self.table.next_id += jump

    @precondition(lambda self: self.table.committed)
    @rule(data=st.data(), state=st.sampled_from(STATES))
    def update(self, data: st.DataObject, state: str) -> None:
        row = data.draw(st.sampled_from(sorted(self.table.committed)))
        if self.table.committed[row].state != SUCCESS:  # Celery 5.7 keeps SUCCESS
            self.table.update(row, state)

    @precondition(lambda self: self.table.committed)
    @rule(data=st.data(), task=TASKS, worker=st.sampled_from(["w", "v", ""]))
    def relabel(self, data: st.DataObject, task: str, worker: str) -> None:
        """Let labels come late, or another worker write the same state."""
        row = data.draw(st.sampled_from(sorted(self.table.committed)))
        if self.table.committed[row].state != SUCCESS:  # which is written with its labels
            self.table.relabel(row, task, worker)

    @precondition(lambda self: self.table.committed)
    @rule(data=st.data())
    def delete(self, data: st.DataObject) -> None:
        del self.table.committed[data.draw(st.sampled_from(sorted(self.table.committed)))]

    @precondition(lambda self: not self.table.open and self.table.committed)
    @rule()
    def truncate(self) -> None:
        """Ids begin again; the model polls once while the table is empty."""
        self.poll(60.0)
        self.table.committed.clear()
        self.table.next_id = 1
        self.poll(60.0)
        self.epoch += 1

    @precondition(lambda self: not self.table.open and self.table.committed)
    @rule(states=st.lists(st.sampled_from(STATES), min_size=1, max_size=12))
    def truncate_between_two_polls(self, states: list[str]) -> None:
        """Ids begin again, and may have passed the cursor before anybody looks."""
        self.table.committed.clear()
        self.table.next_id = 1
        self.epoch += 1
        for state in states:
            self.table.add(state)

    @rule(after=st.floats(0.1, 100.0))
    def poll(self, after: float) -> None:
        self.following.poll(after)
        if after >= 60.0:  # everything was due
            self._see()

    @invariant()
    def everything_counts_once(self) -> None:
        """After a poll at which all was due, the counts are what was seen."""
        self.following.poll(61.0)
        self._see()
        truth = Counter(self.net.values())
        by_task = Counter((task, state) for state, task, _, _ in truth.elements())
        assert self.following.counted.net == by_task
        assert self.following.counted.by_labels >= truth
        unfinished = Counter(
            (r.task, r.state) for r in self.table.committed.values() if not r.finished
        )
        watched: Counter[tuple[str, str]] = Counter()
        for (task, state, _, _), count in self.following.position.unfinished.items():
            watched[task, state] += count
        self.are_unfinished(+watched, unfinished)
        position = self.following.position
        gathered = [row_id for cohort in position.rechecks.cohorts for row_id in cohort.ids]
        assert sorted(gathered) == [
            i for i in sorted(position.watched) if i not in position.rechecks
        ]

    def are_unfinished(
        self, watched: Counter[tuple[str, str]], unfinished: Counter[tuple[str, str]]
    ) -> None:
        assert watched == unfinished

    def _see(self) -> None:
        for row in self.table.committed.values():
            if row.state in READY_STATES:
                self.net[self.epoch, row.id] = row.labels


ManyWriters.TestCase.settings = settings(max_examples=100 * TIMES, stateful_step_count=30)
TestManyWriters = pytest.mark.timeout(1800)(ManyWriters.TestCase)


class ManyLabels(ManyWriters):
    """The same where there is hardly room for labels: only the gauges lose some of theirs."""

    label_sets = 1

    @precondition(lambda self: self._nameless())
    @rule(data=st.data(), task=st.sampled_from("ab"), worker=st.sampled_from(["w", "v", ""]))
    def relabel(self, data: st.DataObject, task: str, worker: str) -> None:
        """Let a name come late: that there was none is known of every row."""
        self.table.relabel(data.draw(st.sampled_from(self._nameless())), task, worker)

    def _nameless(self) -> list[int]:
        rows = self.table.committed.values()
        return [row.id for row in rows if not row.task and row.state != SUCCESS]

    def are_unfinished(
        self, watched: Counter[tuple[str, str]], unfinished: Counter[tuple[str, str]]
    ) -> None:
        assert _by_state(watched) == _by_state(unfinished)
        for labels, count in watched.items():
            assert count <= unfinished[labels] or labels[0] == OTHER


def _by_state(counts: Counter[tuple[str, str]]) -> Counter[str]:
    sums: Counter[str] = Counter()
    for (_, state), count in counts.items():
        sums[state] += count
    return sums


ManyLabels.TestCase.settings = ManyWriters.TestCase.settings
TestManyLabels = pytest.mark.timeout(1800)(ManyLabels.TestCase)


WINDOW = 3600.0  # seconds


class Overwriting(RuleBasedStateMachine):
    """Celery up to 5.6: every state overwrites every other. In the end the counts are the table."""

    label_sets = Rules().label_sets

    def __init__(self) -> None:
        super().__init__()
        self.table = Table()
        rules = {"revision_window": WINDOW, "label_sets": self.label_sets}
        self.following = Following(self.table, **rules).poll()
        self.began = self.following.now

    @rule(state=st.sampled_from(STATES), task=st.sampled_from("ab"))
    def insert(self, state: str, task: str) -> None:
        self.table.insert(state, task)

    @rule(task=st.sampled_from("ab"))
    def succeed(self, task: str) -> None:
        """Be counted as a success, most of them before they are overwritten."""
        self.table.add(SUCCESS, task)
        self.following.poll(0.1)

    @precondition(lambda self: self.table.open)
    @rule(data=st.data())
    def commit(self, data: st.DataObject) -> None:
        self.table.commit(data.draw(st.sampled_from(sorted(self.table.open))))

    @precondition(lambda self: self.table.committed)
    @rule(data=st.data(), state=st.sampled_from(STATES))
    def overwrite(self, data: st.DataObject, state: str) -> None:
        self.table.update(data.draw(st.sampled_from(sorted(self.table.committed))), state)

    @rule(after=st.floats(0.1, 100.0))
    def poll(self, after: float) -> None:
        if self.following.now + after < self.began + WINDOW * AGES[-2]:
            self.following.poll(after)

    def teardown(self) -> None:
        """Let all end well, and what was read last grow old."""
        self.following.poll(1.0)
        for row in self.table.committed.values():
            if not row.finished:
                self.table.update(row.id, SUCCESS)
        for _ in range(round(WINDOW / 60.0) + 1):
            self.following.poll(60.0)
        truth = Counter((row.task, row.state) for row in self.table.committed.values())
        assert self.following.counted.net == truth
        assert self.following.position.segments == ()


Overwriting.TestCase.settings = settings(max_examples=50 * TIMES, stateful_step_count=30)
TestOverwriting = pytest.mark.timeout(1800)(Overwriting.TestCase)


class OverwritingManyLabels(Overwriting):
    """The same where there is hardly room for labels."""

    label_sets = 1


OverwritingManyLabels.TestCase.settings = Overwriting.TestCase.settings
TestOverwritingManyLabels = pytest.mark.timeout(1800)(OverwritingManyLabels.TestCase)


GRACE = 300.0  # seconds


class LateNames(RuleBasedStateMachine):
    """Revoked tasks get their names now or days later; in the end the counts are the table."""

    label_sets = Rules().label_sets

    def __init__(self) -> None:
        super().__init__()
        self.table = Table()
        self.table.add(SUCCESS)  # so that rows are known to have names
        rules = {"late_commit_grace": GRACE, "revision_window": WINDOW}
        rules |= {"label_sets": self.label_sets}
        self.following = Following(self.table, **rules).poll()

    @rule()
    def revoke(self) -> None:
        self.table.revoke(self.following.now)

    @rule(state=st.sampled_from(["STARTED", "FAILURE"]), task=st.sampled_from("ab"))
    def insert(self, state: str, task: str) -> None:
        self.table.add(state, task)

    @precondition(lambda self: self._revoked(named=False))
    @rule(data=st.data(), task=st.sampled_from("ab"))
    def discard(self, data: st.DataObject, task: str) -> None:
        row = data.draw(st.sampled_from(self._revoked(named=False)))
        self.table.discard(row, task, self.following.now)

    @precondition(lambda self: self._revoked(named=True))
    @rule(data=st.data(), after=st.floats(0.1, GRACE / 2))
    def revoke_again(self, data: st.DataObject, after: float) -> None:
        """Wipe the name, as Celery 5.6.2 does, and perhaps have it again."""
        row = data.draw(st.sampled_from(self._revoked(named=True)))
        task = self.table.committed[row].task
        self.table.relabel(row, "", "")
        self.table.touch(row, self.following.now)
        self.following.poll(after)
        self.table.relabel(row, task, "w")
        self.following.poll(61.0)

    @rule(after=st.sampled_from([0.1, 10.0, GRACE, WINDOW, 30 * WINDOW]))
    def poll(self, after: float) -> None:
        self.following.poll(after)

    def _revoked(self, *, named: bool) -> list[int]:
        rows = self.table.committed.values()
        return [row.id for row in rows if row.state == "REVOKED" and bool(row.task) is named]

    def teardown(self) -> None:
        """Let all that is held count."""
        self.following.poll(61.0)
        self.following.poll(GRACE)
        truth = Counter(row.labels for row in self.table.committed.values() if row.finished)
        by_task = Counter((task, state) for state, task, _, _ in truth.elements())
        assert self.following.counted.net == by_task
        assert self.following.counted.by_labels >= truth


LateNames.TestCase.settings = settings(max_examples=50 * TIMES, stateful_step_count=30)
TestLateNames = pytest.mark.timeout(1800)(LateNames.TestCase)


class LateNamesManyLabels(LateNames):
    """The same where there is hardly room for labels: that there is no name is known of any row."""

    label_sets = 1


LateNamesManyLabels.TestCase.settings = LateNames.TestCase.settings
TestLateNamesManyLabels = pytest.mark.timeout(1800)(LateNamesManyLabels.TestCase)


def test_overwritten_success_is_revised() -> None:
    table = Table()
    for task in "aaabbb":
        table.add(SUCCESS, task)
    following = Following(table, revision_window=WINDOW).poll()
    table.update(2, "FAILURE")
    table.update(5, "STARTED")
    following.poll(WINDOW * AGES[0])
    assert following.counted.results["a", "FAILURE"] == 1
    assert following.counted.revised == {("a", SUCCESS): 1}
    table.update(5, SUCCESS)
    following.poll(60.0)
    assert following.counted.net == {("a", SUCCESS): 2, ("a", "FAILURE"): 1, ("b", SUCCESS): 3}
    assert following.counted.revised == {("a", SUCCESS): 1, ("b", SUCCESS): 1}


def test_revoking_wipes_the_name_of_a_success() -> None:
    """Celery 5.6.2: it is the task that lacks one; where two tasks do, it has no name."""
    table = Table()
    for task in "aaabbb":
        table.add(SUCCESS, task)
    following = Following(table, revision_window=WINDOW, late_commit_grace=10.0).poll()
    table.update(2, "REVOKED", task="")
    following.poll(WINDOW * AGES[0]).poll(20.0)
    assert following.counted.revised == {("a", SUCCESS): 1}
    table.update(3, "REVOKED", task="")
    table.update(4, "REVOKED", task="")
    following.poll(WINDOW * AGES[1]).poll(20.0)
    assert following.counted.revised == {("a", SUCCESS): 1, ("", SUCCESS): 2}
    assert following.counted.results["", "REVOKED"] == 3


def test_successes_of_rare_tasks_are_audited_together() -> None:
    """A million names within an hour are no reason to grow."""
    table = Table()
    for number in range(3 * MOST_TASKS):
        table.add(SUCCESS, f"task {number}")
        table.add(SUCCESS, "often")
    following = Following(table, revision_window=WINDOW, late_commit_grace=10.0).poll()
    (segment,) = following.position.segments
    assert len(segment.counted) == MOST_TASKS
    assert segment.counted["often"] == 3 * MOST_TASKS
    assert sum(segment.counted.values()) == 6 * MOST_TASKS
    of = {row.task: row.id for row in table.committed.values()}
    rare = next(task for task in of if task not in segment.counted)
    wiped = next(task for task in of if task not in segment.counted and task != rare)
    deleted = next(task for task in of if task not in segment.counted and task not in (rare, wiped))
    table.update(of[rare], "FAILURE")
    table.update(of["often"], "FAILURE")
    following.poll(WINDOW * AGES[0])
    assert following.counted.revised == {(rare, SUCCESS): 1, ("often", SUCCESS): 1}
    table.update(of[wiped], "REVOKED", task="")
    del table.committed[of[deleted]]
    table.add(SUCCESS, deleted)
    following.poll(WINDOW * AGES[1]).poll(20.0)
    assert following.counted.revised["", SUCCESS] == 1
    assert sum(following.counted.revised.values()) == 3
    following.poll(WINDOW)
    assert sum(following.counted.revised.values()) == 3


def test_task_that_is_not_told_apart_in_an_audit_never_will_be() -> None:
    """Some of its successes were counted together with others."""
    names = {f"task {number}": 2 for number in range(MOST_TASKS)}
    (full,) = audit.extend((), Span(1, 2 * MOST_TASKS + 1), names | {"x": 1}, 0.0, WINDOW)
    assert full.counted[OTHER] == 3
    seen = {name: 2 for name in full.counted if name != OTHER}
    (seen,) = audit.looked_at(
        (full,), full.span, dict(list(seen.items())[:5]) | {"x": 1}, 1, WINDOW
    )
    assert (len(seen.counted), seen.counted[OTHER]) == (6, 1)
    (more,) = audit.credit((seen,), [(1, "x")])
    assert more.counted[OTHER] == 2
    assert not audit.missing(more.counted, more.counted | {OTHER: 0, "x": 2})


def test_deleted_success_is_no_revision() -> None:
    table = Table()
    for _ in range(5):
        table.add(SUCCESS)
    failed = table.add("FAILURE")
    following = Following(table, revision_window=WINDOW).poll()
    for row in (1, 2, failed):
        del table.committed[row]
    table.add("FAILURE")
    for _ in range(round(WINDOW / 60.0)):
        following.poll(60.0)
    assert following.counted.revised == {}
    assert following.counted.results == {("a", SUCCESS): 5, ("a", "FAILURE"): 2}


def test_success_that_comes_during_an_audit_hides_no_other_that_went() -> None:
    table = Table()
    for state in (SUCCESS, SUCCESS, "STARTED"):
        row = table.add(state)
    following = Following(table, revision_window=WINDOW).poll()
    table.update(1, "FAILURE")
    table.update(row, SUCCESS)
    following.poll(WINDOW * AGES[0])
    assert following.counted.net == {("a", SUCCESS): 2, ("a", "FAILURE"): 1}


def test_failure_is_blamed_for_no_success_where_the_window_was_raised() -> None:
    """The watch of a failure ends by the rules of its time, and then nobody knows it any more."""
    table = Table()
    for state in (SUCCESS, SUCCESS, "FAILURE"):
        table.add(state)
    following = Following(table, revision_window=WINDOW).poll().poll()
    following.restart(revision_window=24 * WINDOW)
    for _ in range(round(WINDOW / 60.0) + 2):
        following.poll(60.0)
    del table.committed[1]
    for _ in range(round(24 * WINDOW / 600.0)):
        following.poll(600.0)
    assert following.counted.results == {("a", SUCCESS): 2, ("a", "FAILURE"): 1}
    assert following.counted.revised == {}


def test_audits_pass_over_what_nobody_counted() -> None:
    """Successes of history that lie between two ranges would hide what is missing from these."""
    first = audit.extend((), Span(1, 6), {"a": 6}, now=0.0, window=64.0)
    beside = audit.extend(first, Span(7, 9), {"a": 3}, now=0.1, window=64.0)
    assert [(some.span, some.counted) for some in beside] == [(Span(1, 9), {"a": 9})]
    beyond = audit.extend(first, Span(8, 9), {"a": 2}, now=0.1, window=64.0)
    assert [some.span for some in beyond] == [Span(1, 6), Span(8, 9)]


@pytest.mark.parametrize(
    ("oldest", "hours"), [(None, 26), (-40, 26), (-8, 9), (0, 1), (9, 1)], ids=str
)
def test_newest_results_bound_what_dates_may_be_off_by(oldest: int | None, hours: int) -> None:
    now = 1.7e9
    shown = slack_shown_by(None if oldest is None else now + 3600.0 * oldest, now)
    assert shown == 3600.0 * hours


def test_open_gap_is_not_counted_as_ids() -> None:
    """Below the first row of all, anything may come; that is no number of ids."""
    table = Table(next_id=100)
    table.add(SUCCESS)
    following = Following(table, late_commit_grace=5.0).poll()
    assert following.position.gaps[0].span == Span(MIN_ID, 99)
    assert following.position.gap_ids == 0
    following.poll(10.0)
    assert following.position.gaps == ()
    assert following.expired == 0


@pytest.mark.parametrize("increment", [2, 3, 7])
def test_increments_make_few_gaps(increment: int) -> None:
    """Galera's nodes take turns with ids: here one node writes, then another, long after."""
    table = Table()
    rows = 9_000
    for _ in range(rows):
        table.add(SUCCESS)
        table.next_id += increment - 1
    following = Following(table).poll()
    assert following.position.gap_ids == rows * (increment - 1) - (increment - 1)
    assert len(following.position.gaps) <= rows * increment / LONGEST_MASK + 3
    for row_id in range(2, rows * increment, 10 * increment):
        table.committed[row_id] = Row(row_id, SUCCESS, "b", "w", "q", 0, None)
    following.poll(10.0).poll(10.0)
    assert following.counted.results == {("a", SUCCESS): rows, ("b", SUCCESS): rows / 10}
    assert following.late == rows / 10
    assert following.expired == 0


def test_gap_expires_after_the_grace() -> None:
    table = Table()
    table.add(SUCCESS)
    lost = table.insert(SUCCESS)
    table.add(SUCCESS)
    following = Following(table, late_commit_grace=5.0).poll().poll()
    assert following.position.gap_ids == 1
    following.poll(6.0)
    assert (following.position.gap_ids, following.expired) == (0, 1)
    table.commit(lost)
    assert following.poll(60.0).counted.results["a", SUCCESS] == 2


def test_gap_is_final_once_all_transactions_of_its_time_have_ended() -> None:
    """PostgreSQL says so; but not before the gap's id surely had a transaction id."""
    table = Table()
    table.add(SUCCESS)
    table.insert(SUCCESS)
    table.add(SUCCESS)
    following = Following(table).poll(horizon=Horizon(10, 12))
    following.poll(horizon=Horizon(10, 20))
    assert following.position.gaps[-1].horizon == 20
    following.poll(horizon=Horizon(19, 25))
    assert following.position.gap_ids == 1
    following.poll(horizon=Horizon(20, 30))
    assert (following.position.gap_ids, following.expired) == (0, 1)


def test_start_at_the_end_waits_for_open_transactions() -> None:
    table = Table()
    table.add(SUCCESS)
    late = table.insert(SUCCESS)
    table.add(SUCCESS)
    following = Following(table, start="end").poll()
    table.commit(late)
    following.poll()
    assert following.counted.results == {("a", SUCCESS): 1}
    assert following.late == 1


def test_second_write_of_the_same_state_counts_nothing() -> None:
    """A hard time limit stores the failure twice."""
    table = Table()
    row = table.add("FAILURE")
    following = Following(table).poll()
    table.committed[row] = table.committed[row]._replace(done=following.now, retries=1)
    assert following.poll().counted.results == {("a", "FAILURE"): 1}


@pytest.mark.parametrize("labels", [("b", "w"), ("a", "v")], ids=["replaced", "redelivered"])
def test_same_state_under_other_labels_is_a_revision(labels: tuple[str, str]) -> None:
    table = Table()
    row = table.add("FAILURE")
    following = Following(table).poll()
    table.relabel(row, *labels)
    following.poll()
    task, worker = labels
    assert following.counted.by_labels["FAILURE", task, worker, "q"] == 1
    assert following.counted.revised == {("a", "FAILURE"): 1}
    assert following.counted.net == {(task, "FAILURE"): 1}


def test_same_state_after_another_run_counts_again() -> None:
    table = Table()
    row = table.add("FAILURE")
    following = Following(table).poll()
    table.update(row, "STARTED")
    following.poll()
    table.update(row, "FAILURE")
    following.poll()
    assert following.counted.results == {("a", "FAILURE"): 2}
    assert following.counted.revised == {("a", "FAILURE"): 1}


def test_revisions_are_seen_within_the_window_only() -> None:
    table = Table()
    row = table.add("FAILURE")
    following = Following(table, revision_window=100.0).poll()
    following.poll(101.0)
    assert following.position.watched == {}
    table.update(row, SUCCESS)
    assert following.poll(61.0).counted.results == {("a", "FAILURE"): 1}


def test_revoked_row_is_held_until_named() -> None:
    table = Table()
    table.add(SUCCESS)
    row = table.add("REVOKED", task="")
    following = Following(table, late_commit_grace=100.0).poll()
    assert following.counted.results == {("a", SUCCESS): 1}
    table.update(row, "REVOKED", task="b")
    assert following.poll().counted.results["b", "REVOKED"] == 1
    assert sum(following.counted.results.values()) == 2


def test_held_row_counts_nameless_after_the_grace_or_when_deleted() -> None:
    table = Table()
    table.add(SUCCESS)
    table.add("REVOKED", task="")
    gone = table.add("FAILURE", task="")
    following = Following(table, late_commit_grace=50.0).poll()
    del table.committed[gone]
    following.poll(60.0)
    assert following.counted.results["", "REVOKED"] == 1
    assert following.counted.results["", "FAILURE"] == 1
    assert following.poll(60.0).counted.results["", "REVOKED"] == 1


@pytest.mark.parametrize("rows", [1, 3])  # alone, in a cohort
@pytest.mark.parametrize("later", [60.0, 7200.0, 3 * 86400.0])
def test_name_that_comes_after_the_grace_is_a_revision(later: float, rows: int) -> None:
    """A task with an ETA that is revoked gets its name when it is due."""
    table = Table()
    table.add(SUCCESS)
    following = Following(table, late_commit_grace=50.0, revision_window=3600.0).poll()
    revoked = [table.revoke(following.now) for _ in range(rows)]
    following.poll().poll(60.0)
    assert following.counted.net == {("a", SUCCESS): 1, ("", "REVOKED"): rows}
    following.poll(later)
    for row in revoked:
        table.discard(row, "a", following.now)
    following.poll(61.0)
    assert following.counted.net == {("a", SUCCESS): 1, ("a", "REVOKED"): rows}
    assert following.counted.revised == {("", "REVOKED"): rows}
    following.poll(3600.0)
    assert following.position.watched == {}


def wiped() -> tuple[Table, Following, int]:
    """Follow a revoked row that has counted with its name, and has lost it."""
    table = Table()
    table.add(SUCCESS)
    following = Following(table, late_commit_grace=100.0).poll()
    row = table.add("REVOKED", "b")
    following.poll()
    table.relabel(row, "", "")
    return table, following.poll(), row


def test_name_that_is_wiped_and_comes_again_counts_nothing() -> None:
    """Celery 5.6.2 revokes once for each worker process, some perhaps after the discard."""
    table, following, row = wiped()
    table.relabel(row, "b", "w")
    following.poll()
    assert following.counted.results == {("a", SUCCESS): 1, ("b", "REVOKED"): 1}


def test_name_that_is_wiped_for_good_is_a_revision() -> None:
    _, following, _ = wiped()
    following.poll(101.0)
    assert following.counted.results["", "REVOKED"] == 1
    assert following.counted.revised == {("b", "REVOKED"): 1}


def test_folded_name_that_is_wiped_is_taken_for_still_there() -> None:
    """It may be known to the counter: a revision from no name in particular would undo nothing."""
    table = Table()
    table.add(SUCCESS)
    rules = {"late_commit_grace": GRACE, "revision_window": WINDOW}
    following = Following(table, label_sets=1, **rules).poll()
    row = table.revoke(following.now)
    table.discard(row, "b", following.now)
    table.revoke(following.now)
    for pause, held in ((0.1, 1.0), (30 * WINDOW, 60.0)):
        following.poll(pause)
        table.relabel(row, "", "")  # its name is known when this comes, but not when it is kept
        following.poll(held)
        table.relabel(row, "b", "w")
    following.poll(GRACE)
    assert following.counted.net["b", "REVOKED"] == 1


def test_folded_name_that_is_wiped_for_good_is_not_waited_for_without_end() -> None:
    table = Table()
    table.add(SUCCESS)
    following = Following(table, label_sets=0, revision_window=WINDOW).poll()
    row = table.add("FAILURE", "b")
    following.poll()
    table.relabel(row, "", "")
    for _ in range(3):
        following.poll(WINDOW / 2)
    assert following.position.watched == {}


def test_run_time_of_a_row_that_is_folded_begins_once() -> None:
    """However many states somebody makes up: Celery's own are always kept."""
    table = Table()
    table.add(SUCCESS)
    following = Following(table, label_sets=0, poll_interval=15.0).poll()
    for number in range(2 * FOLDED_STATES):
        table.add(f"STATE {number}", f"task {number}")
    row = table.add("STARTED")
    retried = table.add("STARTED")
    changes: list[Change] = []

    def take_over(change: Change) -> None:
        changes.append(change)
        following.position.apply(change)

    following.take_over = take_over
    following.poll()
    table.update(retried, "RETRY")
    for _ in range(4):
        following.poll(60.0)
    table.update(retried, "STARTED")
    following.poll(60.0).poll(60.0)
    table.update(row, SUCCESS)
    table.update(retried, SUCCESS)
    following.poll(60.0)
    outcomes = [outcome for change in changes for outcome in change.outcomes]
    assert sorted(o.runtime for o in outcomes if isinstance(o, Finished)) == [120.0, 420.0]


def test_rows_without_a_name_are_watched_beyond_the_window_while_there_are_few() -> None:
    table = Table()
    table.add(SUCCESS)
    following = Following(table, cohort=1000, revision_window=100.0, late_commit_grace=10.0).poll()
    for _ in range(MAX_NAMELESS + 500):
        table.revoke(following.now)
    for after in (61.0, 61.0, 101.0, 61.0, 101.0):
        following.poll(after)
    assert following.counted.results["", "REVOKED"] == MAX_NAMELESS + 500
    assert following.position.watched.nameless <= MAX_NAMELESS
    table.committed.clear()
    following.poll(61.0)
    assert (following.position.watched.nameless, following.position.watched) == (0, {})


def test_history_without_names_is_not_waited_for() -> None:
    """It would be a spike later; what finished just now may still get a name."""
    table = Table()
    table.add(SUCCESS)
    now = 100_000.0
    for age in (72_000.0, 600.0, -36_000.0):  # with a wrong zone history may seem to come
        table.revoke(now - age)
    table.revoke(now - 5.0)
    following = Following(table, late_commit_grace=300.0)
    following.now = now
    assert following.poll().counted.results == {("a", SUCCESS): 1, ("", "REVOKED"): 3}
    table.discard(2, "b", following.now)
    assert following.poll(61.0).counted.net["b", "REVOKED"] == 1
    assert following.poll(300.0).counted.net["", "REVOKED"] == 3


def test_where_nothing_waits_for_a_name_what_is_held_counts() -> None:
    """`once` reads to the end; what a checkpoint holds counts, too, and is a revision if named."""
    table = Table()
    table.add(SUCCESS)
    following = Following(table).poll()
    table.revoke(following.now)
    assert following.poll().counted.results == {("a", SUCCESS): 1}
    following.position.rules = replace(following.position.rules, waits=False)
    table.revoke(following.now)
    assert following.poll().counted.results["", "REVOKED"] == 2


def test_nothing_is_held_where_no_row_has_a_name() -> None:
    """With result_extended off all names are NULL, for ever."""
    table = Table()
    table.add("FAILURE", task="")
    assert Following(table).poll().counted.results == {("", "FAILURE"): 1}
    assert Following(table, named=True).poll().counted.results == {}


def test_deleted_tail_is_no_reset() -> None:
    table = Table()
    for _ in range(10):
        table.add(SUCCESS)
    following = Following(table).poll()
    for row in range(5, 11):
        del table.committed[row]
    following.poll()
    table.add(SUCCESS)
    following.poll()
    assert (following.resets, following.counted.results["a", SUCCESS]) == (0, 11)


def test_late_row_below_a_deleted_tail_counts_once() -> None:
    """It comes in the very poll in which ids go on above what was deleted."""
    table = Table()
    late = table.insert("FAILURE")
    table.add(SUCCESS)
    following = Following(table).poll()
    del table.committed[2]
    following.poll(61.0)
    table.commit(late)
    table.add(SUCCESS)
    following.poll(61.0).poll(61.0)
    assert following.counted.results == {("a", SUCCESS): 2, ("a", "FAILURE"): 1}


def test_ids_that_begin_again_in_part_leave_history_history() -> None:
    table = Table()
    for _ in range(10):
        table.add(SUCCESS)
    following = Following(table, start="end").poll()
    for row in range(6, 11):
        del table.committed[row]
    following.poll(61.0)
    table.next_id = 6
    table.add(SUCCESS)
    following.poll(61.0)
    assert (following.resets, following.position.origin) == (1, 5)
    assert following.counted.results == {("a", SUCCESS): 1}


def test_one_poll_after_a_restart_sees_all_that_is_watched() -> None:
    """`once` has no other, however many take turns."""
    table = Table()
    rows = [table.add("STARTED") for _ in range(30)]
    following = Following(table, poll_interval=15.0).poll().poll(30.0)
    for row in rows:
        table.update(row, SUCCESS)
    following.restart().poll(1000.0)
    assert following.counted.results == {("a", SUCCESS): 30}


@pytest.mark.parametrize("rows", [1, 3])  # alone, in a cohort
def test_clock_set_back_delays_nothing(rows: int) -> None:
    table = Table()
    for _ in range(rows):
        row = table.add("STARTED")
    following = Following(table).poll().poll()
    table.update(row, SUCCESS)
    following.poll(after=-3600.0)
    assert following.counted.results == {("a", SUCCESS): 1}


@pytest.mark.parametrize("restart", [False, True])
def test_nothing_waits_for_a_clock_set_back_to_return(*, restart: bool) -> None:
    """Each wait lasts as long again as it may last at most: a held row, a gap, a watch."""
    table = Table()
    following = Following(table, late_commit_grace=60.0, revision_window=600.0, named=True)
    following.now = 1e6
    table.add("FAILURE")
    table.insert(SUCCESS)
    table.add("FAILURE", task="")
    table.add("STARTED")
    following.poll()
    if restart:
        following.restart()
    following.poll(after=-36_000.0)
    assert following.position.oldest() == {("a", "STARTED"): following.now}
    following.poll(after=61.0)
    assert following.counted.results == {("a", "FAILURE"): 1, ("", "FAILURE"): 1}
    assert (following.expired, following.position.gap_ids) == (1, 0)
    following.poll(after=660.0)
    assert [watch.state for watch in following.position.watched.values()] == ["STARTED"]


def test_no_audit_waits_for_a_clock_set_back_to_return() -> None:
    table = Table()
    following = Following(table, revision_window=600.0, named=True)
    following.now = 1e6
    table.add(SUCCESS)
    following.poll()
    following.poll(after=-36_000.0)
    (segment,) = following.position.segments
    assert segment.since <= following.now
    assert segment.until <= following.now + 600.0
    following.poll(after=660.0)
    following.poll(after=1.0)
    assert following.position.segments == ()


def test_work_does_not_grow_with_what_is_watched() -> None:
    """Old unfinished rows are asked for once a minute, at most 2,000 in one statement."""
    table = Table()
    for _ in range(10_000):
        table.add("STARTED")
    following = Following(table).poll()
    asked = 0
    for _ in range(60):
        following.now += 1
        following.position.pass_to(following.now + 7200)
        plan = following.position.plan(following.now + 7200)
        asked += len(plan.watched)
        following.position.apply(following.position.advance(table.read(plan), following.now + 7200))
    assert asked <= 12_000


@pytest.mark.parametrize(("age", "looks"), [(15.0, [25] * 12), (7200.0, [0, 0, 0, 100] * 3)])
def test_many_cohorts_take_turns(age: float, looks: list[int]) -> None:
    """Each is looked at once a minute; a poll looks at some, or at all that are due by then."""
    table = Table()
    rows = [table.add("STARTED") for _ in range(300)]  # 100 cohorts
    following = Following(table, poll_interval=15.0, cohorts_a_step=25).poll().poll(age)
    polls = [following.cohorts_of_a_poll() for _ in looks]
    assert [len(cohorts) for cohorts in polls] == looks
    for first in range(9):
        cohorts = [cohort for some in polls[first : first + 4] for cohort in some]
        assert sorted(row_id for cohort in cohorts for row_id in cohort.ids) == rows


def test_few_cohorts_are_looked_at_in_every_poll() -> None:
    table = Table()
    for _ in range(24):
        table.add("STARTED")  # 8 cohorts
    following = Following(table, poll_interval=15.0, cohorts_a_step=8).poll()
    assert [len(following.cohorts_of_a_poll()) for _ in range(8)] == [8] * 8


def test_cohorts_that_shrink_wait_no_longer() -> None:
    table = Table()
    rows = [table.add("STARTED") for _ in range(3000)]
    following = Following(table, poll_interval=15.0, cohorts_a_step=25).poll().poll(30.0)
    for row in rows:
        table.update(row, SUCCESS)
    for _ in range(4):
        following.poll(15.0)
    assert following.counted.results == {("a", SUCCESS): len(rows)}


def test_clock_that_goes_back_at_each_poll_takes_nobodys_turn() -> None:
    table = Table()
    for _ in range(24):
        row = table.add("STARTED")  # 8 cohorts
    following = Following(table, poll_interval=15.0).poll().poll(15.0)
    for number in range(8):
        if number == 4:
            table.update(row, SUCCESS)
        following.poll(-1.0)
    assert following.counted.results == {("a", SUCCESS): 1}


def test_to_restore_many_rows_takes_little_beside_them() -> None:
    rows, rules = 100_000, Rules()
    watched, each = WatchList(rules.label_sets), Watch("STARTED", "a", "w", "q", first_seen=1.0)
    for row_id in range(rows):
        watched.put(row_id, each)
    position = Position(rules)
    tracemalloc.start()
    try:
        position.restore(position.mark, (), (), watched)
        position.pass_to(1000.0)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak / rows < 60


def test_memory_does_not_grow_behind_a_stuck_row() -> None:
    """Neither with the polls nor with the rows that begin and end meanwhile."""
    table = Table()
    table.add("STARTED")
    following = Following(table).poll()
    for _ in range(1000):
        row = table.add("STARTED")
        following.poll()
        table.update(row, SUCCESS)
        following.position.oldest()
    assert following.position.oldest()["a", "STARTED"] == 1001.0
    assert len(following.position.watched) < 250
    assert following.position.rechecks.entries < 250
