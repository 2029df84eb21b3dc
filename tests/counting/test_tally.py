"""Outcomes into totals: labels, limits, and the 0 before the first value."""

from __future__ import annotations

from collections import Counter
from operator import add
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from exporter.counting import feeds
from exporter.counting import tally as counting_tally
from exporter.counting.folding import fold, placed, series
from exporter.counting.lifecycle import Watch
from exporter.counting.measures import Measures
from exporter.counting.relabelling import Relabelling, Rule
from exporter.counting.results import OTHER, READY_STATES, Finished, Vanished
from exporter.counting.step import Change
from exporter.counting.tally import Changes, Tally
from exporter.metrics import catalogue
from exporter.metrics.samples import Histogram, Sample
from tests.counting.test_position import TIMES

if TYPE_CHECKING:
    from exporter.counting.tally import Key
    from exporter.metrics.catalogue import Metric
    from exporter.metrics.samples import LabelValues

NOW = 1e6
NAMES = st.sampled_from("abcdef")
RULES = (
    Rule(sources=("worker",), target="worker", regex="(worker|[ab]).*", replacement="one"),
    Rule("labeldrop", labels=("queue",)),
)


def feed(
    tally: Tally,
    *outcomes: Finished | Vanished,
    now: float = NOW,
    live: bool = True,
    watch: dict[int, Watch | None] | None = None,
) -> None:
    change = Change(cursor=1, outcomes=list(outcomes), watch=watch or {})
    tally.apply(tally.count("task", feeds.tasks, change, now, live=live))


def served(tally: Tally, now: float) -> dict[tuple[str, ...], float | Histogram]:
    tally.apply(tally.reveal(now))
    return {sample.labels: sample.value for sample in tally.samples()[catalogue.RESULTS]}


def test_first_failure_ever_is_preceded_by_zero() -> None:
    """All finished states appear together, at 0, and stay there for `first_zero`."""
    tally = Tally(1000, first_zero=60.0)
    feed(tally, Finished("FAILURE", "a", "w", "q"))
    assert served(tally, NOW) == {("a", s, "w", "q"): 0 for s in ("SUCCESS", "FAILURE", "REVOKED")}
    assert served(tally, NOW + 60)["a", "FAILURE", "w", "q"] == 1


def test_unfinished_row_announces_its_label_set() -> None:
    tally = Tally(1000, first_zero=60.0)
    started = Watch("STARTED", "a", "w", "q", first_seen=NOW)
    feed(tally, watch={1: started})
    feed(tally, Finished("FAILURE", "a", "w", "q"), now=NOW + 60)
    assert served(tally, NOW + 60)["a", "FAILURE", "w", "q"] == 1


def test_history_is_served_at_its_value_at_once() -> None:
    tally = Tally(1000, first_zero=60.0)
    feed(tally, Finished("SUCCESS", "a", "w", "q", rows=5), live=False)
    assert served(tally, NOW)["a", "SUCCESS", "w", "q"] == 5


def test_created_is_the_birth_of_the_series() -> None:
    tally = Tally(1000, first_zero=0.0)
    feed(tally, Finished("SUCCESS", "a", "w", "q"))
    feed(tally, Finished("SUCCESS", "a", "w", "q"), now=NOW + 50)
    samples = tally.samples()[catalogue.RESULTS]
    assert Sample(("a", "SUCCESS", "w", "q"), 2, created=NOW) in samples


def test_retries_are_summed() -> None:
    tally = Tally(1000, first_zero=0.0)
    feed(tally, Finished("SUCCESS", "a", "w", "q", rows=2, retries=3))
    feed(tally, Finished("FAILURE", "a", "w", "q", retries=2))
    assert tally.samples()[catalogue.RETRIES] == [Sample(("a", "w", "q"), 5, NOW)]


