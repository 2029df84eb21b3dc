"""A poll that hangs is unhealthy, in time; a database that is down, slow or silent is not."""

from __future__ import annotations

import socket
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import Engine, event

from exporter.config.settings import Config
from exporter.runtime import poller
from exporter.runtime.poller import INTERVALS, LATE
from exporter.runtime.service import Service
from tests.follow import Follower
from tests.servers.process import HOST, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.servers.database import Database

pytestmark = [
    pytest.mark.parametrize("database", ["sqlite"], indirect=True),
    pytest.mark.usefixtures("engine"),
]

INTERVAL, TIMEOUT = 0.4, 0.3  # seconds


def backend(url: str, name: str, **settings: Any) -> Any:
    limits = {"connect_timeout": TIMEOUT, "query_timeout": TIMEOUT, "poll_interval": INTERVAL}
    made = Follower(url, **{**limits, **settings}).poller.settings
    return made.model_copy(update={"name": name})


@pytest.fixture
def gate() -> Iterator[threading.Event]:
    opens = threading.Event()
    yield opens
    opens.set()


def test_a_driver_that_hangs(database: Database, gate: threading.Event) -> None:
    """It is noticed within three poll intervals and all timeouts; others are polled on."""

    def hang() -> None:
        gate.wait()

    url = database.reader_url
    hanging = backend(url, "hangs", database_engine_options={"creator": hang})
    service = Service(Config((hanging, backend(url, "shop")), None, 0.0))
    began = time.monotonic()
    service.start()
    try:
        wait_until(lambda: service.status().backends[1].up, "the other one")
        assert service.unhealthy() == ""
        wait_until(service.unhealthy, "it is noticed")
        took = time.monotonic() - began
        assert service.unhealthy() == "polling is stuck: hangs"
        assert [one.stuck for one in service.status().backends] == [True, False]
        assert took >= 2 * TIMEOUT
        assert took < INTERVALS * INTERVAL + 2 * TIMEOUT + LATE + 1
        before = service.status().backends[1].last_poll
        wait_until(lambda: service.status().backends[1].last_poll != before, "another poll")
        gate.set()
        wait_until(lambda: not service.unhealthy(), "it goes on")
    finally:
        gate.set()
        service.stop()


def test_a_silent_database_is_not_unhealthy(database: Database) -> None:
    """Each connection is given up in time, and the next one is no progress lost."""
    with socket.create_server((HOST, 0)) as server:  # the kernel accepts for it
        port = server.getsockname()[1]
        silent = backend(f"mysql+pymysql://u:p@{HOST}:{port}/d", "silent")
        service = Service(Config((silent, backend(database.reader_url, "shop")), None, 0.0))
        service.start()
        try:
            wait_until(lambda: service.status().backends[0].up is False, "it is down")
            end = time.monotonic() + INTERVALS * INTERVAL + 2 * TIMEOUT + LATE
            while time.monotonic() < end:
                assert service.unhealthy() == ""
                time.sleep(0.05)
        finally:
            service.stop()


def test_slow_statements_are_progress(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many of them a step needs: each has its own limit."""
    monkeypatch.setattr(poller, "LATE", 0.0)
    follower = Follower(database.reader_url, connect_timeout=TIMEOUT, query_timeout=TIMEOUT)
    patience = 2 * TIMEOUT + INTERVALS * follower.poller.settings.poll_interval
    stuck: list[bool] = []
    polled = threading.Event()

    def slow(*_: object) -> None:
        time.sleep(0.8 * TIMEOUT)

    def look() -> None:
        while not polled.wait(0.02):
            stuck.append(follower.poller.stuck())

    looking = threading.Thread(target=look)
    event.listen(Engine, "before_cursor_execute", slow)
    try:
        looking.start()
        began = time.monotonic()
        follower.poll()
        assert time.monotonic() - began > 2 * patience
    finally:
        polled.set()
        looking.join()
        event.remove(Engine, "before_cursor_execute", slow)
    assert stuck
    assert not any(stuck)
    follower.close()
