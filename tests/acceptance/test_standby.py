"""Replicas with one checkpoint in a database: they share the backends, and nothing is lost."""

from __future__ import annotations

import contextlib
import json
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest

from exporter.runtime.replica import STANDING_BY
from tests.acceptance.process import QUICK_LEASES, one_backend, run, write
from tests.acceptance.replicas import (
    LEADER,
    RESULTS,
    Load,
    Replica,
    assert_all_counts,
    fleet_of,
)
from tests.follow import create_tables, insert
from tests.scrape import Scrape
from tests.servers.process import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.acceptance.process import Exporter
    from tests.acceptance.replicas import Watch
    from tests.servers.database import Database
    from tests.servers.postgresql import PostgreSQL


def leads(exporter: Exporter) -> bool:
    return exporter.scrape().value(LEADER) == 1 and exporter.get("/-/ready").status == 200


def stands_by(exporter: Exporter) -> bool:
    ready = exporter.get("/-/ready")
    return ready.status == 503 and STANDING_BY in ready.body


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
def two_replicas(
    database: Database, folder: Path, program: tuple[str, ...] = QUICK_LEASES
) -> Iterator[tuple[Replica, Replica]]:
    config = one_backend(database.reader_url, first_zero="200ms")
    config["checkpoint"] = {"url": database.owner.render_as_string(hide_password=False)}
    with (
        Replica(folder / "a", config, program) as first,
        Replica(folder / "b", config, program) as second,
    ):
        yield first, second


@pytest.mark.timeout(300)
def test_replicas_share_the_backends(postgresql: PostgreSQL, tmp_path: Path) -> None:
    """Whatever happens to one, the others follow; tests/soak has the same in earnest."""
    load = Load(tmp_path, 12, 0.03)
    with (
        postgresql.fresh_database() as database,
        fleet_of(3, tmp_path, load, database, quick=True) as (replicas, fleet, watch),
    ):
        first, second, third = replicas
        for replica in replicas:
            fleet.add(replica)
        began = time.monotonic()
        _check_the_status_page(third.process, watch)
        fleet.remove(first, "paused", 4.5)
        assert first.process.logged("follows no longer: another replica has taken over")
        fleet.remove(second, "killed")
        fleet.remove(third, "ended")
        longest = watch.longest_unserved(began, time.monotonic())
        load.stop()
        results = assert_all_counts([first], load)
    print(  # noqa: T201 - the figures, shown with -s
        f"{results} results, {watch.scrapes} scrapes, moved {fleet.moves}, "
        f"followed again after {dict(fleet.takeovers)} s, longest unserved {longest:.1f} s"
    )
    assert longest < 30


def _check_the_status_page(exporter: Exporter, watch: Watch) -> None:
    """It says who follows what, and has the backends of this replica."""
    status = json.loads(exporter.get("/status.json").body)
    ours = {name for name, by in status["followers"].items() if by == status["replica"]}
    assert ours == watch.leads["c"] == {backend["name"] for backend in status["backends"]}
    assert len(set(status["followers"].values())) == 3
    assert status["unfollowed"] == {}
    page = exporter.get("/").body
    assert all(name in page for name in status["followers"].values())


@pytest.mark.parametrize("database", ["mariadb-pymysql"], indirect=True)
def test_reload_adds_and_removes_backends(database: Database, tmp_path: Path) -> None:
    """One replica after the other: who knows a new one follows it, and no other backend moves."""
    load = Load(tmp_path, 3, 0.05)
    before, after = load.config(database), load.config(database)
    del before["backends"][2], after["backends"][0]
    with (
        load,
        Replica(tmp_path / "a", before, QUICK_LEASES) as first,
        Replica(tmp_path / "b", before, QUICK_LEASES) as second,
    ):
        both = [(tmp_path / "a", first.start()), (tmp_path / "b", second.start())]

        def followed() -> list[set[str]]:
            led = [each.scrape().sums(LEADER, "backend") for _, each in both]
            return [{name for (name,) in names} for names in led]

        def reload(folder: Path, exporter: Exporter) -> None:
            write(folder, after)
            exporter.send(signal.SIGHUP)

        wait_until(lambda: sorted(map(len, followed())) == [1, 1], "each has one")
        if followed()[0] == {"backend-0"}:
            both.reverse()  # or the other would follow it, by its old configuration
        reload(*both[0])
        then = [{"backend-1", "backend-2"}, {"backend-0"}]
        wait_until(lambda: followed() == then, "one has the new one")
        reload(*both[1])
        wait_until(
            lambda: sorted(followed(), key=sorted) == [{"backend-1"}, {"backend-2"}],
            "each has one again",
        )
        load.stop()
        del load.files["backend-0"]
        assert_all_counts([first, second], load)


@pytest.mark.parametrize("database", ["postgresql"], indirect=True)
def test_two_that_begin_at_the_same_moment(database: Database, tmp_path: Path) -> None:
    """One follows and the other stands by and does nothing, without an error in either log."""
    create_tables(database)
    with two_replicas(database, tmp_path) as replicas:
        with ThreadPoolExecutor(2) as pool:
            exporters = [*pool.map(Replica.start, replicas)]

        found, since = [False, False], time.monotonic()

        def settled() -> bool:
            """For longer than leases last: the first may have to hand it over to the other."""
            nonlocal found, since
            if (now := [*map(leads, exporters)]) != found:
                found, since = now, time.monotonic()
            return sorted(found) == [False, True] and time.monotonic() > since + 3

        wait_until(settled, "one follows, and one stands by")
        other = exporters[found.index(False)]
        check_that_it_does_nothing(other)
        assert not any(each.logged("logger=exporter.runtime", "warning") for each in exporters)


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
        assert "takes_over_after=3s" in waiting.wait_for_log(STANDING_BY)
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
            assert Scrape(once.stdout).value(RESULTS, state="SUCCESS") == 1
            assert Scrape(once.stdout).value(LEADER) == 1
        verified = run("verify", flag)
        assert verified.returncode == 0
        assert "1 present, 1 counted, 0 missing" in verified.stdout
        checked = run("check", flag)
        assert checked.returncode == 0
        assert "  backends  shop\n" in checked.stdout
    assert "  replicas  none\n" in checked.stdout


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
