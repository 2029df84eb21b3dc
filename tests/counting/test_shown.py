"""Series that nobody uses for long go, and come back from where they were."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hypothesis import example, given
from hypothesis import strategies as st

from exporter.counting.results import Finished
from exporter.counting.shown import LOOK
from exporter.counting.tally import Changes, Tally
from exporter.metrics import catalogue
from tests.counting.test_tally import NOW, feed, served

if TYPE_CHECKING:
    from exporter.metrics.catalogue import Metric

STALE_AFTER = 7 * 86_400.0
BY_TASK = (catalogue.FAILURES, catalogue.LAST_FINISHED, catalogue.RUNTIME, catalogue.REVISED)
WORKERS = st.lists(st.sampled_from("ab"), max_size=2)
LATER = NOW + STALE_AFTER + LOOK


def failed(worker: str = "w") -> Finished:
    return Finished("FAILURE", "a", worker, "q", done=NOW, exception="E", runtime=1.0)


def restarted(tally: Tally, now: float) -> Tally:
    again = Tally(1000, 60.0, stale_after=STALE_AFTER)
    again.apply(Changes(tally.values.copy()))
    again.shown.pass_to(now)
    return again


def shown(tally: Tally, *metrics: Metric) -> int:
    return sum(len(tally.samples().get(metric, ())) for metric in metrics)


def test_series_goes_and_comes_back_from_its_value() -> None:
    """It is served as it was for `first_zero`, so that `increase()` sees what brought it back."""
    tally = Tally(1000, 60.0, stale_after=STALE_AFTER)
    feed(tally, failed(), failed())
    assert served(tally, NOW + 61)["a", "FAILURE", "w", "q"] == 2
    assert served(tally, NOW + STALE_AFTER - 1)["a", "FAILURE", "w", "q"] == 2
    assert served(tally, LATER) == {}
    assert shown(tally, catalogue.RETRIES, *BY_TASK) == 0
    assert tally.values, "it is kept"
    feed(tally, failed(), now=LATER + 1)
    came_back = served(tally, LATER + 2)
    assert came_back == {
        ("a", "SUCCESS", "w", "q"): 0,
        ("a", "FAILURE", "w", "q"): 2,
        ("a", "REVOKED", "w", "q"): 0,
    }
    assert [one.value for one in tally.samples()[catalogue.FAILURES]] == [2]
    feed(tally, failed(), now=LATER + 30)
    assert served(tally, LATER + 31)["a", "FAILURE", "w", "q"] == 2
    assert served(tally, LATER + 62)["a", "FAILURE", "w", "q"] == 4
    assert [one.value for one in tally.samples()[catalogue.FAILURES]] == [4]
    feed(tally, failed(), now=LATER + 63)
    assert served(tally, LATER + 64)["a", "FAILURE", "w", "q"] == 5


def test_what_else_comes_while_it_comes_back_waits_with_it() -> None:
    tally = Tally(1000, 60.0, stale_after=STALE_AFTER)
    feed(tally, failed(), Finished("SUCCESS", "a", "w", "q"))
    served(tally, NOW + 61)
    served(tally, LATER)
    feed(tally, failed(), now=LATER)
    feed(tally, Finished("SUCCESS", "a", "w", "q"), now=LATER + 1)
    assert served(tally, LATER + 2)["a", "SUCCESS", "w", "q"] == 1
    assert served(tally, LATER + 61)["a", "SUCCESS", "w", "q"] == 2


def test_series_of_a_task_stay_while_another_worker_runs_it() -> None:
    tally = Tally(1000, 0.0, stale_after=STALE_AFTER)
    feed(tally, failed("old"))
    feed(tally, Finished("SUCCESS", "a", "new", "q"), now=LATER)
    assert {labels[2] for labels in served(tally, LATER)} == {"new"}
    assert shown(tally, *BY_TASK) == 3  # failures, when, and how long


def test_stale_series_is_not_served_after_a_restart_either() -> None:
    tally = Tally(1000, 0.0, stale_after=STALE_AFTER)
    feed(tally, failed())
    assert served(restarted(tally, NOW + 5), NOW + 5)
    again = restarted(tally, LATER)
    assert shown(again, catalogue.RESULTS, *BY_TASK) == 0
    feed(again, failed(), now=LATER)
    assert served(again, LATER + 1)["a", "FAILURE", "w", "q"] == 1
    third = restarted(again, LATER + 2)
    assert served(third, LATER + 61)["a", "FAILURE", "w", "q"] == 2


def test_series_whose_last_use_is_not_known_are_given_the_time() -> None:
    """As those of an earlier version's checkpoint."""
    tally = Tally(1000, 0.0, stale_after=STALE_AFTER)
    feed(tally, failed())
    kept = {
        key: value._replace(used=None) if key[0] is catalogue.RESULTS else value
        for key, value in tally.values.items()
    }
    again = Tally(1000, 0.0, stale_after=STALE_AFTER)
    again.apply(Changes(kept))
    assert served(again, LATER)
    assert served(again, LATER + STALE_AFTER - LOOK)
    assert not served(again, LATER + STALE_AFTER + LOOK)


def test_no_series_is_stale_where_that_is_off() -> None:
    tally = Tally(1000, 0.0, stale_after=0.0)
    feed(tally, failed())
    assert served(tally, NOW + 1000 * STALE_AFTER)


def test_nothing_is_stale_by_a_clock_set_back() -> None:
    tally = Tally(1000, 0.0, stale_after=STALE_AFTER)
    feed(tally, failed(), now=NOW + 10 * STALE_AFTER)
    assert served(tally, NOW)["a", "FAILURE", "w", "q"] == 1
    feed(tally, failed(), now=NOW + 1)
    assert served(tally, NOW + 11 * STALE_AFTER - LOOK)["a", "FAILURE", "w", "q"] == 2


@example(
    history=[],
    first_zero=20.0,
    news=[(1.0, ["a"]), (2 * STALE_AFTER, ["a"]), (30.0, []), (1.0, ["a"])],
)
@given(
    history=st.lists(WORKERS, max_size=3),
    first_zero=st.sampled_from([0.0, 20.0, 60.0]),
    news=st.lists(
        st.tuples(st.sampled_from([1.0, 30.0, 70.0, STALE_AFTER, 2 * STALE_AFTER]), WORKERS),
        min_size=1,
        max_size=8,
    ),
)
def test_it_does_not_matter_when_changes_are_looked_at(
    history: list[list[str]], first_zero: float, news: list[tuple[float, list[str]]]
) -> None:
    """At once, or not before that is needed."""
    at_once, later = (Tally(1000, first_zero, stale_after=STALE_AFTER) for _ in range(2))
    now = NOW
    moments = [(1.0, workers, False) for workers in history]
    moments += [(seconds, workers, True) for seconds, workers in news]
    for seconds, workers, live in moments:
        now += seconds
        for tally in (at_once, later):
            tally.apply(tally.reveal(now))
            feed(tally, *map(failed, workers), now=now, live=live)
        at_once.shown.follow()
    assert later.values == at_once.values
    assert later.samples() == at_once.samples()
