"""Rules for labels: what they make of them, and that no result is lost or counted twice for it."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from exporter.counting import feeds
from exporter.counting.folding import placed, series
from exporter.counting.relabelling import DROPPED, Relabelling, Rule
from exporter.counting.results import READY_STATES, Finished
from exporter.counting.shown import LOOK
from exporter.counting.step import Change
from exporter.counting.tally import Changes, Tally
from exporter.metrics import catalogue
from exporter.metrics.samples import Histogram, LabelValues
from tests.counting.test_position import TIMES
from tests.counting.test_tally import NAMES, NOW, feed

PODS = Rule(sources=("worker",), target="worker", regex="celery@(.+)-[a-z0-9]+-[a-z0-9]+")
NO_QUEUE = Rule("labeldrop", labels=("queue",))
NO_CANARY = Rule("drop", sources=("task",), regex="canary.*")
RESULT = ("app.add", "SUCCESS", "celery@web-7d9f8b6c5-x2x4z", "mail")


@pytest.mark.parametrize(
    ("rules", "expected"),
    [
        ((), RESULT),
        ((PODS,), (*RESULT[:2], "web", "mail")),
        ((PODS, NO_QUEUE), (*RESULT[:2], "web", "")),
        ((NO_CANARY,), RESULT),
        ((Rule("drop", sources=("task", "queue"), regex="app.*;mail"),), None),
        ((Rule("drop", sources=("task", "queue"), separator="/", regex=".*/post"),), RESULT),
        ((Rule("keep", sources=("state",), regex="SUCCESS|FAILURE"),), RESULT),
        ((Rule("keep", sources=("state",), regex="SUCC"),), None),  # anchored
        ((Rule("uppercase", sources=("queue",), target="queue"),), (*RESULT[:3], "MAIL")),
        ((Rule("lowercase", sources=("state",), target="queue"),), (*RESULT[:3], "success")),
        (
            (
                Rule(
                    sources=("task",), target="queue", regex=r"(?P<app>\w+)\..*", replacement="$app"
                ),
            ),
            (*RESULT[:3], "app"),
        ),
        (
            (
                Rule(
                    sources=("task",), target="queue", regex="(a)(x)?.*", replacement="$$${1}$2$9$n"
                ),
            ),
            (*RESULT[:3], "$a"),
        ),
        ((Rule(sources=("task",), target="queue", regex="app", replacement="x"),), RESULT),
        ((Rule(sources=("task",), target="queue", replacement="x\ny"),), (*RESULT[:3], "x\ny")),
        # One after the other; a label that was dropped may come back.
        (
            (NO_QUEUE, Rule(sources=("task",), target="queue", replacement="$1!")),
            (*RESULT[:3], "app.add!"),
        ),
    ],
)
def test_rules(rules: tuple[Rule, ...], expected: LabelValues | None) -> None:
    relabelled = Relabelling(rules)
    assert relabelled(catalogue.RESULTS, RESULT) == expected


def test_hash_is_that_of_prometheus() -> None:
    """The example is of its own tests, relabel_test.go."""
    hashmod = Relabelling([Rule("hashmod", sources=("queue",), target="worker", modulus=1000)])
    assert hashmod(catalogue.RETRIES, ("a", "w", "baz")) == ("a", "976", "baz")


def test_rule_concerns_only_metrics_that_have_its_labels() -> None:
    keep = Relabelling([Rule("keep", sources=("worker",), regex="w1")])
    assert keep(catalogue.FAILURES, ("a", "q", "E")) == ("a", "q", "E")
    assert keep(catalogue.RETRIES, ("a", "w2", "q")) is None
    assert keep(catalogue.BACKLOG, ("task",)) == ("task",)


@pytest.mark.parametrize("text", ["\ud800", "\x00", "a\nb", "메일", "x" * 100_000])
def test_any_text_is_matched(text: str) -> None:
    relabelled = Relabelling([Rule(sources=("task",), target="queue", replacement="[$1]")])
    labels = relabelled(catalogue.RETRIES, (text, "w", "q"))
    assert labels is not None
    assert labels[2] == f"[{text}]".replace("\ud800", "?")


def test_expression_that_is_none() -> None:
    with pytest.raises(ValueError, match="is no regular expression: missing"):
        Relabelling([Rule("drop", sources=("task",), regex="(a")])


def values(tally: Tally, metric: catalogue.Metric = catalogue.RESULTS) -> dict[LabelValues, object]:
    return {sample.labels: sample.value for sample in tally.samples().get(metric, ())}


def test_series_of_the_same_labels_are_added_up() -> None:
    tally = Tally(1000, 0.0, Relabelling([PODS, NO_QUEUE]))
    for number in range(3):
        worker = f"celery@web-7d9f8b6c5-x{number}x4z"
        done = NOW - number
        result = Finished("FAILURE", "a", worker, "q", 2, 1, done, f"id-{number}", "E", runtime=1.5)
        feed(tally, result)
    assert values(tally)["a", "FAILURE", "web", ""] == 6
    assert values(tally, catalogue.RETRIES) == {("a", "web", ""): 3}
    assert values(tally, catalogue.FAILURES) == {("a", "", "E"): 6}
    assert values(tally, catalogue.LAST_FINISHED) == {("a", "FAILURE"): NOW}
    runtime = values(tally, catalogue.RUNTIME)["a",]
    assert isinstance(runtime, Histogram)
    assert (sum(runtime.counts), runtime.sum) == (3, 4.5)
    (failed,) = (one for one in tally.samples()[catalogue.RESULTS] if one.value)
    assert failed.exemplar is not None
    assert failed.exemplar.task_id == "id-0"  # the newest


def test_new_pod_of_a_known_worker_is_seen_at_once() -> None:
    """Its results increase what is served already: there is nothing to wait for (R12)."""
    tally = Tally(1000, 60.0, Relabelling([PODS]))
    feed(tally, Finished("SUCCESS", "a", "celery@web-a-a", "q"))
    tally.apply(tally.reveal(NOW + 59))
    assert values(tally)["a", "SUCCESS", "web", "q"] == 0
    tally.apply(tally.reveal(NOW + 61))
    feed(tally, Finished("SUCCESS", "a", "celery@web-b-b", "q"), now=NOW + 62)
    assert values(tally)["a", "SUCCESS", "web", "q"] == 2


def test_what_is_dropped_has_a_number() -> None:
    tally = Tally(100, 0.0, Relabelling([Rule("drop", sources=("worker",), regex="canary.*")]))
    assert values(tally, catalogue.RESULTS_DROPPED) == {(): 0}
    present = Counter[LabelValues]()
    for number in range(1000):  # many more than there is room for
        feed(tally, Finished("SUCCESS", "a", f"canary{number}", "q"))
        present["a", "SUCCESS", f"canary{number}", "q"] += 1
    assert values(tally) == {}
    assert values(tally, catalogue.RESULTS_DROPPED) == {(): 1000}
    counted = Counter(
        {k[1]: int(t.value) for k, t in tally.values.items() if k[0] is catalogue.RESULTS}
    )  # type: ignore[union-attr]
    assert any(labels[0] == DROPPED for labels in counted)
    assert not placed(present, +counted, tally.relabelled) - +counted


def test_pods_of_a_year_stay_what_rules_make_of_them() -> None:
    """However many there were, none is counted under `__other__`, and no more is kept."""
    tally = Tally(400, 0.0, Relabelling([PODS]))
    for number in range(5000):
        feed(tally, Finished("SUCCESS", "a", f"celery@web-7d9f8b6c5-{number}", "q"))
    assert values(tally)["a", "SUCCESS", "web", "q"] == 5000
    assert values(tally, catalogue.SERIES_FOLDED) == {(): 0}
    assert len(tally.values) < 400


class Rules(RuleBasedStateMachine):
    """Results while rules change at restarts, and series that nobody uses for long."""

    RULES = st.lists(
        st.sampled_from(
            [
                Rule(sources=("worker",), target="worker", regex="([ab]).*", replacement="x"),
                Rule("hashmod", sources=("task",), target="task", modulus=2),
                Rule("labeldrop", labels=("worker",)),
                Rule("drop", sources=("queue",), regex="[a-c]"),
                Rule("keep", sources=("task", "worker"), regex="[a-d];.*"),
                Rule("uppercase", sources=("queue",), target="task"),
            ]
        ),
        max_size=3,
    )

    @initialize(rules=RULES, first_zero=st.sampled_from([0.0, 60.0]))
    def start(self, rules: list[Rule], first_zero: float) -> None:
        self.now = NOW
        self.first_zero = first_zero
        self.counted: Counter[LabelValues] = Counter()
        self.used: dict[LabelValues, float] = {}  # task, worker and queue
        self.restart(rules, Changes())

    def restart(self, rules: list[Rule], kept: Changes) -> None:
        self.tally = Tally(100_000, self.first_zero, Relabelling(rules), stale_after=1000.0)
        self.tally.apply(kept)
        self.tally.shown.pass_to(self.now)
        self.shown: dict[LabelValues, float] = {}

    @rule(task=NAMES, state=st.sampled_from(sorted(READY_STATES)), worker=NAMES, queue=NAMES)
    def finish(self, task: str, state: str, worker: str, queue: str) -> None:
        change = Change(cursor=1, outcomes=[Finished(state, task, worker, queue)])
        self.tally.apply(self.tally.count("task", feeds.tasks, change, self.now, live=True))
        self.counted[task, state, worker, queue] += 1
        self.used[task, worker, queue] = self.now

    @rule(rules=RULES)
    def change_rules(self, rules: list[Rule]) -> None:
        self.restart(rules, Changes(self.tally.values.copy()))

    @rule(by=st.sampled_from([1.0, 61.0, 500.0, 1100.0]))
    def wait(self, by: float) -> None:
        self.now += by

    @invariant()
    def each_result_is_where_rules_say(self) -> None:
        self.tally.apply(self.tally.reveal(self.now))
        expected: dict[LabelValues, float] = {}
        used: dict[tuple[str, ...], float] = {}
        dropped = 0
        for (task, worker, queue), moment in self.used.items():
            for state in READY_STATES:
                raw = (task, state, worker, queue)
                labels = self.tally.relabelled(catalogue.RESULTS, raw)
                if labels is None:
                    dropped += self.counted[raw]
                    continue
                expected[labels] = expected.get(labels, 0) + self.counted[raw]
                users = (labels[0], *labels[2:])
                used[users] = max(moment, used.get(users, 0.0))
        found = values(self.tally)
        for labels, value in expected.items():
            unused = self.now - used[labels[0], labels[2], labels[3]]
            if not 1000.0 < unused <= 1000.0 + LOOK:
                assert (labels in found) == (unused <= 1000.0)
            if labels in found and not self.first_zero:
                assert found[labels] == value
        for labels, value in found.items():
            assert isinstance(value, float | int)
            assert self.shown.get(labels, 0) <= value <= expected[labels]
            self.shown[labels] = value
        assert values(self.tally, catalogue.RESULTS_DROPPED).get((), 0) == dropped
        assert series(self.tally.samples()) <= 100_000

    @invariant()
    def verify_agrees(self) -> None:
        of = self.tally.values.items()
        totals = Counter({k[1]: int(v.value) for k, v in of if k[0] is catalogue.RESULTS})  # type: ignore[union-attr]
        assert placed(+self.counted, +totals, self.tally.relabelled) == +totals

    def teardown(self) -> None:
        """In the end all is served, once it is used and shown."""
        if not hasattr(self, "tally"):
            return
        for task, worker, queue in [*self.used]:
            self.finish(task, "SUCCESS", worker, queue)
        self.now += 61.0
        self.each_result_is_where_rules_say()
        served = values(self.tally).values()
        dropped = values(self.tally, catalogue.RESULTS_DROPPED).get((), 0)
        assert sum(map(float, served)) + float(dropped) == self.counted.total()  # type: ignore[arg-type]


TestRules = Rules.TestCase
TestRules.settings = settings(max_examples=20 * TIMES, stateful_step_count=30)
