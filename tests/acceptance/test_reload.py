"""SIGHUP and POST /-/reload: what changes begins, ends or goes on; what stays notices nothing."""

from __future__ import annotations

import contextlib
import http.client
import os
import random
import signal
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from exporter.config.file import SOURCES
from exporter.runtime.schedule import SPARE
from tests.acceptance.footprint import footprint, rss
from tests.acceptance.process import EVERY, FAST, Answer, running, write
from tests.acceptance.test_kill import RESULTS, assert_all_counts, writers
from tests.acceptance.watchdog import Watchdog
from tests.follow import create_tables, insert
from tests.servers.database import SQLite
from tests.servers.proxy import Mode, Proxy
from tests.soak.written import CELERY

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.acceptance.process import Exporter
    from tests.servers.database import Database
    from tests.servers.postgresql import PostgreSQL

RELOADS = int(os.environ.get("RELOADS", "10"))
ON = "--web.enable-lifecycle"
SUCCESSFUL = "celery_results_exporter_config_last_reload_successful"
READ = "celery_results_exporter_config_last_reload_success_timestamp_seconds"
POLLS = "celery_backend_polls_total"
INTERVAL = "celery_backend_poll_interval_seconds"


class Shops:
    """Several backends, each a file with a result, and the configuration of some of them."""

    def __init__(self, folder: Path, databases: list[Database]) -> None:
        self.folder = folder
        self.urls = {f"shop {n}": database.reader_url for n, database in enumerate(databases)}
        self.databases = dict(zip(self.urls, databases, strict=True))

    def config(self, *names: str, checkpoint: bool = False, **settings: Any) -> dict[str, Any]:
        backends = [{"name": name, "result_backend": self.urls[name]} for name in names]
        kept = {"checkpoint": {"path": "checkpoint.sqlite"}} if checkpoint else {}
        return {"defaults": FAST | settings, "backends": backends, **kept}

    def write(self, *names: str, **settings: Any) -> None:
        write(self.folder, self.config(*names, **settings))

    def add(self, name: str) -> None:
        with self.databases[name].engine().begin() as connection:
            insert(connection)


@pytest.fixture
def shops(tmp_path: Path) -> Iterator[Shops]:
    with contextlib.ExitStack() as closing:
        databases = [closing.enter_context(SQLite(tmp_path).fresh_database()) for _ in range(3)]
        for database in databases:
            with create_tables(database).begin() as connection:
                insert(connection)
        yield Shops(tmp_path, databases)


def post(exporter: Exporter, method: str = "POST") -> Answer:
    connection = http.client.HTTPConnection(exporter.address, timeout=60)
    with contextlib.closing(connection):
        connection.request(method, "/-/reload")
        answer = connection.getresponse()
        return Answer(answer.status, answer.read().decode())


def counted(exporter: Exporter) -> dict[str, int]:
    found = exporter.scrape().sums(RESULTS, "backend")
    return {backend: n for (backend,), n in found.items()}


@pytest.mark.parametrize("how", ["signal", "POST"])
def test_backends_come_and_go(shops: Shops, how: str) -> None:
    with running(shops.folder, shops.config("shop 0", "shop 1"), ON) as exporter:
        exporter.wait_until(lambda: counted(exporter) == {"shop 0": 1, "shop 1": 1}, "both")
        exporter.poll_again(1)  # so both were tried, and nobody has asked whether
        before = exporter.scrape()
        shops.add("shop 1")
        shops.write("shop 1", "shop 2")
        if how == "signal":
            exporter.send(signal.SIGHUP)
        else:
            assert post(exporter) == Answer(200, "reloaded\n")
        exporter.wait_until(lambda: counted(exporter) == {"shop 1": 2, "shop 2": 1}, "the others")
        after = exporter.scrape()
        assert not [labels for _, labels, _ in after.samples if labels.get("backend") == "shop 0"]
        polls = [scrape.value(POLLS, backend="shop 1") or 0 for scrape in (before, after)]
        assert polls == sorted(polls)
        assert after.value(SUCCESSFUL) == 1
        assert (after.value(READ) or 0) > (before.value(READ) or 0)
        name = "celery_results_exporter_config_hash"
        assert after.value(name) != before.value(name)
        ups = [line for line in exporter.logs() if "backend is up" in line]
        assert sum('backend="shop 1"' in line for line in ups) == 1
        assert exporter.get("/-/ready").status == 200


