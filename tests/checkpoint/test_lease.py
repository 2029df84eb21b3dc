"""Who leads: the row in the database, and what it keeps from whom."""

from __future__ import annotations

import time
from contextlib import ExitStack, suppress
from typing import TYPE_CHECKING

import pytest
from sqlalchemy import make_url

from exporter.checkpoint import lease as lease_module
from exporter.checkpoint.checkpoint import Checkpoint
from exporter.checkpoint.lease import LEASE_DURATION, Lease, LeaseLostError
from exporter.checkpoint.saved import read
from exporter.checkpoint.store import Store
from exporter.errors import CheckpointError
from exporter.runtime.election import Election
from exporter.sql.dialects import Limits
from tests.follow import Follower, create_tables, insert
from tests.servers.process import HOST, wait_until
from tests.servers.proxy import Mode, Proxy

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.servers.database import Database

LOSSES = {"emptied": "DELETE FROM", "dropped": "DROP TABLE"}
QUICK = Limits(connect=2.0, query=1.0)
ONE_SERVER = pytest.mark.parametrize("database", ["postgresql", "mariadb-pymysql"], indirect=True)


@pytest.fixture
def resources() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


@pytest.fixture
def store(database: Database, resources: ExitStack) -> Callable[[], Store]:
    """Connect anew each time, as another process would."""

    def connect() -> Store:
        store = Store(database.owner, "checkpoint database", limits=QUICK)
        resources.callback(store.retire)
        return store

    return connect


@pytest.fixture
def soon(monkeypatch: pytest.MonkeyPatch) -> float:
    """Let a lease last half a second."""
    monkeypatch.setattr(lease_module, "LEASE_DURATION", 0.5)
    return 0.5


def test_only_one_leads(store: Callable[[], Store]) -> None:
    first, second = Lease(store()), Lease(store())
    assert first.take()
    assert not second.take()
    assert second.leader == first.leader != ""
    first.beat()
    assert first.confirmed()
    assert not second.confirmed()
    with pytest.raises(LeaseLostError):
        second.beat()


def test_the_next_leads_at_once_after_an_end(store: Callable[[], Store]) -> None:
    first, second = Lease(store()), Lease(store())
    assert first.take()
    assert not second.take()
    first.release()
    assert not first.confirmed()
    assert second.take()
    with pytest.raises(LeaseLostError):
        first.beat()


def test_the_next_leads_when_the_beat_stands_still(store: Callable[[], Store], soon: float) -> None:
    first, second = Lease(store()), Lease(store())
    assert first.take()
    deadline = time.monotonic() + 2 * soon
    while time.monotonic() < deadline:
        assert not second.take()
        first.beat()
        time.sleep(soon / 10)
    assert not second.take()
    time.sleep(soon)
    assert not first.confirmed()  # before anybody else can lead
    assert second.take()
    with pytest.raises(LeaseLostError):
        first.beat()


def test_lost_answer_when_taking(store: Callable[[], Store]) -> None:
    """The row says that it is ours, though nobody told us."""
    now = 1000.0
    lease = Lease(store(), lambda: now)
    assert lease.take()
    now += LEASE_DURATION
    assert not lease.confirmed()
    assert lease.take()
    assert lease.confirmed()


@pytest.mark.parametrize("how", ["emptied", "dropped"])
def test_leader_goes_on_where_its_row_is_gone(
    database: Database, store: Callable[[], Store], soon: float, how: str
) -> None:
    """Its counts are in memory only, then: who stands by gives it time, and takes over after it."""
    first, second = Lease(store()), Lease(store())
    assert first.take()
    for leads in (first, second):
        stands_by = second if leads is first else first
        leads.beat()
        assert not stands_by.take()
        with database.engine().begin() as connection:
            connection.exec_driver_sql(f"{LOSSES[how]} celery_results_exporter_lease")
        for lease in (stands_by, leads):
            for _ in range(2):  # at the first it may be an error
                with suppress(CheckpointError):
                    assert not lease.take() if lease is stands_by else not lease.beat()
        leads.beat()
        assert leads.confirmed()
        assert not stands_by.take()
        time.sleep(soon)
        assert stands_by.take()
        with pytest.raises(LeaseLostError):
            leads.beat()
        leads.give_up()