def test_sums_stay_exact_beyond_the_limit() -> None:
    tally = Tally(200, first_zero=0.0)
    for number in range(100):
        feed(tally, Finished("SUCCESS", f"task{number}", "w", "q"))
        feed(tally, Finished("FAILURE", f"task{number}", "w", "q"))
        feed(tally, Vanished(f"task{number}", "STARTED"))
    values = served(tally, NOW)
    assert sum(v for labels, v in values.items() if labels[1] == "SUCCESS") == 100
    assert sum(v for labels, v in values.items() if labels[1] == "FAILURE") == 100
    assert values[OTHER, "SUCCESS", OTHER, OTHER] > 0
    folded = sum(v for labels, v in values.items() if OTHER in labels)
    assert tally.samples()[catalogue.SERIES_FOLDED] == [Sample((), folded, NOW)]
    vanished = tally.samples()[catalogue.VANISHED]
    assert sum(sample.value for sample in vanished) == 100
    assert series(tally.samples()) <= 200


def test_new_label_set_has_series_of_its_own_while_there_is_room() -> None:
    """Also right after one step has changed most of what there is."""
    tally = Tally(400, first_zero=0.0)
    known = [
        Finished(state, "a", f"w{number}", "q", retries=1)
        for number in range(50)
        for state in sorted(READY_STATES)
    ]
    feed(tally, *known)
    feed(tally, *known, Finished("SUCCESS", "a", "new", "q"))
    assert served(tally, NOW)["a", "SUCCESS", "new", "q"] == 1


def test_pods_of_a_rollout_fold_and_failures_keep_their_task() -> None:
    """100 pods, 100 tasks, and all of the pods' names are new a day later."""
    tally = Tally(20_000, first_zero=0.0)
    for day in range(10):
        feed(
            tally,
            *(
                Finished("FAILURE", f"task{task}", f"pod{day}-{pod}", "q", exception="KeyError")
                for pod in range(100)
                for task in range(100)
            ),
        )
    by_task: Counter[str] = Counter()
    for labels, value in served(tally, NOW).items():
        by_task[labels[0]] += value
    assert by_task == {f"task{task}": 1000 for task in range(100)}
    failures = [s.labels for s in tally.samples()[catalogue.FAILURES]]
    assert sorted(failures) == sorted((f"task{task}", "q", "KeyError") for task in range(100))
    assert series(tally.samples()) <= 20_000


def test_what_is_known_of_a_task_keeps_its_name_when_all_is_taken() -> None:
    tally = Tally(400, first_zero=0.0)
    feed(tally, Finished("FAILURE", "a", "w", "q"))
    feed(tally, *(Finished("SUCCESS", f"task{number}", "w", "q") for number in range(100)))
    feed(tally, Finished("SUCCESS", "a", "w", "q", revises=("a", "FAILURE")))
    feed(tally, Finished("REVOKED", "a", "w", "q", revises=("a", "SUCCESS")))
    feed(tally, Vanished("a", "STARTED"))
    feed(tally, Finished("FAILURE", "a", "another", "q", exception="KeyError", done=900.0))
    samples = tally.samples()
    assert served(tally, NOW)["a", "FAILURE", OTHER, OTHER] == 1
    assert [s.labels for s in samples[catalogue.REVISED]] == [
        ("a", "FAILURE", OTHER),
        ("a", "SUCCESS", OTHER),
    ]
    assert [s.labels for s in samples[catalogue.VANISHED]] == [("a", OTHER)]
    assert Sample(("a", OTHER, OTHER), 1, NOW) in samples[catalogue.FAILURES]
    assert [s.labels for s in samples[catalogue.LAST_FINISHED]] == [("a", "FAILURE")]


def test_exceptions_beyond_a_hundred_fold() -> None:
    tally = Tally(20_000, first_zero=0.0)
    feed(tally, *(Finished("FAILURE", "a", "w", "q", exception=f"E{n}") for n in range(200)))
    values = {s.labels[-1]: s.value for s in tally.samples()[catalogue.FAILURES]}
    assert values == {f"E{number}": 1 for number in range(100)} | {OTHER: 100}


