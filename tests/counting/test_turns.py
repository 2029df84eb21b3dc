"""Polls that fall due together compute one after the other, and wait at the same time."""

from __future__ import annotations

import sqlite3
import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest
from sqlalchemy import create_engine, event

from exporter import turns
from exporter.config import from_url
from exporter.exposition import Exposition
from exporter.poller import Poller
from exporter.turns import turn, urgent, waiting
from tests.counting.follow import create_tables

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.servers.database import Database

PATIENCE = 30.0  # seconds


@contextmanager
def beside(work: Callable[[], object]) -> Iterator[threading.Thread]:
    """Do this in another thread, which has ended at the end."""
    thread = threading.Thread(target=work)
    thread.start()
    yield thread
    thread.join(PATIENCE)
    assert not thread.is_alive()


@pytest.mark.parametrize("database", ["sqlite"], indirect=True)
def test_polls_take_turns(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two hundred at once took 42 s of CPU time, which one by one take 2 s."""
    monkeypatch.setattr(turns, "STUCK_AFTER", PATIENCE)
    create_tables(database)
    (settings,) = from_url(database.reader_url).backends
    poller = Poller(settings, Exposition())
    with turn():
        with beside(poller.try_poll):
            assert not poller.tried.wait(0.2)
            with waiting():
                assert poller.tried.wait(PATIENCE)
        poller.database.close()


def test_who_waits_for_a_database_keeps_nobody_waiting() -> None:
    engine = create_engine("sqlite://")
    asleep, wake = threading.Event(), threading.Event()

    @event.listens_for(engine, "connect")
    def _(connection: sqlite3.Connection, _record: object) -> None:
        connection.create_function("sleep", 0, sleep)

    def sleep() -> int:
        asleep.set()
        return int(wake.wait(PATIENCE))

    def poll() -> None:
        with turn(), engine.connect() as connection:
            assert connection.exec_driver_sql("SELECT sleep()").scalar() == 1

    with beside(poll):
        assert asleep.wait(PATIENCE)
        begun = time.monotonic()
        with turn():
            took = time.monotonic() - begun
        wake.set()
    assert took < turns.STUCK_AFTER / 2


def test_who_keeps_the_turn_keeps_nobody_waiting_for_long() -> None:
    kept, let_go = threading.Event(), threading.Event()

    def hang() -> None:
        with turn():
            kept.set()
            let_go.wait(PATIENCE)

    with beside(hang):
        assert kept.wait(PATIENCE)
        begun = time.monotonic()
        with turn():
            took = time.monotonic() - begun
        let_go.set()
    assert turns.STUCK_AFTER <= took < turns.STUCK_AFTER + PATIENCE / 2


def test_polls_stand_aside_while_a_scrape_is_put_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(turns, "ASIDE", PATIENCE)
    computed = threading.Event()

    def poll() -> None:
        with turn():
            computed.set()

    with urgent():
        thread = threading.Thread(target=poll)
        thread.start()
        assert not computed.wait(0.2)
    assert computed.wait(PATIENCE)
    thread.join()


def test_scrapes_without_end_hold_no_poll_up() -> None:
    with urgent():
        begun = time.monotonic()
        with turn():
            took = time.monotonic() - begun
    assert turns.ASIDE <= took < turns.ASIDE + PATIENCE / 2
