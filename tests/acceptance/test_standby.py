"""Two replicas, one checkpoint in a database: one leads, the other takes over, nothing is lost."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from typing import TYPE_CHECKING, Any, Self

import pytest

from tests.acceptance.process import Exporter, Scrape, one_backend, run, running, write
from tests.acceptance.test_kill import assert_all_counts, writers
from tests.follow import create_tables, insert
from tests.servers.process import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.servers.database import Database

LONG = bool(os.environ.get("SOAK"))
PAUSE = float(os.environ.get("PAUSE", "17"))  # seconds; longer than the lease lasts
ROUNDS = int(os.environ.get("ROUNDS", "1"))
RESULTS = "celery_task_results_total"
LEADER = "celery_results_exporter_leader"
PROMISED_AFTER_KILL, PROMISED_AFTER_END = 30.0, 5.0  # seconds


class Replica:
    """One of the two: a process that is started again and again in a folder of its own."""

    def __init__(self, folder: Path, config: dict[str, Any]) -> None:
        self.folder = folder
        self.config = config
        self.exporter: Exporter | None = None
        self._running = contextlib.ExitStack()
        folder.mkdir()

    def start(self) -> Exporter:
        self._running.close()
        self.exporter = self._running.enter_context(running(self.folder, self.config))
        return self.exporter

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *failure: object) -> None:
        # After a failure it is killed: it may be paused.
        self._running.__exit__(*failure)  # type: ignore[arg-type]


class Watch:
    """Scrapes the replicas all the while, and notes every counter of a leader that went back."""

    def __init__(self, *replicas: Replica) -> None:
        self.went_back: list[str] = []
        self.scrapes = 0
        self._highest: dict[tuple[str, ...], float] = {}
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._run, args=(each,)) for each in replicas]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _run(self, replica: Replica) -> None:
        while not self._stop.wait(0.04):
            with self._lock:
                before = dict(self._highest)
            with contextlib.suppress(OSError, AssertionError, AttributeError):
                scrape = replica.exporter.scrape()  # type: ignore[union-attr]
                if scrape.value(LEADER) == 1:
                    self._compare(scrape, before)

    def _compare(self, scrape: Scrape, before: dict[tuple[str, ...], float]) -> None:
        with self._lock:
            self.scrapes += 1
            for name, labels, value in scrape.samples:
                if not (name.startswith("celery_task_") and name.endswith("_total")):
                    continue
                key = (name, *sorted(labels.values()))
                if value < before.get(key, 0.0):
                    self.went_back.append(f"{key}: {before[key]} -> {value}")
                self._highest[key] = max(value, self._highest.get(key, 0.0))


def leads(exporter: Exporter) -> bool:
    return exporter.scrape().value(LEADER) == 1 and exporter.get("/-/ready").status == 200


def stands_by(exporter: Exporter) -> bool:
    ready = exporter.get("/-/ready")
    return ready.status == 503 and "standing by: another replica leads" in ready.body


def seconds_until_it_leads(exporter: Exporter, since: float, within: float) -> float:
    exporter.wait_until(lambda: leads(exporter), "it leads", within)
    return time.monotonic() - since


def check_that_it_does_nothing(exporter: Exporter) -> None:
    """Its process metrics are all that it serves."""
    exporter.wait_until(lambda: stands_by(exporter), "it stands by")
    scrape = exporter.scrape()
    assert scrape.value(LEADER) == 0
    ours = {name for name, _, _ in scrape.samples if name.startswith("celery_")}
    assert {name for name in ours if not name.startswith("celery_results_exporter_")} == set()
    assert scrape.value("process_resident_memory_bytes")
    assert exporter.get("/-/healthy").status == 200


@contextlib.contextmanager
def two_replicas(database: Database, folder: Path) -> Iterator[tuple[Replica, Replica]]:
    config = one_backend(database.reader_url, first_zero="200ms")
    config["checkpoint"] = {"url": database.owner.render_as_string(hide_password=False)}
    with Replica(folder / "a", config) as first, Replica(folder / "b", config) as second:
        yield first, second


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("database", ["postgresql", *["mariadb-pymysql"] * LONG], indirect=True)
def test_takeover(database: Database, tmp_path: Path) -> None:
    create_tables(database)
    with two_replicas(database, tmp_path) as (first, second), Watch(first, second) as watch:
        leader = first.start()
        leader.wait_until(lambda: leads(leader), "it leads")
        with writers(database, 2):
            for _ in range(ROUNDS):
                _kill_end_and_pause(first, second)
        leader, other = first.exporter, second.exporter
        assert leader is not None
        assert other is not None
        expected = assert_all_counts(leader, database)
        check_that_it_does_nothing(other)
    print(f"{expected.total()} results, {watch.scrapes} scrapes of leaders")  # noqa: T201
    assert watch.went_back == []
    assert watch.scrapes > 50


def _kill_end_and_pause(first: Replica, second: Replica) -> None:
    """End with the same one leading as at the beginning: the first."""
    leader, other = first.exporter, second.start()
    assert leader is not None
    check_that_it_does_nothing(other)
    assert leads(leader)

    killed = time.monotonic()
    leader.kill()
    after_kill = seconds_until_it_leads(other, killed, PROMISED_AFTER_KILL)
    leader, other = other, first.start()
    check_that_it_does_nothing(other)

    ended = time.monotonic()
    leader.stop(signal.SIGTERM)
    after_end = seconds_until_it_leads(other, ended, PROMISED_AFTER_END)
    leader, other = other, second.start()
    check_that_it_does_nothing(other)

    paused = time.monotonic()
    leader.send(signal.SIGSTOP)
    after_pause = seconds_until_it_leads(other, paused, PROMISED_AFTER_KILL)
    time.sleep(max(0.0, PAUSE - after_pause))
    leader.send(signal.SIGCONT)
    check_that_it_does_nothing(leader)
    assert leads(other)
    assert leader.logged("leads no longer")
    print(  # noqa: T201 - the figures, shown with -s
        f"it takes over {after_kill:.1f} s after SIGKILL, {after_end:.1f} s after SIGTERM, "
        f"{after_pause:.1f} s after SIGSTOP"
    )
    other.stop(signal.SIGTERM)  # so that the first leads again
    leader.wait_until(lambda: leads(leader), "it leads", PROMISED_AFTER_END)
    second.start()


@pytest.mark.parametrize("database", ["postgresql"], indirect=True)
def test_goes_on_alone_after_a_restart(database: Database, tmp_path: Path) -> None:
    """At once after an end; after an accident it says that it waits for its own lease."""
    with create_tables(database).begin() as connection:
        insert(connection)
    with two_replicas(database, tmp_path) as (only, _):
        only.start().wait_for(RESULTS, 1, state="SUCCESS")
        only.start().wait_for(RESULTS, 1, state="SUCCESS", timeout=3)
        assert only.exporter is not None
        only.exporter.kill()
        waiting = only.start()
        line = waiting.wait_for_log("standing by: another replica leads")
        assert "takes_over_after=15s" in line
        waiting.wait_for(RESULTS, 1, state="SUCCESS", timeout=20)


@pytest.mark.parametrize("database", ["mariadb-pymysql"], indirect=True)
def test_checkpoint_database_is_down(database: Database, tmp_path: Path) -> None:
    """Nothing is served that was not saved; what came meanwhile counts once when it is back."""
    assert database.server is not None
    server = database.server
    with create_tables(database).begin() as connection:
        insert(connection)
    with two_replicas(database, tmp_path) as (only, _):
        exporter = only.start()
        exporter.wait_for(RESULTS, 1, state="SUCCESS")
        server.stop()
        exporter.wait_for_log("checkpoint is not in reach", "checkpoint database")
        assert exporter.scrape().value(RESULTS, state="SUCCESS") == 1
        assert exporter.get("/-/healthy").status == 200
        server.start()
        with database.engine().begin() as connection:
            insert(connection)
        exporter.wait_for(RESULTS, 2, state="SUCCESS", timeout=20)
        wait_until(lambda: leads(exporter), "it leads again")


@pytest.mark.parametrize("database", ["postgresql", "mariadb-pymysql"], indirect=True)
def test_commands_know_the_checkpoint(database: Database, tmp_path: Path) -> None:
    """Whether it is a file or in a database."""
    with create_tables(database).begin() as connection:
        insert(connection)
    url = database.owner.render_as_string(hide_password=False)
    config = one_backend(database.reader_url)
    for checkpoint in ({"path": str(tmp_path / "checkpoint.sqlite")}, {"url": url}):
        flag = f"--config.file={write(tmp_path, config | {'checkpoint': checkpoint})}"
        assert "\ncheckpoint: ok\n" in run("check", flag).stdout
        for _ in range(2):  # the second one goes on
            once = run("once", flag)
            assert (once.returncode, once.stderr) == (0, "")
            assert Scrape.parse(once.stdout).value(RESULTS, state="SUCCESS") == 1
            assert Scrape.parse(once.stdout).value(LEADER) == 1
        verified = run("verify", flag)
        assert verified.returncode == 0
        assert "1 present, 1 counted, 0 missing" in verified.stdout
        checked = run("check", flag)
        assert checked.returncode == 0
        assert "  backends  shop\n" in checked.stdout
    assert "  leader    none\n" in checked.stdout


@pytest.mark.parametrize("database", ["postgresql"], indirect=True)
def test_check_tells_what_is_wrong_with_the_checkpoint(database: Database, tmp_path: Path) -> None:
    """A database where one may only read, or a folder that is not there."""
    create_tables(database)
    for checkpoint in (
        {"path": str(tmp_path / "no" / "folder.sqlite")},
        {"url": database.reader_url},
    ):
        config = one_backend(database.reader_url) | {"checkpoint": checkpoint}
        checked = run("check", f"--config.file={write(tmp_path, config)}")
        assert checked.returncode == 1
        assert "\ncheckpoint: FAILED\n  error: checkpoint " in checked.stdout
