"""Results of the past into series: the labels and sums of `run`, at the times of a grid."""

from __future__ import annotations

from collections import Counter
from itertools import groupby
from typing import TYPE_CHECKING, NamedTuple

from hypothesis import given
from hypothesis import strategies as st

from exporter.counting import feeds
from exporter.counting.history import METRICS, Book, Grid, Past
from exporter.counting.relabelling import Relabelling, Rule
from exporter.counting.results import READY_STATES, Finished, Group
from exporter.counting.step import Change
from exporter.counting.tally import Tally
from exporter.metrics import catalogue

if TYPE_CHECKING:
    from collections.abc import Sequence

    from exporter.counting.history import Cell
    from exporter.counting.shown import Key

DAY = 86_400
NAMES = st.sampled_from(["", "a", "b", "c", "web-1", "web-2"])
RULES = (
    Rule(sources=("worker",), target="worker", regex="(web)-.*", replacement="$1"),
    Rule("labeldrop", labels=("queue",)),
    Rule("drop", sources=("task",), regex="c"),
)


class Sample(NamedTuple):
    time: int
    value: int


grids = st.builds(
    lambda begin, length, step: Grid(begin, begin + length, step),
    st.integers(0, 3 * DAY),
    st.integers(1, 2 * DAY),
    st.sampled_from([60, 420, 900, 3600, 7200]),
)
groups = st.builds(
    Group,
    st.sampled_from(sorted(READY_STATES)),
    NAMES,
    NAMES,
    NAMES,
    st.integers(1, 3),
    st.integers(0, 2),
    st.floats(0, 5 * DAY),
    exception=st.sampled_from(["", "KeyError", "ValueError"]),
)
some = st.lists(groups, max_size=30)
rules = st.sampled_from([(), RULES])
limits = st.sampled_from([40, 60, 20_000])


def series(
    grid: Grid, rows: Sequence[Group], tally: Tally, stale_after: float = 0.0
) -> dict[Key, list[Sample]]:
    book = Book()
    past = Past("shop", tally, grid, stale_after, book)
    rounded = [group._replace(done=group.done // grid.unit * grid.unit) for group in rows]
    within = [r for r, g in zip(rounded, rows, strict=True) if grid.begin <= g.done < grid.end]
    cells: list[Cell] = sorted(past.cells("task", feeds.tasks, within))
    sums = [
        (*key, sum(amount for *_, amount in same))
        for key, same in groupby(cells, lambda cell: cell[:2])
    ]
    return {
        (one.metric, one.labels): [
            Sample(moment, run.value) for run in runs for moment in grid.times(run.first, run.last)
        ]
        for one, runs in book.runs(sums)
    }


def counted_by_run(rows: Sequence[Group], tally: Tally) -> dict[Key, float]:
    """Return what `run` would serve once it has read these."""
    for state, task, worker, queue, number, retries, _, _, exception, *_ in rows:
        outcome = Finished(state, task, worker, queue, number, retries, exception=exception)
        change = Change(outcomes=[outcome])
        tally.apply(tally.count("task", feeds.tasks, change, 0.0, live=False))
    served = tally.samples()
    return {
        (metric, sample.labels): sample.value
        for metric in METRICS
        for sample in served.get(metric, ())
    }


@given(grids, some, rules, limits)
def test_last_samples_are_what_run_would_serve(
    grid: Grid, rows: list[Group], rules: tuple[Rule, ...], limit: int
) -> None:
    """Of the results in the range: the same labels, whatever folds or is relabelled."""
    found = series(grid, rows, Tally(limit, 0.0, Relabelling(rules)))
    within = [group for group in rows if grid.begin <= group.done < grid.end]
    expected = counted_by_run(within, Tally(limit, 0.0, Relabelling(rules)))
    assert {key: samples[-1].value for key, samples in found.items()} == expected


@given(grids, some)
def test_each_sample_counts_what_finished_before_it(grid: Grid, rows: list[Group]) -> None:
    found = series(grid, rows, Tally(20_000, 0.0))
    for (metric, labels), samples in found.items():
        times = [sample.time for sample in samples]
        assert times == sorted(set(times))
        assert grid.begin <= times[0]
        assert times[-1] == grid.end
        assert all(time % grid.step == 0 for time in times if time not in (grid.begin, grid.end))
        assert samples[0].value == 0
        for time, value in samples:
            expected: Counter[tuple[str, ...]] = Counter()
            for state, task, worker, queue, number, retries, done, _, exception, *_ in rows:
                if grid.begin <= done < min(time, grid.end):
                    own, amount = {
                        catalogue.RESULTS: ((task, state, worker, queue), number),
                        catalogue.RETRIES: ((task, worker, queue), retries),
                        catalogue.FAILURES: (
                            (task, queue, exception),
                            number if state == "FAILURE" else 0,
                        ),
                    }[metric]
                    expected[own] += amount
            assert value == expected[labels]


def test_series_ends_when_its_labels_are_stale() -> None:
    """Those of a worker once it has finished nothing for long, those of a task with the task."""
    grid = Grid(0, DAY, 60)
    rows = [
        Group("SUCCESS", "t", "w1", "q", 1, 0, 3600.0),
        Group("FAILURE", "t", "w2", "q", 1, 0, 7200.0, exception="KeyError"),
    ]
    found = series(grid, rows, Tally(20_000, 0.0), stale_after=600.0)
    first = found[catalogue.RESULTS, ("t", "SUCCESS", "w1", "q")]
    assert (first[0], first[1], first[-1]) == ((3600, 0), (3660, 1), (3660 + 600, 1))
    assert found[catalogue.RESULTS, ("t", "FAILURE", "w1", "q")][-1] == (3660 + 600, 0)
    failures = found[catalogue.FAILURES, ("t", "q", "KeyError")]
    assert (failures[0].time, failures[-1]) == (3600, (7260 + 600, 1))


def test_series_of_a_metric_are_together() -> None:
    """Of all backends, whichever is read first."""
    book, grid = Book(), Grid(0, DAY, 60)
    for name in ("shop", "mail"):
        past = Past(name, Tally(20_000, 0.0), grid, 0.0, book)
        for state in ("SUCCESS", "FAILURE"):
            list(past.cells("task", feeds.tasks, [Group(state, "t", "", "", 1, 0, 0.0)]))
    order = [(one.metric, one.of.name) for one, _ in book.runs(())]
    assert len(book) == len(order) == 2 * (3 + 1 + 1)
    metrics = [metric for metric, _ in order]
    assert [metric for metric, _ in groupby(metrics)] == list(METRICS[:3])