def test_bad_file_changes_nothing(shops: Shops) -> None:
    with running(shops.folder, shops.config("shop 0"), ON) as exporter:
        exporter.wait_until(lambda: counted(exporter) == {"shop 0": 1}, "it")
        good = exporter.scrape()
        path = write(shops.folder, {"backends": [{"name": "a"}], "backend": []})
        answer = post(exporter)
        assert answer.status == 500
        assert answer.body.splitlines() == [
            f"{path}:1: backend: is no known key; did you mean backends?",
            f"{path}:3: backends[0]: has no result_backend; set one of {', '.join(SOURCES)}",
        ]
        exporter.wait_for_log("the configuration was not reloaded", "is no known key")
        bad = exporter.scrape()
        assert bad.value(SUCCESSFUL) == 0
        assert bad.value(READ) == good.value(READ)
        shops.add("shop 0")
        exporter.wait_until(lambda: counted(exporter) == {"shop 0": 2}, "it goes on")
        shops.write("shop 0", checkpoint=True)
        assert post(exporter) == Answer(500, "checkpoint: it changes with a restart only\n")
        shops.write("shop 0", "shop 1")
        assert post(exporter).status == 200
        assert exporter.scrape().value(SUCCESSFUL) == 1


@pytest.mark.parametrize("how", ["signal", "POST"])
def test_mistake_that_shows_late_changes_nothing_either(shops: Shops, how: str) -> None:
    """Options that only the driver's engine can judge; and what is right after it is taken."""
    with running(shops.folder, shops.config("shop 0"), ON) as exporter:
        exporter.wait_until(lambda: counted(exporter) == {"shop 0": 1}, "it")
        config = shops.config("shop 0", "shop 1", poll_interval="150ms")
        config["backends"][1]["database_engine_options"] = {"nonsense": 1}
        write(shops.folder, config)
        if how == "signal":
            exporter.send(signal.SIGHUP)
            exporter.wait_for_log("the configuration was not reloaded", "nonsense")
        else:
            answer = post(exporter)
            assert (answer.status, "nonsense" in answer.body) == (500, True)
        assert exporter.scrape().value(SUCCESSFUL) == 0
        assert exporter.scrape().value(INTERVAL, backend="shop 0") == EVERY
        shops.write("shop 0", "shop 1", poll_interval="150ms")
        assert post(exporter).status == 200
        exporter.wait_until(lambda: counted(exporter) == {"shop 0": 1, "shop 1": 1}, "both")
        exporter.wait_for(INTERVAL, 0.15, backend="shop 0")


def test_memory_stays_over_many_reloads(shops: Shops) -> None:
    names = tuple(shops.urls)
    with running(shops.folder, shops.config(*names), ON) as exporter:
        exporter.wait_until(lambda: len(counted(exporter)) == len(names), "all")
        sizes = []
        for number in range(25):
            shops.write(*names, poll_interval=f"{1000 + number}ms")
            assert post(exporter).status == 200
            expected = pytest.approx(1 + number / 1000)
            exporter.wait_until(
                lambda e=expected: exporter.scrape().value(INTERVAL, backend="shop 0") == e, "it"
            )
            sizes.append(rss(exporter.pid))
        assert sizes[-1] < sizes[9] + 2  # MiB


def test_reload_by_http_is_off_unless_asked_for(shops: Shops) -> None:
    with running(shops.folder, shops.config("shop 0")) as exporter:
        answer = post(exporter)
        assert (answer.status, "--web.enable-lifecycle" in answer.body) == (403, True)
        assert post(exporter, "GET").status == 405


