"""Which replica follows which backend: the rows in the database, and what they keep from whom."""

from __future__ import annotations

import time
from contextlib import ExitStack, suppress
from typing import TYPE_CHECKING

import pytest
from sqlalchemy import event, make_url

from exporter.checkpoint import lease as lease_module
from exporter.checkpoint.checkpoint import Checkpoint
from exporter.checkpoint.lease import LEASE_DURATION, Leases
from exporter.checkpoint.saved import read
from exporter.checkpoint.store import Store
from exporter.errors import CheckpointError
from exporter.sql.dialects import Limits
from tests.follow import Follower, create_tables, insert
from tests.servers.process import HOST, wait_until
from tests.servers.proxy import Mode, Proxy

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from sqlalchemy import Engine

    from tests.servers.database import Database

LOSSES = {"emptied": "DELETE FROM", "dropped": "DROP TABLE"}
TABLES = ("celery_results_exporter_replica", "celery_results_exporter_backend_lease")
QUICK = Limits(connect=2.0, query=1.0)
ONE_SERVER = pytest.mark.parametrize("database", ["postgresql", "mariadb-pymysql"], indirect=True)
SHOP = frozenset({"shop"})


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
def two(store: Callable[[], Store]) -> tuple[Leases, Leases]:
    """Give two replicas, of which the first follows the backend."""
    first, second = Leases(store()), Leases(store())
    first.renew("")
    first.confirm()
    first.take(SHOP)
    second.renew("")
    assert (first.held, second.held) == (SHOP, frozenset())
    return first, second


@pytest.fixture
def soon(monkeypatch: pytest.MonkeyPatch) -> float:
    """Let a lease last half a second."""
    monkeypatch.setattr(lease_module, "LEASE_DURATION", 0.5)
    return 0.5


def free(leases: Leases) -> bool:
    """Whether a replica finds the backend free, once it has looked."""
    leases.renew("")
    leases.strike_off()
    return not leases.sight.follower("shop")


def test_only_one_follows(two: tuple[Leases, Leases]) -> None:
    first, second = two
    assert second.sight.follower("shop") == first.own
    assert second.sight.replicas.keys() == {first.own, second.own}
    second.sight.leases["shop"] = ""  # type: ignore[index]  # as it was a moment ago
    second.take(SHOP)
    assert second.held == frozenset()
    first.renew("")
    assert first.held == SHOP
    assert first.confirmed()
    assert not second.confirmed()  # it has not said so


def test_the_next_follows_at_once_after_a_release_and_an_end(two: tuple[Leases, Leases]) -> None:
    first, second = two
    first.release(SHOP)
    assert first.held == frozenset()
    assert free(second)
    second.take(SHOP)
    first.renew("")
    assert first.sight.follower("shop") == second.own
    second.leave()
    assert not second.confirmed()
    assert free(first)
    first.take(SHOP)
    assert first.held == SHOP


def test_the_next_follows_when_the_beat_stands_still(
    two: tuple[Leases, Leases], soon: float
) -> None:
    """Who was struck off finds that it follows nothing, and is somebody else from then on."""
    first, second = two
    deadline = time.monotonic() + 2 * soon
    while time.monotonic() < deadline:
        assert not free(second)
        first.renew("")
        first.confirm()
        assert first.confirmed()
        time.sleep(soon / 10)
    assert not free(second)
    time.sleep(soon)
    assert not first.confirmed()  # before anybody else can follow
    name = first.own
    assert free(second)
    second.take(SHOP)
    first.renew("")
    assert first.own != name
    assert (first.held, second.held) == (frozenset(), SHOP)
    assert first.sight.follower("shop") == second.own


def test_who_cannot_look_strikes_nobody_off(
    database: Database, two: tuple[Leases, Leases], soon: float, resources: ExitStack
) -> None:
    """It would take an outage of the database for the others' silence."""
    _, second = two
    with database.engine().connect() as connection, resources:  # which closes the stores
        time.sleep(soon)
        resources.close()
        with pytest.raises(CheckpointError):
            second.renew("")
        connection.rollback()
    second._store = Store(database.owner, "checkpoint database", limits=QUICK)
    assert not free(second)
    second.close()


def test_lost_answer_when_taking(store: Callable[[], Store]) -> None:
    """The row says that it is ours, though nobody told us."""
    now = 1000.0
    leases = Leases(store(), lambda: now)
    leases.renew("")
    leases.take(SHOP)
    leases.held = frozenset()
    now += LEASE_DURATION
    assert not leases.confirmed()
    leases.renew("")
    assert leases.held == SHOP
    leases.confirm()
    assert leases.confirmed()


