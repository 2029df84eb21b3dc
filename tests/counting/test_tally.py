"""Outcomes into totals: labels, limits, and the 0 before the first value."""

from __future__ import annotations

from exporter import metrics
from exporter.lifecycle import Watch
from exporter.position import Change
from exporter.results import Finished, Vanished
from exporter.tally import OTHER, Histogram, Sample, Tally

NOW = 1000.0


def feed(
    tally: Tally,
    *outcomes: Finished | Vanished,
    now: float = NOW,
    live: bool = True,
    watch: dict[int, Watch | None] | None = None,
) -> None:
    change = Change(cursor=1, outcomes=list(outcomes), watch=watch or {})
    tally.apply(tally.count("task", change, now, live=live))


def served(tally: Tally, now: float) -> dict[tuple[str, ...], float | Histogram]:
    tally.apply(tally.reveal(now))
    return {sample.labels: sample.value for sample in tally.samples()[metrics.RESULTS]}


def test_first_failure_ever_is_preceded_by_zero() -> None:
    """All finished states appear together, at 0, and stay there for `first_zero`."""
    tally = Tally(1000, first_zero=60.0)
    feed(tally, Finished("FAILURE", "a", "w", "q"))
    assert served(tally, NOW) == {("a", s, "w", "q"): 0 for s in ("SUCCESS", "FAILURE", "REVOKED")}
    assert served(tally, NOW + 60)["a", "FAILURE", "w", "q"] == 1


def test_unfinished_row_announces_its_label_set() -> None:
    tally = Tally(1000, first_zero=60.0)
    started = Watch("STARTED", "a", "w", "q", first_seen=NOW, due=NOW)
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
    samples = tally.samples()[metrics.RESULTS]
    assert Sample(("a", "SUCCESS", "w", "q"), 2, created=NOW) in samples


def test_retries_are_summed() -> None:
    tally = Tally(1000, first_zero=0.0)
    feed(tally, Finished("SUCCESS", "a", "w", "q", rows=2, retries=3))
    feed(tally, Finished("FAILURE", "a", "w", "q", retries=2))
    assert tally.samples()[metrics.RETRIES] == [Sample(("a", "w", "q"), 5, NOW)]


def test_sums_stay_exact_beyond_the_limit() -> None:
    tally = Tally(30, first_zero=0.0)
    for number in range(100):
        feed(tally, Finished("SUCCESS", f"task{number}", "w", "q"))
        feed(tally, Finished("FAILURE", f"task{number}", "w", "q"))
        feed(tally, Vanished(f"task{number}", "STARTED"))
    values = served(tally, NOW)
    assert sum(v for labels, v in values.items() if labels[1] == "SUCCESS") == 100
    assert sum(v for labels, v in values.items() if labels[1] == "FAILURE") == 100
    assert values[OTHER, "SUCCESS", OTHER, OTHER] > 0
    assert tally.series() < 50
    folded = tally.samples()[metrics.SERIES_FOLDED][0].value
    assert folded == values[OTHER, "SUCCESS", OTHER, OTHER] + values[OTHER, "FAILURE", OTHER, OTHER]
    vanished = tally.samples()[metrics.VANISHED]
    assert sum(sample.value for sample in vanished) == 100


def test_label_set_that_is_known_is_never_folded() -> None:
    tally = Tally(10, first_zero=0.0)
    feed(tally, Finished("SUCCESS", "a", "w", "q"))
    for number in range(20):
        feed(tally, Finished("SUCCESS", f"task{number}", "w", "q"))
    feed(tally, Finished("FAILURE", "a", "w", "q"))
    assert served(tally, NOW)["a", "FAILURE", "w", "q"] == 1


def test_gauges_keep_to_the_limit() -> None:
    tally = Tally(2, first_zero=0.0)
    few = {("a", "STARTED", "w", "q"): 0, ("b", "STARTED", "w", "q"): 3}
    assert tally.fold(few) == few
    many = few | {("c", "RETRY", "w", "q"): 1, ("d", "X", "w", "q"): 2, ("e", "X", "w", "q"): 4}
    assert tally.fold(many) == {
        ("b", "STARTED", "w", "q"): 3,
        ("c", "RETRY", "w", "q"): 1,
        (OTHER, OTHER, OTHER, OTHER): 6,
    }


def test_date_done_in_the_future_is_not_believed() -> None:
    tally = Tally(1000, first_zero=0.0)
    feed(tally, Finished("SUCCESS", "a", "w", "q", done=NOW + 1e9))
    assert metrics.LAST_FINISHED not in tally.samples()
    feed(tally, Finished("SUCCESS", "a", "w", "q", done=900.0))
    feed(tally, Finished("SUCCESS", "a", "w", "q", done=800.0))
    feed(tally, Finished("SUCCESS", "a", "w", "q", done=None))
    assert tally.samples()[metrics.LAST_FINISHED] == [Sample(("a", "SUCCESS"), 900.0)]


def test_runtime_falls_into_its_bucket() -> None:
    tally = Tally(1000, first_zero=0.0)
    feed(tally, Finished("SUCCESS", "a", "w", "q", runtime=2.5))
    feed(tally, Finished("FAILURE", "a", "w", "q", runtime=1e6))
    histogram = tally.samples()[metrics.RUNTIME][0].value
    assert isinstance(histogram, Histogram)
    counts = dict(zip((*histogram.bounds, "inf"), histogram.counts, strict=True))
    assert {bound: n for bound, n in counts.items() if n} == {2.5: 1, "inf": 1}
    assert histogram.sum == 1_000_002.5


def test_counting_touches_nothing_until_it_is_taken_over() -> None:
    tally = Tally(1000, first_zero=0.0)
    change = Change(cursor=1, outcomes=[Finished("SUCCESS", "a", "w", "q")])
    tally.count("task", change, NOW, live=True)
    assert tally.samples() == {}
