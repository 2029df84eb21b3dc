"""Dates tell their zone, as results appear between two looks; what is not certain is not told."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.counting import feeds
from exporter.counting.lifecycle import Rules
from exporter.counting.position import Position
from exporter.counting.results import SUCCESS, Group, Row
from exporter.counting.step import Batch
from exporter.counting.tally import Changes, Tally
from exporter.counting.values import Newest
from exporter.counting.zones import (
    ENOUGH,
    LATE,
    LONGEST_WATCH,
    LOOKS,
    REMEMBERED,
    Settled,
    doubts,
)
from exporter.metrics import catalogue
from exporter.metrics.samples import Histogram

if TYPE_CHECKING:
    from collections.abc import Sequence

POLL = 15.0
HOUR = 3600.0
NOW = datetime(2026, 11, 26, 12, tzinfo=UTC).timestamp()


def wall(moment: float, zone: str) -> float:
    """Return what is stored, as it is read: as if it were UTC."""
    local = datetime.fromtimestamp(moment, ZoneInfo(zone))
    return local.replace(tzinfo=UTC).timestamp()


class Backend:
    """A table whose results are read and counted by an injected clock, without a database."""

    def __init__(
        self, zone: str, now: float = NOW, poll: float = POLL, rules: Rules | None = None
    ) -> None:
        self.zone, self.now, self.interval = zone, now, poll
        self.position = Position(rules or Rules(start="beginning"))
        self.tally = Tally(1_000, 0.0)
        self.top = 0

    def finished(
        self, *moments: float, task: str = "a", zone: str = "", state: str = SUCCESS
    ) -> Backend:
        """Poll, and see results that finished then; each in a group of its own, if they succeeded.

        Written in the table's zone, or another one.
        """
        self.now += self.interval
        walls = [wall(moment, zone or self.zone) for moment in moments]
        rows = [Row(self.top + n, state, task, "w", "q", 0, w) for n, w in enumerate(walls, 1)]
        groups = [Group(SUCCESS, task, f"w{n}", "q", 1, 0, w) for n, w in enumerate(walls)]
        succeeded = state == SUCCESS
        return self.read(() if succeeded else rows, groups if succeeded else (), new=len(walls))

    def read(self, rows: Sequence[Row], groups: Sequence[Group] = (), *, new: int = 0) -> Backend:
        """Read these, so many of them new, and the others watched."""
        position = self.position
        position.pass_to(self.now)
        plan, self.top = position.plan(self.now), self.top + new
        batch = Batch(
            plan,
            self.top or None,
            upto=self.top if new else None,
            groups=(*groups,),
            rows=(*rows,) if new else (),
            watched=() if new else (*rows,),
            digests=((),) * len(plan.cohorts),
            changed=tuple(row_id for cohort in plan.cohorts for row_id in cohort.ids),
            walls=True,
        )
        change = position.advance(batch, self.now)
        self.tally.apply(self.tally.count("task", feeds.tasks, change, self.now, live=True))
        position.apply(change)
        return self

    def settle(self) -> Backend:
        """Let enough results finish."""
        self.finished()
        for _ in range(ENOUGH):
            self.finished(just(self))
        assert self.position.settled is not None
        return self

    def restart(self, after: float) -> Backend:
        """Go on from what a checkpoint would hold, so many seconds later."""
        before = self.position
        self.position = Position(before.rules)
        self.position.restore(before.mark, before.gaps, before.segments, before.watched)
        kept = Changes(dict(self.tally.values))
        self.tally = Tally(1_000, 0.0)
        self.tally.apply(kept)
        self.now += after
        return self

    @property
    def offset(self) -> float | None:
        settled = self.position.settled
        return None if settled is None else settled.offset

    def last(self, task: str = "a", state: str = SUCCESS) -> float | None:
        """Return when the task finished last, as served."""
        samples = self.tally.samples().get(catalogue.LAST_FINISHED, ())
        found = [s.value for s in samples if s.labels == (task, state)]
        assert not any(isinstance(value, Histogram) for value in found)
        return found[0] if found else None  # type: ignore[return-value]

    @property
    def withheld(self) -> int:
        (sample,) = self.tally.samples()[catalogue.DATES_WITHHELD]
        assert not isinstance(sample.value, Histogram)
        return int(sample.value)


def just(backend: Backend) -> float:
    """Return a moment between the last poll and the next."""
    return backend.now + backend.interval / 2


@pytest.mark.parametrize(
    ("zone", "hours"),
    [
        ("UTC", 0),
        ("Asia/Seoul", 9),
        ("Asia/Kathmandu", 5.75),
        ("America/St_Johns", -3.5),
        ("Pacific/Chatham", 13.75),
        ("Pacific/Kiritimati", 14),
        ("Etc/GMT+12", -12),
    ],
)
def test_results_settle_the_zone(zone: str, hours: float) -> None:
    """Then what was seen before is told, too; nothing is until then."""
    backend = Backend(zone).finished()
    early = just(backend)
    backend.finished(early, task="early")
    for n in range(1, ENOUGH):
        assert (backend.offset, backend.last(), backend.last("early")) == (None, None, None)
        assert backend.withheld == n
        last = just(backend)
        backend.finished(last)
    assert str(backend.offset) == str(float(hours * HOUR))  # no -0.0
    assert (backend.last(), backend.last("early")) == (last, early)
    failed = just(backend)
    backend.finished(failed, state="FAILURE")
    assert (backend.last(state="FAILURE"), backend.withheld) == (failed, ENOUGH)
    settled = backend.position.settled
    assert settled is not None
    assert (settled.agreed, settled.odd) == (backend.now - POLL, 0)  # to the minute


def test_three_results_settle_it_where_they_are_rare() -> None:
    backend = Backend("Asia/Seoul").finished()
    for day in range(1, LOOKS + 1):
        backend.now = NOW + day * 86_400
        backend.finished()
        assert backend.offset is None
        last = just(backend)
        backend.finished(last)
    assert (backend.offset, backend.last()) == (9 * HOUR, last)


def test_history_tells_nothing_and_is_not_told() -> None:
    """Not even once the zone is known: it may have been another one then."""
    backend = Backend("Asia/Seoul")
    backend.finished(*(backend.now - n for n in range(100)), task="old").settle()
    assert (backend.last(), backend.last("old")) != (None, None)
    assert backend.last("old") is None
    backend.finished(just(backend), task="old")
    assert backend.last("old") == backend.now - POLL / 2


def test_many_results_of_one_look_settle_nothing() -> None:
    """A dump that is restored holds old dates that may lie close together."""
    backend = Backend("UTC").finished()
    old = backend.now - 3 * HOUR
    backend.finished(*(old - n / 100 for n in range(1_000)))
    assert (backend.offset, backend.last()) == (None, None)


SHIFTS = [
    ("Europe/Paris", datetime(2026, 10, 25, 1, tzinfo=UTC), -HOUR),
    ("Europe/Paris", datetime(2027, 3, 28, 1, tzinfo=UTC), HOUR),
    ("Australia/Lord_Howe", datetime(2027, 4, 3, 15, tzinfo=UTC), -HOUR / 2),
    ("Australia/Lord_Howe", datetime(2026, 10, 3, 15, 30, tzinfo=UTC), HOUR / 2),
]


@pytest.mark.parametrize(("zone", "at", "shift"), SHIFTS)
def test_daylight_saving_settles_it_anew(zone: str, at: datetime, shift: float) -> None:
    """At no poll is a time shown at which nothing had finished."""
    change = at.timestamp()
    backend = Backend(zone, change - 50 * POLL - 5).settle()
    before, finished = backend.offset, set()
    assert before is not None
    shown = []
    while backend.now < change + 50 * POLL:
        finished.add(just(backend))
        backend.finished(just(backend))
        shown.append(backend.last())
    assert set(shown[1:]) <= finished
    assert shown == sorted(shown, key=float)  # never goes back
    assert (backend.offset, shown[-1]) == (before + shift, max(finished))
    moved = len(shown) - len(set(shown))  # polls that showed nothing new
    assert moved == ENOUGH - 1
    assert backend.position.settled is not None
    assert backend.position.settled.odd == 0  # the others were of another time


@pytest.mark.parametrize(("zone", "at", "shift"), SHIFTS)
def test_daylight_saving_where_results_are_rare(zone: str, at: datetime, shift: float) -> None:
    """The first result settles it, or what runs once a night would seem not to have run."""
    change = at.timestamp()
    backend = Backend(zone, change - HOUR).settle()
    before = backend.offset
    assert before is not None
    backend.now = change + HOUR
    last = just(backend.finished())
    backend.finished(last)
    assert (backend.offset, backend.last()) == (before + shift, last)


def test_upgrade_of_celery_moves_it() -> None:
    """By 9 h, from 5.4 to 5.5: while workers of both run, each result is told that is certain."""
    backend = Backend("UTC").settle()
    shown = backend.last()
    for _ in range(5):
        backend.finished(just(backend), zone="Asia/Seoul")
        assert (backend.offset, backend.last()) == (0, shown)
        shown = just(backend)
        backend.finished(shown)
        assert (backend.offset, backend.last()) == (0, shown)
    for _ in range(ENOUGH):
        backend.finished(shown := just(backend), zone="Asia/Seoul")
    assert (backend.offset, backend.last()) == (9 * HOUR, shown)


def test_two_zones_at_once() -> None:
    """Nothing is settled where they take turns, and it is said."""
    backend = Backend("UTC").finished()
    for _ in range(REMEMBERED // 2):
        backend.finished(just(backend), task="utc")
        backend.finished(just(backend), task="seoul", zone="Asia/Seoul")
    assert (backend.offset, backend.last("utc"), backend.last("seoul")) == (None, None, None)
    assert backend.withheld == REMEMBERED
    (doubt,) = doubts(None, backend.position.sightings)
    assert "do not agree" in doubt
    backend.settle()
    assert [*doubts(backend.position.settled)] == []
    for _ in range(ENOUGH):
        backend.finished(just(backend), task="seoul", zone="Asia/Seoul")
        backend.finished(just(backend), task="utc")
    assert (backend.offset, backend.last("seoul")) == (0, None)
    assert backend.last("utc") == backend.now - POLL / 2
    (doubt,) = doubts(backend.position.settled)
    assert f"date_done of {ENOUGH} of the latest" in doubt
    assert "UTC+00:00" in doubt


@pytest.mark.parametrize("skew", [-200.0, 90.0])
def test_clocks_that_differ_settle_nothing(skew: float) -> None:
    backend = Backend("UTC").finished()
    for _ in range(REMEMBERED):
        backend.finished(just(backend) + skew)
    assert (backend.offset, backend.last()) == (None, None)
    assert [*doubts(None, backend.position.sightings)]


def test_polls_that_are_too_rare_settle_nothing() -> None:
    backend = Backend("UTC", poll=LONGEST_WATCH + 1).finished()
    for _ in range(ENOUGH):
        backend.finished(just(backend))
    assert (backend.offset, backend.last(), backend.withheld) == (None, None, ENOUGH)


def test_restart() -> None:
    """What finished meanwhile, within minutes, is in one zone only."""
    backend = Backend("Asia/Seoul").settle().restart(60.0)
    meanwhile = backend.now - 30.0
    backend.finished(meanwhile, task="b")
    assert backend.last("b") == meanwhile


def test_outage() -> None:
    """What finished meanwhile is told as soon as a result shows that the zone is the same still."""
    backend = Backend("Asia/Seoul").settle()
    shown = backend.last()
    backend.restart(5 * HOUR)
    meanwhile = backend.now - HOUR
    backend.finished(meanwhile, task="b").finished(task="b")
    assert (backend.last(), backend.last("b")) == (shown, None)
    assert backend.tally.success_seen("b") == backend.now - POLL  # expected tasks are not late
    backend.finished(just(backend))
    assert backend.last("b") == meanwhile
    assert backend.tally.success_seen("b") == meanwhile


@pytest.mark.parametrize(("zone", "at", "shift"), SHIFTS)
@pytest.mark.parametrize("after", [-600.0, 600.0])
def test_daylight_saving_in_an_outage(zone: str, at: datetime, shift: float, after: float) -> None:
    """What finished meanwhile may be of either: it is not told."""
    change = at.timestamp()
    backend = Backend(zone, change - HOUR).settle()
    before = backend.offset
    assert before is not None
    backend.restart(change + HOUR - backend.now)
    backend.finished(change + after, task="b").finished()
    for _ in range(ENOUGH):
        backend.finished(just(backend))
    assert (backend.offset, backend.last("b")) == (before + shift, None)
    assert backend.last() == backend.now - POLL / 2


def test_late_result_is_told() -> None:
    """One that had to wait for its name, or was committed late."""
    backend = Backend("Asia/Seoul").settle()
    late = backend.now - LATE + 2 * POLL
    backend.finished(late, task="b")
    assert backend.last("b") == late
    backend.finished(backend.now - HOUR, task="c").settle()
    assert backend.last("c") is None


def test_result_that_is_watched_tells_it_when_it_finishes() -> None:
    """Where tasks are tracked as STARTED, all results come so."""
    backend = Backend("Asia/Seoul").finished()
    for row_id in range(1, ENOUGH + 1):
        row = Row(row_id, "STARTED", "a", "w", "q", 0, None)
        backend.now += POLL
        backend.read((row,), new=1)
        assert backend.offset is None
        done = just(backend)
        backend.now += POLL
        backend.read((row._replace(state=SUCCESS, done=wall(done, "Asia/Seoul")),))
    assert (backend.offset, backend.last()) == (9 * HOUR, done)


def test_result_that_waits_for_its_name_is_not_odd() -> None:
    """What it tells it told when it finished, and not minutes later, when it counts."""
    backend = Backend("Asia/Seoul", rules=Rules(start="beginning", named=True)).settle()
    for _ in range(2 * ENOUGH):
        done = just(backend)
        row = Row(backend.top + 1, "REVOKED", "", "", "", 0, wall(done, "Asia/Seoul"))
        backend.now += POLL
        backend.read((row,), new=1)
        assert backend.last("", "REVOKED") != done
        for _ in range(21):  # five minutes
            backend.now += POLL
            backend.read((row,))
        assert backend.last("", "REVOKED") == done
    assert backend.position.settled is not None
    assert (backend.offset, backend.position.settled.odd) == (9 * HOUR, 0)


def test_time_that_was_read_in_another_zone_is_replaced() -> None:
    """Or an upgrade to `auto` would leave 9 h ahead of the clock what ran last before."""
    backend = Backend("Asia/Seoul").finished()
    key = (catalogue.LAST_FINISHED, ("a", SUCCESS))
    backend.tally.apply(Changes({key: Newest(backend.now + 9 * HOUR)}))
    backend.settle()
    assert backend.last() == backend.now - POLL / 2


def test_run_time_does_not_take_another_zone_for_the_end() -> None:
    """Kathmandu's dates lie between start and end of a task that runs for hours."""
    backend = Backend("Asia/Kathmandu").finished()
    row = Row(1, "STARTED", "a", "w", "q", 0, None)
    backend.now += POLL
    backend.read((row,), new=1)
    started = backend.now
    backend.now += 8 * HOUR
    done = backend.now - 5.75 * HOUR  # so that it seems to have finished right now
    backend.read((row._replace(state=SUCCESS, done=wall(done, "Asia/Kathmandu") - HOUR),))
    (sample,) = backend.tally.samples()[catalogue.RUNTIME]
    assert isinstance(sample.value, Histogram)
    assert sample.value.sum == backend.now - started