def test_who_has_lost_the_lease_saves_nothing(
    database: Database, store: Callable[[], Store], soon: float
) -> None:
    engine = create_tables(database)
    first, second = Lease(store()), Lease(store())
    assert first.take()
    old = Checkpoint(store(), first.fence())
    old.open()
    follower = Follower(database.reader_url, old).poll()
    with engine.begin() as connection:
        insert(connection)
    assert not second.take()
    time.sleep(soon)
    assert second.take()
    assert not follower.poller.try_poll()
    assert follower.poller.status.message == "another replica leads now"
    assert follower.states() == {}
    first.give_up()
    second.release()
    assert first.take()  # the old term's fence stays closed
    assert not follower.poller.try_poll()
    successor = Follower(database.reader_url, Checkpoint(store(), first.fence())).poll()
    assert successor.states() == {"SUCCESS": 1}
    follower.close()
    successor.close()


@ONE_SERVER
def test_leader_that_hangs_in_a_save_keeps_others_out_until_it_ends(
    database: Database, store: Callable[[], Store], soon: float
) -> None:
    """The row it beats in stays locked; the server ends a transaction that idles."""
    of_first = store()
    first, second = Lease(of_first), Lease(store())
    assert first.take()
    assert not second.take()
    fence = first.fence()
    with pytest.raises(CheckpointError), of_first.transaction() as connection:  # noqa: PT012
        fence(connection)
        time.sleep(soon)
        if database.owner.get_backend_name() == "postgresql":
            time.sleep(1.0)  # QUICK's limit, which is shorter than the longest pause
        else:
            with pytest.raises(CheckpointError, match=r"[Ll]ock wait|timed out|interrupted"):
                second.take()
            raise CheckpointError("gone")
    wait_until(second.take, "the lease is taken", timeout=5)


@ONE_SERVER
def test_silent_server_is_given_up(database: Database) -> None:
    """It accepts connections and never answers, at any point."""
    assert database.server is not None
    with Proxy(database.server.port) as proxy:
        url = database.owner.set(host=HOST, port=proxy.port)
        lease = Lease(Store(url, "checkpoint database", limits=QUICK))
        assert lease.take()
        for _ in range(2):  # with a connection, and without
            proxy.mode = Mode.BLACK_HOLE
            started = time.monotonic()
            with pytest.raises(CheckpointError, match="checkpoint database: "):
                lease.beat()
            assert time.monotonic() - started < 10
        proxy.mode = Mode.PASS
        lease.beat()
        lease.close()


def test_two_that_begin_at_the_same_moment(store: Callable[[], Store]) -> None:
    """Both create the tables; one leads, without an error in either log."""
    begun: list[Lease] = []
    elections = []
    for _ in range(2):
        lease = Lease(store())
        elections.append(Election(lease, lambda _, lease=lease: begun.append(lease), lambda: None))
    for election in elections:
        election.start()
    wait_until(lambda: any(e.leading for e in elections), "one leads")
    wait_until(lambda: all("not open" not in e.fault for e in elections), "both have looked")
    assert sorted(e.fault for e in elections) == ["", "standing by: another replica leads"]
    for election in elections:
        assert not election.stuck()
        election.stop(5)
    assert begun


def test_names_are_compared_exactly(database: Database, store: Callable[[], Store]) -> None:
    """By default MySQL takes the backend "Shop" for "shop"."""
    engine = create_tables(database)
    with engine.begin() as connection:
        insert(connection)
    checkpoint = Checkpoint(store())
    checkpoint.open()
    for name in ("shop", "Shop"):
        follower = Follower(database.reader_url, checkpoint, name=name).poll()
        assert follower.states() == {"SUCCESS": 1}
        follower.close()
    beside = read(make_url(database.owner))
    assert sorted(beside.identities()) == ["Shop", "shop"]
    beside.close()
