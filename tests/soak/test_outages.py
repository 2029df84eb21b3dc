"""Servers that stop, networks that fail: nothing is lost, and no other backend notices."""

from __future__ import annotations

import contextlib
import random
import signal
import time
from dataclasses import dataclass
from statistics import fmean, median, quantiles
from typing import TYPE_CHECKING

import pytest
from sqlalchemy import NullPool, create_engine, text

from tests.acceptance.footprint import at_rest
from tests.acceptance.process import running
from tests.acceptance.watchdog import Watchdog
from tests.follow import create_tables
from tests.servers.database import OWNER_PASSWORD, Database, DatabaseServer, SQLite
from tests.servers.proxy import Mode, Proxy
from tests.soak.load import Load, assert_counts, backend, config, load
from tests.soak.sizes import CUTS, OUTAGES, ROUNDS, kinds

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.acceptance.process import Exporter
    from tests.servers.mariadb import MariaDB
    from tests.servers.postgresql import PostgreSQL

pytestmark = pytest.mark.timeout(3600)
HEALTHY = ("healthy-server", "healthy-file")
LIMIT = 3.0  # seconds that a query of the disturbed one may take; longer than a machine pauses
INTERVAL = 0.5  # seconds between polls of the healthy ones
CONNECTIONS = {
    "postgresql": "SELECT count(*) FROM pg_stat_activity WHERE usename = 'reader'",
    "mysql": "SELECT count(*) FROM information_schema.processlist WHERE user = 'reader'",
}


@dataclass
class Scene:
    """One backend to disturb and two that must not notice, all of them written to."""

    exporter: Exporter
    watchdog: Watchdog
    database: Database
    proxy: Proxy
    loads: dict[str, Load]

    def wait_for_up(self, value: int) -> None:
        """Wait until a poll of the disturbed one has failed, or worked again."""
        self.exporter.wait_for("celery_backend_up", value, timeout=90, backend="disturbed")

    def connections(self) -> int:
        """Count what the exporter holds at the disturbed server, when that is quiet."""
        query = text(CONNECTIONS[self.database.owner.get_backend_name()])
        server = self.database.server
        assert isinstance(server, DatabaseServer)
        url = server.url(server.administration, server.administrator, OWNER_PASSWORD)
        found = []
        with create_engine(url, poolclass=NullPool).connect() as connection:
            for _ in range(5):
                time.sleep(0.1)
                found.append(connection.execute(query).scalar_one())
        return min(found)


@pytest.fixture
def scene(
    database: Database, postgresql: PostgreSQL, mariadb: MariaDB, tmp_path: Path
) -> Iterator[Scene]:
    """Disturb as you like; in the end everything must be counted, and all be as before."""
    server = database.server
    assert isinstance(server, DatabaseServer)
    other = mariadb if server is postgresql else postgresql
    with contextlib.ExitStack() as stack:
        neighbour = stack.enter_context(other.fresh_database())
        file = stack.enter_context(SQLite(tmp_path).fresh_database())
        databases = dict(zip(("disturbed", *HEALTHY), (database, neighbour, file), strict=True))
        for each in databases.values():
            create_tables(each)
        proxy = stack.enter_context(Proxy(server.port))
        through = database.reader.set(port=proxy.port).render_as_string(hide_password=False)
        limits = {f"{what}_timeout": f"{LIMIT * 1000:.0f}ms" for what in ("query", "connect")}
        slowly = {"poll_interval": f"{INTERVAL * 1000:.0f}ms"}
        settings = config(
            tmp_path,
            backend("disturbed", through, **limits),
            backend(HEALTHY[0], neighbour.reader_url, **slowly),
            backend(HEALTHY[1], file.reader_url, **slowly),
        )
        watchdog = stack.enter_context(Watchdog(0.1))
        exporter = stack.enter_context(running(tmp_path, settings))
        watchdog.exporter = exporter
        loads = {
            name: stack.enter_context(load(each.celery_url, tmp_path, 2, pause=0.03))
            for name, each in databases.items()
        }
        for name in databases:
            exporter.wait_for("celery_backend_up", 1, backend=name, timeout=30)
        exporter.wait_until(lambda: all(each.stored() for each in loads.values()), "load")
        scene = Scene(exporter, watchdog, database, proxy, loads)
        before, connections = at_rest(exporter), scene.connections()
        began = time.time()

        yield scene

        for name in HEALTHY:
            assert_steady(name, watchdog.intervals(name, began))
        scene.wait_for_up(1)
        after = at_rest(exporter)
        for _ in range(10):  # busy polls take a thread and a file most of the time
            if after.threads > before.threads or after.files > before.files:
                after = at_rest(exporter)
        print(f"threads and files: {before} before, {after} after; {connections=}")  # noqa: T201
        assert after.threads <= before.threads
        assert after.files <= before.files
        assert scene.connections() == connections == 1
        stored = {name: writing.stop() for name, writing in loads.items()}
        groups = {name: writing.groups() for name, writing in loads.items()}
        assert_counts(exporter, stored, groups=groups)
        totals = ", ".join(f"{name} {counts.total()}" for name, counts in stored.items())
        print(f"results: {totals}; 0 missed, 0 twice")  # noqa: T201
        assert watchdog.went_back == []