@pytest.mark.parametrize("checkpoint", [False, True])
def test_what_changes_goes_on_from_where_it_stands(shops: Shops, *, checkpoint: bool) -> None:
    """Other settings, the same tables: each result still counts once."""
    config = shops.config("shop 0", checkpoint=checkpoint, start="end")
    with running(shops.folder, config, ON) as exporter:
        exporter.wait_until(exporter.polls, "a first poll: what comes then is new")
        for number in range(1, 4):
            shops.add("shop 0")
            interval = f"{100 + number}ms"
            shops.write("shop 0", checkpoint=checkpoint, start="end", poll_interval=interval)
            assert post(exporter).status == 200
            exporter.wait_until(lambda n=number: counted(exporter) == {"shop 0": n}, f"{number}")
            expected = pytest.approx(0.1 + number / 1000)
            exporter.wait_until(
                lambda e=expected: exporter.scrape().value(INTERVAL) == e, "the new interval"
            )
        exporter.poll_again()
        assert counted(exporter) == {"shop 0": 3}


def test_name_that_goes_and_comes_while_its_poll_hangs(
    postgresql: PostgreSQL, tmp_path: Path
) -> None:
    """Never do two poll one backend: the next begins when the last poll of the first is over."""
    with postgresql.fresh_database() as database, Proxy(postgresql.port) as proxy:
        with create_tables(database).begin() as connection:
            insert(connection)
        url = database.reader.set(port=proxy.port).render_as_string(hide_password=False)
        shop = {"name": "shop", "result_backend": url, "query_timeout": "3s"}
        with SQLite(tmp_path).fresh_database() as file:
            create_tables(file)
            other = {"name": "other", "result_backend": file.reader_url}
            both = {"defaults": FAST, "backends": [shop, other]}
            with running(tmp_path, both, ON) as exporter:
                exporter.wait_until(lambda: counted(exporter) == {"shop": 1}, "it")
                proxy.mode = Mode.STALL
                time.sleep(0.5)
                for config in (both | {"backends": [other]}, both):
                    write(tmp_path, config)
                    assert post(exporter).status == 200
                with database.engine().begin() as connection:
                    insert(connection)
                proxy.mode = Mode.PASS
                exporter.wait_until(lambda: counted(exporter) == {"shop": 2}, "each once", 60)
                exporter.poll_again()
                assert counted(exporter) == {"shop": 2}


@pytest.mark.timeout(900)
@pytest.mark.parametrize("checkpoint", [False, True])
@pytest.mark.parametrize("database", ["sqlite", "postgresql"], indirect=True)
def test_reloads_under_load(database: Database, tmp_path: Path, *, checkpoint: bool) -> None:
    """No result is lost or counted twice, no counter goes back, nothing is left over."""
    create_tables(database)
    dice = random.Random(5)  # noqa: S311
    shop = {"name": "shop", "result_backend": database.reader_url}

    def config(interval: int) -> dict[str, Any]:
        kept = {"checkpoint": {"path": "checkpoint.sqlite"}} if checkpoint else {}
        one = shop | {"poll_interval": f"{interval}ms"}
        return {"defaults": FAST, "backends": [one], **kept}

    with Watchdog() as watchdog, running(tmp_path, config(100), ON) as exporter:
        watchdog.exporter = exporter
        exporter.wait_until(exporter.polls, "a first poll")
        before = footprint(exporter)
        with writers(database, 2):
            for number in range(RELOADS):
                write(tmp_path, config(101 + number % 2))
                if number % 2:
                    exporter.send(signal.SIGHUP)
                else:
                    assert post(exporter).status == 200
                time.sleep(dice.uniform(0.0, 0.6))
        expected = assert_all_counts(exporter, database)
        assert exporter.scrape().value("celery_group_results_total") == CELERY.groups(database) > 0
        assert watchdog.went_back == []
        exporter.wait_until(
            lambda: all(
                now <= then + SPARE for now, then in zip(footprint(exporter), before, strict=True)
            ),
            f"{before} threads and files",
        )
        print(f"{expected.total()} results, {RELOADS} reloads, {watchdog.scrapes} scrapes")  # noqa: T201