def test_gauges_keep_to_the_limit() -> None:
    few = {("a", "STARTED", "w", "q"): 0, ("b", "STARTED", "w", "q"): 3}
    assert dict(fold(catalogue.UNFINISHED, few.items(), 2, add)) == few
    many = {("a", "RETRY", f"w{n}", f"q{n % 30}"): 1 for n in range(100)}
    many |= {(f"task{n}", f"X{n}", "w", "q"): 2 for n in range(100)}
    many["z", "RETRY", "w", "q"] = 0
    folded = dict(fold(catalogue.UNFINISHED, many.items(), 40, add))
    assert len(folded) <= 40
    assert sum(folded.values()) == sum(many.values())
    assert sum(count for labels, count in folded.items() if labels[0] == "a") == 100
    assert folded["a", "RETRY", OTHER, OTHER]
    assert folded[OTHER, OTHER, OTHER, OTHER]


def test_oldest_of_what_folds_is_kept() -> None:
    since = {("a", f"X{number}"): 1000.0 - number for number in range(100)}
    folded = dict(fold(catalogue.OLDEST_UNFINISHED, since.items(), 10, min))
    assert len(folded) <= 10
    assert folded["a", OTHER] == min(since.values())


def test_date_done_in_the_future_is_not_believed() -> None:
    tally = Tally(1000, first_zero=0.0)
    feed(tally, Finished("SUCCESS", "a", "w", "q", done=NOW + 1e9))
    assert catalogue.LAST_FINISHED not in tally.samples()
    feed(tally, Finished("SUCCESS", "a", "w", "q", done=900.0))
    feed(tally, Finished("SUCCESS", "a", "w", "q", done=800.0))
    feed(tally, Finished("SUCCESS", "a", "w", "q", done=None))
    assert tally.samples()[catalogue.LAST_FINISHED] == [Sample(("a", "SUCCESS"), 900.0)]


def test_date_done_ahead_by_what_zones_explain_is_believed() -> None:
    """Wall time of one end of the world, read as that of the other."""
    tally = Tally(1000, first_zero=0.0)
    feed(tally, Finished("SUCCESS", "a", "w", "q", done=NOW + 26 * 3600.0))
    feed(tally, Finished("SUCCESS", "a", "w", "q", done=NOW + 26 * 3600.0 + 1.0))
    assert tally.samples()[catalogue.LAST_FINISHED] == [Sample(("a", "SUCCESS"), NOW + 26 * 3600.0)]


def test_runtime_falls_into_its_bucket() -> None:
    tally = Tally(1000, first_zero=0.0)
    feed(tally, Finished("SUCCESS", "a", "w", "q", runtime=2.5))
    feed(tally, Finished("FAILURE", "a", "w", "q", runtime=9e5))
    histogram = tally.samples()[catalogue.RUNTIME][0].value
    assert isinstance(histogram, Histogram)
    counts = dict(zip((*histogram.bounds, "inf"), histogram.counts, strict=True))
    assert {bound: n for bound, n in counts.items() if n} == {2.5: 1, "inf": 1}
    assert histogram.sum == 900_002.5


def test_entries_whose_success_is_kept_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(counting_tally, "MOST_ENTRIES", 3)
    tally = Tally(1000, 0.0)
    for first in (0, 2):
        feed(tally, *(Finished("SUCCESS", "a", "w", "q", done=900.0 + n, entry=f"e{n}")
                      for n in range(first, first + 4)))  # fmt: skip
    assert [tally.last_success_of(f"e{n}", "a") for n in range(6)] == [900, 901, 902, *[None] * 3]
    assert tally.last_success_of("e0", "b") is None
    assert tally.last_success("a") == 905