def assert_steady(name: str, intervals: list[float]) -> None:
    """Most within 20 %, and none so late that somebody else's trouble could be why.

    Nor many a little late: but a busy machine, which is late for all, may double the mean.
    """
    mean = fmean(intervals)
    print(  # noqa: T201 - the figures, shown with -s
        f"\n{name}: {len(intervals) + 1} polls, an interval of {INTERVAL:g} s was {mean:.3f} s, at "
        f"p95 {quantiles(intervals, n=20)[-1]:.3f} s, at most {max(intervals):.3f} s"
    )
    assert median(intervals) == pytest.approx(INTERVAL, rel=0.2)
    assert mean < 2 * INTERVAL
    assert max(intervals) < INTERVAL + LIMIT


@kinds("postgresql", "mariadb-pymysql")
def test_others_are_undisturbed(scene: Scene) -> None:
    """And the disturbed one loses nothing, and leaves nothing behind."""
    dice = random.Random(3)  # noqa: S311
    stop_and_start(scene, dice)
    for _ in range(ROUNDS):
        fail(scene)
    cut(scene, dice)
    errors = scene.exporter.scrape().sums("celery_backend_poll_errors_total", "backend", "reason")
    print(f"\n{OUTAGES} outages, {CUTS} cuts, errors: {dict(errors)}")  # noqa: T201
    assert {name for name, _ in errors} == {"disturbed"}


def stop_and_start(scene: Scene, dice: random.Random) -> None:
    """Stop the server, now and then by an accident, and start it again."""
    server = scene.database.server
    assert server is not None
    for number in range(OUTAGES):
        time.sleep(dice.uniform(0.2, 1.0))
        server.stop(signal.SIGKILL if number % 2 else None)
        scene.wait_for_up(0)
        time.sleep(dice.uniform(0.0, 1.0))
        server.start()
        scene.wait_for_up(1)


def fail(scene: Scene) -> None:
    """Let the network fail in each of its ways."""
    for mode in (Mode.STALL, Mode.BLACK_HOLE, Mode.REFUSE):
        scene.proxy.mode = mode
        scene.wait_for_up(0)
        time.sleep(0.5)
        scene.proxy.mode = Mode.PASS
        scene.wait_for_up(1)


def cut(scene: Scene, dice: random.Random) -> None:
    """Cut connections in the middle of a query."""
    for _ in range(CUTS):
        time.sleep(dice.uniform(0.0, 0.3))
        scene.proxy.mode = Mode.CUT
        time.sleep(dice.uniform(0.0, 0.2))
        scene.proxy.mode = Mode.PASS
