"""What is expected of tasks: who is overdue, and who was never seen."""

from __future__ import annotations

import pytest

from exporter.counting.expected import Expectation, Expectations, Expected

BEGAN, NOW = 1_000.0, 2_000.0


def judged(expectations: list[Expectation], **succeeded: float) -> list[Expected]:
    """Judge tasks, all known, whose names have _ for a dot; 0: never succeeded."""
    tasks = {name.replace("_", "."): moment for name, moment in succeeded.items()}
    times = {name: moment for name, moment in tasks.items() if moment}
    return Expectations(expectations).judge(times.get, tasks, BEGAN, NOW)


def test_nothing_is_expected() -> None:
    assert not Expectations([])
    assert judged([], app_add=NOW) == []


@pytest.mark.parametrize(("age", "overdue"), [(0, False), (60, False), (60.5, True)])
def test_last_success(age: float, *, overdue: bool) -> None:
    found = judged([Expectation("app.add", 60)], app_add=NOW - age, app_other=1.0)
    assert found == [Expected("app.add", 60, NOW - age, overdue)]


def test_task_that_only_fails_has_its_time_from_the_first_look_on() -> None:
    found = judged([Expectation("app.*", 1_000.5)], app_add=0)
    assert found == [Expected("app.add", 1_000.5, BEGAN, overdue=False)]
    assert judged([Expectation("app.*", 999.5)], app_add=0)[0].overdue


def test_task_that_was_never_seen_is_known_by_its_pattern() -> None:
    found = judged([Expectation("reports.*", 60), Expectation("app.*", 60)], app_add=NOW)
    assert found == [
        Expected("app.add", 60, NOW, overdue=False),
        Expected("reports.*", 60, BEGAN, overdue=True),
    ]


def test_first_that_matches_counts() -> None:
    both = [Expectation("app.*", 60), Expectation("app.add", 5_000), Expectation("app.*", 5_000)]
    assert judged(both, app_add=NOW - 100) == [Expected("app.add", 60, NOW - 100, overdue=True)]
    assert sorted(judged(both)) == [
        Expected("app.*", 60, BEGAN, overdue=True),
        Expected("app.add", 5_000, BEGAN, overdue=False),
    ]
