"""The last hour, minute by minute: exact for what it tells apart, and bounded whatever comes."""

from __future__ import annotations

import random
from collections import Counter

from exporter.counting.minutes import MINUTES, Minutes, Ring, Rings
from exporter.counting.values import Newest, Total, Value
from exporter.metrics import catalogue
from exporter.metrics.catalogue import Metric
from exporter.metrics.samples import LabelValues

Values = dict[tuple[Metric, LabelValues], Value]


def result(task: str, state: str, value: float) -> Values:
    return {(catalogue.RESULTS, (task, state, "w1", "celery")): Total(value, 0.0)}


def failure(task: str, exception: str, value: float) -> Values:
    return {(catalogue.FAILURES, (task, "celery", exception)): Total(value, 0.0)}


def test_a_ring_holds_what_a_list_of_minutes_would() -> None:
    """Whatever pauses there are, also longer ones than the ring."""
    chance = random.Random(7)  # noqa: S311
    ring, minute = Ring(), 0
    counted: Counter[int] = Counter()
    for _ in range(500):
        minute += chance.choice((0, 0, 1, 1, 2, 5, 59, 60, 61, 200))
        amount = chance.randrange(1, 10)
        ring.add(minute, amount)
        counted[minute] += amount
        for later in (minute, minute + 1, minute + 30, minute + 59, minute + 60, minute + 1000):
            expected = tuple(counted[each] for each in range(later - MINUTES + 1, later + 1))
            assert ring.upto(later) == expected


def test_only_so_many_are_told_apart() -> None:
    """Of endless names the first ones are; all count, and who was silent for an hour makes room."""
    rings = Rings[str](most=3)
    assert [rings.add(name, 100, 1) for name in "abcde"] == [True, True, True, False, False]
    assert rings.upto(100).keys() == set("abc")
    assert sum(rings.total(100)) == 5
    assert rings.add("a", 130, 1)
    assert not rings.add("d", 130, 1)
    assert rings.add("d", 160, 1)
    assert rings.add("e", 160, 1)
    assert not rings.add("f", 160, 1)
    assert rings.upto(160).keys() == set("ade")
    assert sum(rings.total(160)) == 5  # a and d at 130; d, e and f at 160


def test_what_has_changed_is_counted() -> None:
    minutes = Minutes()
    before = result("a", "SUCCESS", 5)
    after = (
        result("a", "SUCCESS", 7)
        | result("a", "FAILURE", 2)
        | result("b", "REVOKED", 0)
        | failure("a", "KeyError", 2)
        | {(catalogue.LAST_FINISHED, ("a", "SUCCESS")): Newest(1.7e9)}
    )
    minutes.take(before, after, 10)
    minutes.take(before | after, result("a", "SUCCESS", 8), 11)
    minutes.take(before | after, {}, 12)
    assert minutes.since == 10
    assert minutes.results.upto(12) == {"a": (0,) * 57 + (4, 1, 0)}
    assert minutes.failures.upto(12) == {"a": (0,) * 57 + (2, 0, 0)}
    assert minutes.exceptions.upto(12) == {("a", "KeyError"): (0,) * 57 + (2, 0, 0)}
    assert minutes.results.upto(10 + MINUTES) == {"a": (1,) + (0,) * 59}
    assert minutes.results.upto(11 + MINUTES) == {}


def test_what_ends_to_be_a_first_0_is_no_result() -> None:
    """It counted when it came (R12)."""
    minutes = Minutes()
    key = (catalogue.RESULTS, ("a", "SUCCESS", "w1", "celery"))
    minutes.take({}, {key: Total(3, 0.0, zero_until=60.0)}, 1)
    minutes.take({key: Total(3, 0.0, zero_until=60.0)}, {key: Total(3, 0.0)}, 2)
    assert sum(minutes.results.total(2)) == 3


def test_no_task_fails_more_often_than_it_ends() -> None:
    """Failures of tasks that are not told apart are not told apart either."""
    minutes = Minutes()
    names = [f"t{number}" for number in range(300)]
    for name in names:
        minutes.take({}, result(name, "SUCCESS" if name < "t2" else "FAILURE", 1), 5)
    results, failures = minutes.results.upto(5), minutes.failures.upto(5)
    assert len(results) == 200
    assert failures.keys() <= results.keys()
    assert sum(minutes.results.total(5)) == 300
    assert sum(minutes.failures.total(5)) == sum(name >= "t2" for name in names)
