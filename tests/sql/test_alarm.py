"""Alarms: when something takes too long, and only then."""

from __future__ import annotations

import threading
import time

from exporter.sql.alarm import INTERVAL, Look, alarm
from tests.servers.process import wait_until


def test_acts_when_it_takes_too_long() -> None:
    rung = threading.Event()
    begun = time.monotonic()
    with alarm(0.1, when_late(rung)):
        assert rung.wait(30)
    assert time.monotonic() - begun >= 0.1


def test_looks_until_there_is_enough_to_see() -> None:
    looks: list[bool] = []

    def third(*, late: bool) -> bool:
        looks.append(late)
        return len(looks) == 3

    with alarm(30, third):
        wait_until(lambda: len(looks) == 3, "three looks")
        time.sleep(3 * INTERVAL)
    assert looks == [False] * 3


def test_does_nothing_in_time() -> None:
    in_time = False
    while not in_time:  # a busy machine may be late itself
        rung, begun = threading.Event(), time.monotonic()
        with alarm(2 * INTERVAL, when_late(rung)):
            pass
        in_time = time.monotonic() < begun + 2 * INTERVAL
    assert not rung.wait(4 * INTERVAL)


def test_one_that_breaks_keeps_no_other_from_acting() -> None:
    rung = threading.Event()

    def broken(*, late: bool) -> bool:
        raise ZeroDivisionError(late)

    with alarm(0.1, broken), alarm(0.1, when_late(rung)):
        assert rung.wait(30)


def test_any_number_takes_one_thread_and_none_when_all_is_done() -> None:
    wait_until(lambda: not watching(), "the thread of other tests to end")
    for _ in range(100):
        with alarm(30, when_late(threading.Event())):
            assert len(watching()) == 1
    wait_until(lambda: not watching(), "the thread to end")


def when_late(rung: threading.Event) -> Look:
    def look(*, late: bool) -> bool:
        if late:
            rung.set()
        return late

    return look


def watching() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "alarm"]
