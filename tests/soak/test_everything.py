"""All of it at once: load, ``kill -9``, servers that stop, networks that fail, rows deleted."""

from __future__ import annotations

import contextlib
import random
import signal
import time
from collections import Counter
from itertools import product
from typing import TYPE_CHECKING, Any

import pytest

from exporter.counting.lifecycle import Rules
from tests.acceptance.process import running
from tests.acceptance.watchdog import Watchdog
from tests.servers.database import DatabaseServer, SQLite
from tests.servers.proxy import Mode, Proxy
from tests.soak.deletion import Deleter
from tests.soak.load import ROOT, WITH_JOBS, Load, assert_counts, backend, config, load
from tests.soak.sizes import MINUTES, UNFINISHED
from tests.soak.written import FAMILIES

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.acceptance.process import Exporter
    from tests.servers.mariadb import MariaDB
    from tests.servers.postgresql import PostgreSQL

# A row that was unfinished for a minute and a half is looked at every nine seconds.
EXPIRES, MARGIN = 20.0, 10.0  # seconds
FAULTS = (Mode.CUT, Mode.STALL, Mode.BLACK_HOLE, Mode.REFUSE)


class Trouble:
    """Does one thing after another to servers, networks and rows until told the time is over."""

    def __init__(self, servers: list[DatabaseServer], proxies: list[Proxy], end: float) -> None:
        self.done: Counter[str] = Counter()
        self._dice = random.Random(17)  # noqa: S311
        self._servers = servers
        self._proxies = proxies
        self._end = end

    def make(self, delete: Callable[[], None], until: float) -> None:
        """Make trouble, some of it at the same time, while an exporter lives."""
        while time.monotonic() < min(until, self._end):
            what = self._dice.random()
            if what < 0.15:
                self._stop_a_server()
            elif what < 0.4:
                self._fail_a_network()
            else:
                delete()
            time.sleep(self._dice.uniform(0.0, 0.8))

    def _stop_a_server(self) -> None:
        server = self._dice.choice(self._servers)
        how = self._dice.choice([None, signal.SIGKILL])
        server.stop(how)
        time.sleep(self._dice.uniform(0.0, 3.0))
        server.start()
        self.done[f"{server.name} {'killed' if how else 'stopped'}"] += 1

    def _fail_a_network(self) -> None:
        proxy, mode = self._dice.choice(self._proxies), self._dice.choice(FAULTS)
        proxy.mode = mode
        time.sleep(self._dice.uniform(0.1, 5.0))
        proxy.mode = Mode.PASS
        self.done[mode.name.lower()] += 1

    def life(self) -> float:
        """Say how many seconds the next exporter lives."""
        return self._dice.choice([self._dice.uniform(0.0, 3.0), self._dice.uniform(5.0, 40.0)])


@pytest.mark.long
@pytest.mark.timeout(MINUTES * 60 + 900)
def test_everything_at_once(postgresql: PostgreSQL, mariadb: MariaDB, tmp_path: Path) -> None:
    with contextlib.ExitStack() as stack:
        servers: list[DatabaseServer] = [postgresql, mariadb]
        proxies = {server.name: stack.enter_context(Proxy(server.port)) for server in servers}
        watchdog = stack.enter_context(Watchdog(0.1))
        limits = {"query_timeout": "1s", "connect_timeout": "1s", "first_zero": "500ms"}
        settings: list[dict[str, Any]] = []
        loads: dict[str, Load] = {}
        deleters: dict[str, Deleter] = {}
        sources = {server.name: server for server in servers} | {"sqlite": SQLite(tmp_path)}
        for (kind, source), written in product(sources.items(), FAMILIES):
            database = stack.enter_context(source.fresh_database())
            name, way = f"{kind}-{written.name}", database.reader
            if kind in proxies:
                way = way.set(port=proxies[kind].port)
            settings.append(backend(name, way.render_as_string(hide_password=False), **limits))
            written.create(database)
            loads[name] = stack.enter_context(
                load(
                    database.celery_url,
                    tmp_path,
                    2,
                    pause=0.02,
                    unfinished=UNFINISHED,
                    written=written,
                )
            )
            deleters[name] = Deleter(
                database,
                loads[name],
                watchdog,
                name,
                written=written,
                expires=EXPIRES,
                margin=MARGIN,
            )

        def delete() -> None:
            for deleter in deleters.values():
                deleter.step()

        def exporting() -> contextlib.AbstractContextManager[Exporter]:
            kept = config(tmp_path, *settings)
            return running(tmp_path, kept, program=WITH_JOBS, PYTHONPATH=str(ROOT))

        end = time.monotonic() + MINUTES * 60
        trouble = Trouble(servers, list(proxies.values()), end)
        while time.monotonic() < end:
            with exporting() as exporter:
                watchdog.exporter = exporter
                trouble.make(delete, time.monotonic() + trouble.life())
                exporter.kill()
            trouble.done["exporter killed"] += 1
        for writing in loads.values():
            writing.end()
        stored = {name: writing.stop() for name, writing in loads.items()}
        groups = {name: writing.groups() for name, writing in loads.items()}
        with exporting() as exporter:
            watchdog.exporter = exporter
            assert_counts(exporter, stored, timeout=120, groups=groups)
            late = exporter.scrape().sums("celery_backend_late_rows_total", "backend")
        errors = sum((writing.errors() for writing in loads.values()), Counter())
        print(  # noqa: T201 - the figures, shown with -s
            f"\n{MINUTES:g} minutes: {dict(trouble.done)}; "
            f"results { {name: counts.total() for name, counts in stored.items()} }; "
            f"groups {groups}; unfinished at once {dict(watchdog.most_unfinished)}; "
            f"late { {name: n for (name,), n in late.items()} }; "
            f"forgotten {[each.forgotten for each in deleters.values()]}, "
            f"cleanups {[each.cleanups for each in deleters.values()]}; "
            f"{errors.total()} errors in the writers; {watchdog.scrapes} scrapes; "
            "0 missed, 0 twice"
        )
        assert watchdog.went_back == []
        assert all(groups.values())
        for name, deleter in deleters.items():
            assert watchdog.most_unfinished[name] > Rules().cohort, name
            assert (deleter.forgotten > 0, deleter.cleanups > 0) == (True, True), name
