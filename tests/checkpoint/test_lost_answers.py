"""A commit whose answer is lost: kept or not, its counts are there once."""

from __future__ import annotations

import socket
import tempfile
import threading
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Self

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule
from sqlalchemy import make_url

from exporter.checkpoint.checkpoint import Checkpoint
from exporter.checkpoint.lease import Leases
from exporter.checkpoint.saved import read
from exporter.checkpoint.store import Store
from exporter.errors import CheckpointError
from exporter.sql.dialects import Limits
from tests.follow import Follower, create_tables, insert, restored
from tests.servers.database import Database, SQLite
from tests.servers.process import HOST, free_port

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sqlalchemy import URL, Connection

SERVERS = pytest.mark.parametrize(
    "database", ["postgresql", "mariadb-pymysql", "mariadb-mysqlclient"], indirect=True
)
QUICK = Limits(connect=2.0, query=2.0)


class CommitCut:
    """A TCP proxy that cuts a connection at COMMIT, once told to: before the server gets it, or
    after, so that the client never gets the answer."""

    def __init__(self, upstream: int) -> None:
        self.upstream = upstream
        self.port = free_port()
        self.cut = ""  # "before", "after" or "": let it pass
        self.cuts = 0
        self._server = socket.create_server((HOST, self.port))
        threading.Thread(target=self._accept, daemon=True).start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown(socket.SHUT_RDWR)
        self._server.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._server.accept()
                server = socket.create_connection((HOST, self.upstream))
                pair = (client, server)
                threading.Thread(target=self._ask, args=pair, daemon=True).start()
                threading.Thread(target=self._answer, args=pair, daemon=True).start()

    def _ask(self, client: socket.socket, server: socket.socket) -> None:
        with suppress(OSError), client, server:
            while data := client.recv(65536):
                cut = self.cut if b"COMMIT" in data.upper() else ""
                if cut:
                    self.cut = ""
                    self.cuts += 1
                if cut == "before":
                    break
                if cut == "after":
                    client.shutdown(socket.SHUT_RDWR)
                    server.sendall(data)
                    break
                server.sendall(data)
            _end(client)
            _end(server, socket.SHUT_WR)  # what it was sent it still does

    def _answer(self, client: socket.socket, server: socket.socket) -> None:
        with suppress(OSError):
            while data := server.recv(65536):
                client.sendall(data)
        _end(client)


def _end(connection: socket.socket, how: int = socket.SHUT_RDWR) -> None:
    with suppress(OSError):
        connection.shutdown(how)


@contextmanager
def following(url: URL) -> Iterator[Checkpoint]:
    """Give a checkpoint as the replica that follows the backend has it."""
    leases = Leases(Store(url, "checkpoint database", limits=QUICK))
    checkpoint = Checkpoint(Store(url, "checkpoint database", limits=QUICK), leases.fence)
    checkpoint.open()
    leases.renew("")
    leases.take(["celery"])
    assert leases.held == {"celery"}
    yield checkpoint
    checkpoint.close()
    leases.leave()
    leases.close()


@SERVERS
@pytest.mark.parametrize("cut", ["before", "after"])
def test_connection_cut_at_commit(database: Database, cut: str) -> None:
    assert database.server is not None
    engine = create_tables(database)
    with CommitCut(database.server.port) as proxy:
        url = database.owner.set(port=proxy.port)
        with following(url) as checkpoint:
            follower = Follower(database.reader_url, checkpoint).poll()
            for number in range(3):
                with engine.begin() as connection:
                    insert(connection, "STARTED")
                    insert(connection, "FAILURE")
                proxy.cut = cut
                assert not follower.poller.try_poll()
                assert follower.value("celery_backend_poll_errors_total", reason="checkpoint")
                assert follower.states().total() == 2 * number  # the unsaved is not served
                with engine.begin() as connection:
                    insert(connection, "FAILURE")
                assert follower.poll().states() == {"FAILURE": 2 * number + 2}
            follower.close()
            again = Follower(database.reader_url, checkpoint).poll()
            assert again.states() == follower.states()
            again.close()
    assert proxy.cuts == 3


class LostAnswers(RuleBasedStateMachine):
    """Saves fail before or after they are kept, and processes end, in any order."""

    def __init__(self) -> None:
        super().__init__()
        self.resources = ExitStack()
        self.folder = Path(self.resources.enter_context(tempfile.TemporaryDirectory()))
        self.path = self.folder / "checkpoint.sqlite"
        self.fault = ""
        self.inserted = 0

    @initialize()
    def begin(self) -> None:
        self.database = self.resources.enter_context(SQLite(self.folder).fresh_database())
        self.engine = create_tables(self.database)
        self._start()

    def _start(self) -> None:
        self.checkpoint = Checkpoint(FaultyStore(make_url(f"sqlite:///{self.path}"), self))
        self.checkpoint.open()
        self.follower = Follower(self.database.reader_url, self.checkpoint)

    @rule(rows=st.integers(1, 3))
    def write(self, rows: int) -> None:
        with self.engine.begin() as connection:
            for _ in range(rows):
                insert(connection, "FAILURE")
        self.inserted += rows

    @rule(fault=st.sampled_from(["before", "after"]))
    def poll_with_fault(self, fault: str) -> None:
        self.fault = fault
        self.follower.poller.try_poll()
        self.fault = ""
        assert self.follower.states().total() <= self._kept()

    def _kept(self) -> int:
        """Count what the checkpoint holds."""
        checkpoint = read(self.path)
        _, tally = restored(checkpoint, "celery")
        checkpoint.close()
        return sum(count for _, _, count in tally.by_task())

    @rule()
    def poll(self) -> None:
        self.follower.poll()
        assert self.follower.states().total() == self.inserted

    @rule()
    def crash(self) -> None:
        self.checkpoint.close()
        self.follower.close()
        self._start()

    def teardown(self) -> None:
        self.poll()
        self.crash()
        self.poll()
        self.checkpoint.close()
        self.follower.close()
        self.resources.close()


class FaultyStore(Store):
    """Fails at commits as networks do: the database has committed, or it has not."""

    def __init__(self, url: URL, machine: LostAnswers) -> None:
        super().__init__(url, "checkpoint")
        self.machine = machine

    @contextmanager
    def transaction(self, seconds: float | None = None) -> Iterator[Connection]:
        with super().transaction(seconds) as connection:
            yield connection
            if self.machine.fault == "before":
                raise OSError("cut")
        if self.machine.fault == "after":
            self.close()
            raise CheckpointError("cut")


LostAnswers.TestCase.settings = settings(max_examples=12, stateful_step_count=12)
TestLostAnswers = LostAnswers.TestCase
