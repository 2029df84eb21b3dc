"""Few threads run many jobs: one after the other, but where they wait."""

from __future__ import annotations

import itertools
import sqlite3
import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest
from sqlalchemy import create_engine, event

from exporter.runtime import schedule
from exporter.runtime.schedule import SPARE, Schedule
from exporter.sql.waiting import waiting
from tests.servers.process import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

PATIENCE = 30.0  # seconds
NEVER = 1e6  # seconds


class Job:
    """Does something once, and again after so many seconds."""

    def __init__(self, work: Callable[[], object] = bool, again: float = NEVER) -> None:
        self.work = work
        self.again = again
        self.begun = threading.Event()
        self.closed = threading.Event()
        self.at: list[float] = []

    def run(self) -> float:
        self.at.append(time.monotonic())
        self.begun.set()
        self.work()
        return self.at[0] + len(self.at) * self.again

    def close(self) -> None:
        assert not self.closed.is_set()
        self.closed.set()


@contextmanager
def running(*jobs: Job) -> Iterator[Schedule]:
    made = Schedule(jobs)
    made.start()
    try:
        yield made
    finally:
        made.stop()
        assert made.join(PATIENCE)


@pytest.fixture
def gate() -> Iterator[threading.Event]:
    """Give what a test lets jobs wait for."""
    event = threading.Event()
    yield event
    event.set()


@pytest.fixture
def no_help(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(schedule, "HELP_AFTER", PATIENCE)


@pytest.mark.usefixtures("no_help")
def test_one_computes_at_a_time(gate: threading.Event) -> None:
    """Two hundred at once took 42 s of CPU time, which one by one take 2 s."""
    first, second = Job(lambda: gate.wait(PATIENCE)), Job()
    with running(first, second):
        assert first.begun.wait(PATIENCE)
        assert not second.begun.wait(0.2)
        gate.set()
        assert second.begun.wait(PATIENCE)


@pytest.mark.usefixtures("no_help")
def test_many_take_few_threads() -> None:
    before, most = threading.active_count(), []
    jobs = [Job(lambda: most.append(threading.active_count()), again=0.2) for _ in range(200)]
    with running(*jobs):
        wait_until(lambda: all(len(job.at) >= 3 for job in jobs), "three rounds")
    assert max(most) <= before + SPARE + 1


@pytest.mark.usefixtures("no_help")
def test_who_waits_keeps_nobody_waiting(gate: threading.Event) -> None:
    def wait() -> None:
        with waiting(), waiting():
            gate.wait(PATIENCE)

    last = Job()
    with running(*(Job(wait) for _ in range(20)), last):
        assert last.begun.wait(PATIENCE / 2)
        gate.set()


@pytest.mark.usefixtures("no_help")
def test_who_waits_for_a_database_keeps_nobody_waiting(gate: threading.Event) -> None:
    engine = create_engine("sqlite://")

    @event.listens_for(engine, "connect")
    def _(connection: sqlite3.Connection, _record: object) -> None:
        connection.create_function("sleep", 0, lambda: int(gate.wait(PATIENCE)))

    def poll() -> None:
        with engine.connect() as connection:
            assert connection.exec_driver_sql("SELECT sleep()").scalar() == 1

    other = Job()
    with running(Job(poll), other):
        assert other.begun.wait(PATIENCE / 2)
        gate.set()


def test_who_takes_long_keeps_nobody_waiting_for_long(gate: threading.Event) -> None:
    first, second = Job(lambda: gate.wait(PATIENCE)), Job()
    before = time.monotonic()
    with running(first, second):
        assert second.begun.wait(PATIENCE / 2)
        gate.set()
    assert second.at[0] - before >= schedule.HELP_AFTER


def test_threads_end_when_nothing_hangs_any_more(gate: threading.Event) -> None:
    def wait() -> None:
        with waiting():
            gate.wait(PATIENCE)

    before = threading.active_count()
    jobs = [Job(wait) for _ in range(10)]
    with running(*jobs):
        wait_until(lambda: all(job.begun.is_set() for job in jobs), "all that hang")
        assert threading.active_count() > before + len(jobs)
        gate.set()
        wait_until(lambda: threading.active_count() <= before + SPARE, "threads to end")


def test_those_at_work_go_on_where_no_more_threads_are_allowed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    jobs = [Job(again=0.05) for _ in range(3)]
    made = Schedule(jobs)
    start, started = threading.Thread.start, itertools.count()

    def refuse(thread: threading.Thread) -> None:
        if next(started):
            raise RuntimeError("can't start new thread")
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", refuse)
    made.start()
    wait_until(lambda: all(len(job.at) >= 3 for job in jobs), "three rounds")
    made.stop()
    assert made.join(PATIENCE)
    assert next(started) > 1
    assert all(job.closed.is_set() for job in jobs)


def test_each_is_run_when_it_is_due() -> None:
    job = Job(again=0.1)
    with running(Job(), job):
        wait_until(lambda: len(job.at) >= 5, "five rounds")
    for number, moment in enumerate(job.at):
        assert moment >= job.at[0] + number * job.again
    assert job.at[4] < job.at[0] + PATIENCE / 2


def test_end_closes_each_even_beside_one_that_hangs(gate: threading.Event) -> None:
    hangs, jobs = Job(lambda: gate.wait(PATIENCE)), [Job() for _ in range(100)]
    made = Schedule([*jobs, hangs])
    made.start()
    assert hangs.begun.wait(PATIENCE)
    made.stop()
    assert not made.join(0.1)
    wait_until(lambda: all(job.closed.is_set() for job in jobs), "the others to be closed")
    assert not hangs.closed.is_set()
    gate.set()
    assert made.join(PATIENCE)
    assert hangs.closed.is_set()


@pytest.mark.usefixtures("no_help")
def test_one_that_breaks_takes_nobody_with_it(caplog: pytest.LogCaptureFixture) -> None:
    broken = Job(lambda: 1 // 0)
    others = [Job(again=0.05) for _ in range(3)]
    with running(broken, *others):
        wait_until(lambda: all(len(job.at) >= 3 for job in others), "three rounds")
    assert len(broken.at) == 1
    assert "ZeroDivisionError" in caplog.text


def test_one_more_begins_at_once() -> None:
    with running(Job()) as made:
        later = Job()
        made.add(later)
        assert later.begun.wait(PATIENCE)


@pytest.mark.parametrize("again", [0.001, NEVER])
def test_retired_one_is_closed_and_then_its_successor_begins(again: float) -> None:
    """At once, even where it is not due for long."""
    old, new = Job(again=again), Job()
    with running(old) as made:
        assert old.begun.wait(PATIENCE)
        made.retire(old, lambda: made.add(new))
        assert new.begun.wait(PATIENCE)
        assert old.closed.is_set()
        runs = len(old.at)
        time.sleep(0.05)
        assert len(old.at) == runs


def test_retired_one_ends_what_it_is_at_first(gate: threading.Event) -> None:
    old, new = Job(lambda: gate.wait(PATIENCE)), Job()
    with running(old) as made:
        assert old.begun.wait(PATIENCE)
        made.retire(old, lambda: made.add(new))
        assert not new.begun.wait(0.2)
        assert not old.closed.is_set()
        gate.set()
        assert new.begun.wait(PATIENCE)
        assert old.closed.is_set()
        assert len(old.at) == 1