def test_measures_of_many_tasks_fold_within_the_limit() -> None:
    tally = Tally(300, 0.0, measures=Measures(retries=(0.0, 1.0), payload=("result", "args")))
    for number in range(100):
        outcome = Finished("SUCCESS", f"task{number}", "w", "q", retried=1, payload=(10, None))
        feed(tally, outcome)
    samples = tally.samples()
    assert series(samples) <= 300
    retried = {s.labels: s.value for s in samples[catalogue.RESULT_RETRIES]}
    assert sum(sum(h.counts) for h in retried.values() if isinstance(h, Histogram)) == 100
    assert ("task0",) in retried
    assert (OTHER,) in retried
    sizes = {s.labels: s.value for s in samples[catalogue.PAYLOAD_BYTES]}
    assert sum(size for size in sizes.values() if isinstance(size, float | int)) == 1000
    assert {part for _, part in sizes} == {"result"}


def test_other_buckets_keep_what_was_observed() -> None:
    """What was below one is below the next that is not lower: no bucket claims too much."""
    tally = Tally(1000, 0.0, measures=Measures((1.0, 5.0, 60.0)))
    for seconds in (0.5, 3.0, 30.0, 90.0):
        feed(tally, Finished("SUCCESS", "a", "w", "q", runtime=seconds))
    again = Tally(1000, 0.0, measures=Measures((2.0, 10.0)))
    again.apply(Changes(tally.values))
    feed(again, Finished("SUCCESS", "a", "w", "q", runtime=1.5))
    (sample,) = again.samples()[catalogue.RUNTIME]
    assert sample.value == Histogram((2.0, 10.0), (2, 1, 2), 125.0)
    assert series(again.samples()) == 3 + 1 + 5


def test_counting_touches_nothing_until_it_is_taken_over() -> None:
    tally = Tally(1000, first_zero=0.0)
    change = Change(cursor=1, outcomes=[Finished("SUCCESS", "a", "w", "q")])
    tally.count("task", feeds.tasks, change, NOW, live=True)
    assert tally.samples() == {}