def test_offset_has_a_name() -> None:
    names = {9: "UTC+09:00", -3.5: "UTC-03:30", 0: "UTC+00:00", 13.75: "UTC+13:45"}
    for hours, name in names.items():
        assert Settled(hours * HOUR, 0.0, 0.0).name == name


LAGS = st.lists(st.floats(0.0, 1.0), max_size=3)  # by which results finished before a poll
EVENTS = st.lists(
    st.one_of(
        st.tuples(st.just("polls"), st.integers(1, 20), LAGS),
        st.tuples(st.just("idle"), st.sampled_from([60.0, HOUR / 2, HOUR, 20 * HOUR]), LAGS),
        st.tuples(st.just("outage"), st.sampled_from([60.0, HOUR / 2, HOUR, 20 * HOUR]), LAGS),
        st.tuples(st.just("late"), st.floats(0.0, LATE), LAGS),
    ),
    max_size=30,
)


@given(
    events=EVENTS,
    shift=st.sampled_from(SHIFTS),
    before=st.floats(0.0, 30 * HOUR),
    interval=st.sampled_from([1.0, POLL, LONGEST_WATCH]),
)
def test_only_times_are_told_at_which_a_result_finished(
    events: list[tuple[str, float, list[float]]],
    shift: tuple[str, datetime, float],
    before: float,
    interval: float,
) -> None:
    """Whatever comes before, at and after a change to or from daylight saving."""
    zone, at, _ = shift
    start = at.timestamp() - before - (ENOUGH + 2) * interval
    backend = Backend(zone, round(start), interval).settle()
    finished = {backend.last()}

    def poll(moments: list[float]) -> None:
        moments = [float(round(moment)) for moment in moments]
        finished.update(moments)
        backend.finished(*moments)
        assert backend.last() in finished

    for event, number, lags in events:
        if event == "polls":
            for _ in range(int(number)):
                poll([backend.now + interval * lag for lag in lags])
        elif event == "idle":
            pause = max(interval, HOUR / 4)
            for _ in range(round(number / pause) + 1):
                poll([])
                backend.now += pause - interval
        elif event == "outage":
            backend.restart(number)
            poll([backend.now - number * lag for lag in lags])
        else:
            poll([backend.now - number * lag for lag in lags])