@pytest.mark.parametrize("how", ["emptied", "dropped"])
def test_replica_goes_on_where_its_rows_are_gone(
    database: Database, two: tuple[Leases, Leases], soon: float, how: str
) -> None:
    """Its counts are in memory only, then: others give it time, and take over after it."""
    for follows, other in (two, reversed(two)):
        name = follows.own
        with database.engine().begin() as connection:
            for table in TABLES:
                connection.exec_driver_sql(f"{LOSSES[how]} {table}")
        for replica in (other, follows):
            for _ in range(2):  # at the first it may be an error
                with suppress(CheckpointError):
                    replica.renew("")
                    other.take(SHOP)
        assert (follows.own, follows.held, other.held) == (name, SHOP, frozenset())
        assert not free(other)
        time.sleep(1.5 * soon)
        assert free(other)
        other.take(SHOP)
        assert other.held == SHOP
        follows.renew("")
        assert follows.held == frozenset()


def test_statements_do_not_grow_with_the_backends(store: Callable[[], Store]) -> None:
    """A renewal is one that writes and two that read."""
    kept = store()
    leases, sent = Leases(kept), []
    leases.renew("")
    leases.take([f"backend-{number}" for number in range(100)])
    assert len(leases.held) == 100
    engine: Engine = kept._engine
    event.listen(engine, "before_cursor_execute", lambda *args: sent.append(args[2].split()[0]))
    leases.renew("")
    assert [word for word in sent if word in {"UPDATE", "INSERT", "DELETE"}] == ["UPDATE"]
    assert len(sent) <= 4  # with the one that begins


def test_who_has_lost_the_lease_saves_nothing(
    database: Database, store: Callable[[], Store], two: tuple[Leases, Leases], soon: float
) -> None:
    engine = create_tables(database)
    first, second = two
    old = Checkpoint(store(), first.fence)
    old.open()
    follower = Follower(database.reader_url, old, name="shop").poll()
    with engine.begin() as connection:
        insert(connection)
    time.sleep(soon)
    assert free(second)
    second.take(SHOP)
    assert not follower.poller.try_poll()
    assert follower.poller.status.message == "another replica follows this backend now"
    assert follower.states() == {}
    second.release(SHOP)
    assert not follower.poller.try_poll()
    assert free(first)
    first.take(SHOP)
    successor = Follower(database.reader_url, Checkpoint(store(), first.fence), name="shop").poll()
    assert successor.states() == {"SUCCESS": 1}
    follower.close()
    successor.close()


@ONE_SERVER
def test_replica_that_hangs_in_a_save_keeps_others_out_until_it_ends(
    database: Database, store: Callable[[], Store], two: tuple[Leases, Leases], soon: float
) -> None:
    """The row it has changed stays locked; the server ends a transaction that idles."""
    first, second = two
    with pytest.raises(CheckpointError), store().transaction() as connection:  # noqa: PT012
        first.fence(connection, "shop")
        time.sleep(soon)
        assert free(second)
        if database.owner.get_backend_name() == "postgresql":
            time.sleep(1.0)  # QUICK's limit, which is shorter than the longest pause
        else:
            with pytest.raises(CheckpointError, match=r"[Ll]ock wait|timed out|interrupted"):
                second.take(SHOP)
            raise CheckpointError("gone")
    wait_until(lambda: second.take(SHOP) or second.held, "the lease is taken", timeout=5)


@ONE_SERVER
def test_silent_server_is_given_up(database: Database) -> None:
    """It accepts connections and never answers, at any point."""
    assert database.server is not None
    with Proxy(database.server.port) as proxy:
        url = database.owner.set(host=HOST, port=proxy.port)
        leases = Leases(Store(url, "checkpoint database", limits=QUICK))
        leases.renew("")
        for _ in range(2):  # with a connection, and without
            proxy.mode = Mode.BLACK_HOLE
            started = time.monotonic()
            with pytest.raises(CheckpointError, match="checkpoint database: "):
                leases.renew("")
            assert time.monotonic() - started < 10
        proxy.mode = Mode.PASS
        leases.renew("")
        leases.close()


def test_names_are_compared_exactly(database: Database, store: Callable[[], Store]) -> None:
    """By default MySQL takes the backend "Shop" for "shop"."""
    engine = create_tables(database)
    with engine.begin() as connection:
        insert(connection)
    leases = Leases(store())
    leases.renew("")
    leases.take({"shop", "Shop"})
    assert leases.held == {"shop", "Shop"}
    checkpoint = Checkpoint(store(), leases.fence)
    checkpoint.open()
    for name in ("shop", "Shop"):
        follower = Follower(database.reader_url, checkpoint, name=name).poll()
        assert follower.states() == {"SUCCESS": 1}
        follower.close()
    beside = read(make_url(database.owner))
    assert sorted(beside.identities()) == ["Shop", "shop"]
    beside.close()