class Crowded(RuleBasedStateMachine):
    """More tasks, workers, queues, states and exceptions than there is room for, and restarts."""

    def __init__(self) -> None:
        super().__init__()
        self.now = NOW
        self.present: Counter[LabelValues] = Counter()  # rows, by what they are
        self.rows: list[LabelValues] = []
        self.revised: Counter[tuple[str, str]] = Counter()
        self.unfinished: Counter[LabelValues] = Counter()
        self.vanished = self.timed = 0
        self.homes: dict[LabelValues, LabelValues] = {}  # where rows of a label set have counted
        self.shown: dict[Key, float] = {}

    @initialize(limit=st.sampled_from([57, 200, 400]), rules=st.sampled_from([(), RULES]))
    def start(self, limit: int, rules: tuple[Rule, ...]) -> None:
        self.limit = limit
        self.relabelled = Relabelling(rules)
        self.tally = Tally(limit, 60.0, self.relabelled)

    def feed(self, *outcomes: Finished | Vanished, watch: Watch | None = None) -> None:
        before = self.totals(catalogue.RESULTS)
        change = Change(cursor=1, outcomes=list(outcomes), watch={1: watch} if watch else {})
        self.tally.apply(self.tally.count("task", feeds.tasks, change, self.now, live=True))
        for outcome in outcomes:
            if isinstance(outcome, Finished):
                labels = (outcome.task, outcome.state, outcome.worker, outcome.queue)
                self.present[labels] += 1
                self.rows.append(labels)
                if len(outcomes) == 1:
                    after = self.totals(catalogue.RESULTS)
                    (home,) = (key for key in after if after[key] != before.get(key, 0))
                    assert self.homes.setdefault(labels, home) == home

    def totals(self, metric: Metric) -> dict[LabelValues, float]:
        return {key[1]: total.value for key, total in self.tally.values.items() if key[0] is metric}

    @rule(task=NAMES, state=st.sampled_from(sorted(READY_STATES)), worker=NAMES, queue=NAMES)
    def finish(self, task: str, state: str, worker: str, queue: str) -> None:
        times = {"runtime": 1.5, "took": 1.5}
        self.feed(Finished(state, task, worker, queue, exception=worker, done=NOW, **times))
        self.timed += len(times)

    @rule(first=st.integers(0, 100), of=st.sampled_from(["task", "worker", "queue"]))
    def finish_many(self, first: int, of: str) -> None:
        labels = {"task": "a", "worker": "w", "queue": "q"}
        names = [f"{of}{number}" for number in range(first, first + 20)]
        self.feed(*(Finished("FAILURE", **(labels | {of: name}), exception=name) for name in names))

    @precondition(lambda self: self.rows)
    @rule(data=st.data(), state=st.sampled_from(sorted(READY_STATES)))
    def revise(self, data: st.DataObject, state: str) -> None:
        index = data.draw(st.integers(0, len(self.rows) - 1))
        task, old, worker, queue = before = self.rows.pop(index)
        self.present[before] -= 1
        self.revised[task, old] += 1
        self.feed(Finished(state, task, worker, queue, revises=(task, old)))

    @rule(task=NAMES, state=NAMES, worker=NAMES, queue=NAMES)
    def begin(self, task: str, state: str, worker: str, queue: str) -> None:
        self.unfinished[task, state, worker, queue] += 1
        self.feed(watch=Watch(state, task, worker, queue, first_seen=self.now))

    @precondition(lambda self: +self.unfinished)
    @rule(data=st.data())
    def vanish(self, data: st.DataObject) -> None:
        labels = data.draw(st.sampled_from(sorted(+self.unfinished)))
        self.unfinished[labels] -= 1
        self.vanished += 1
        self.feed(Vanished(labels[0], labels[1]))

    @rule(by=st.sampled_from([-36_000.0, -30.0, 20.0, 61.0]))
    def set_clock(self, by: float) -> None:
        self.now += by

    @rule()
    def restart(self) -> None:
        saved = Changes(self.tally.values)
        self.tally = Tally(self.limit, 60.0, self.relabelled)
        self.tally.apply(saved)

    @invariant()
    def what_was_shown_stays_shown(self) -> None:
        self.tally.apply(self.tally.reveal(self.now))
        for metric, samples in self.tally.samples().items():
            for sample in samples:
                if metric.type == "counter" and isinstance(sample.value, float | int):
                    assert sample.value >= self.shown.get((metric, sample.labels), 0)
                    self.shown[metric, sample.labels] = sample.value

    @invariant()
    def limit_is_kept(self) -> None:
        counters = series(self.tally.samples())
        gauges = fold(catalogue.UNFINISHED, self.unfinished.items(), self.limit - counters, add)
        assert counters + len(gauges) <= self.limit
        assert sum(count for _, count in gauges) == self.unfinished.total()

    @invariant()
    def sums_are_exact(self) -> None:
        """Counters less revisions are what there is (R4), for each task that has a name, too."""
        counted, revised = self.totals(catalogue.RESULTS), self.totals(catalogue.REVISED)
        names = {labels[0] for labels in counted}
        net: Counter[tuple[str, str]] = Counter()
        for (task, state, _, _), value in counted.items():
            net[task, state] += int(value)
        for (task, state, _), value in revised.items():
            net[task, state] -= int(value)
        truth: Counter[tuple[str, str]] = Counter()
        for (task, state, _, _), value in self.present.items():
            truth[task if task in names else OTHER, state] += value
        assert net == truth
        failed = sum(value for labels, value in counted.items() if labels[1] == "FAILURE")
        assert sum(self.totals(catalogue.FAILURES).values()) == failed
        assert sum(self.totals(catalogue.VANISHED).values()) == self.vanished
        times = [v for v in self.tally.values.values() if isinstance(v, Histogram)]
        assert sum(sum(histogram.counts) for histogram in times) == self.timed
        assert sum(histogram.sum for histogram in times) == 1.5 * self.timed

    @invariant()
    def verify_agrees(self) -> None:
        counted = Counter({k: int(v) for k, v in self.totals(catalogue.RESULTS).items() if v})
        assert not placed(self.present, counted, self.relabelled) - counted


TestCrowded = Crowded.TestCase
TestCrowded.settings = settings(max_examples=20 * TIMES, stateful_step_count=40)
