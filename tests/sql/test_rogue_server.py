"""Hostile servers: they ask their client for a file, as LOAD DATA LOCAL does, or never stop."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
import time
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

import pytest
from sqlalchemy import make_url

from exporter.checkpoint.store import Store
from exporter.errors import CheckpointError
from exporter.sql import cutting
from exporter.sql.dialects import Limits
from tests.acceptance.footprint import rss
from tests.acceptance.process import running
from tests.follow import Follower, create_tables, insert
from tests.servers.database import SQLite
from tests.servers.process import HOST
from tests.soak.load import backend, config

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    Endless = Callable[[bytes, float], "EndlessMySQL | EndlessPostgreSQL"]

SECRET = b"hunter2: what only the exporter may read"
# https://dev.mysql.com/doc/dev/mysql-server/latest/page_protocol_connection_phase_packets.html
CAPABILITIES = 0x1 | 0x8 | 0x80 | 0x200 | 0x2000 | 0x8000 | 0x80000  # LOCAL FILES is 0x80
OK = b"\x00\x00\x00\x02\x00\x00\x00"
EOF = b"\xfe\x00\x00\x02\x00"
LOCAL_FILE = b"\xfb"
COLUMN = b"\x03def\x00\x00\x00\x01a\x00\x0c\x2d\x00\xff\xff\x00\x00\xfd\x00\x00\x00\x00\x00"
LARGE, SMALL = bytes(1024**2), b"x"
# https://www.postgresql.org/docs/current/protocol-message-formats.html
REFUSABLE = (80877103, 80877104)  # wishes for encryption
TEXT = 25  # a type's OID


class Rogue(ABC):
    """Lets anybody in, and answers every statement as it likes."""

    def __init__(self) -> None:
        self._listener = socket.create_server((HOST, 0))
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._serve, daemon=True).start()

    def close(self) -> None:
        self._listener.close()

    def _serve(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            with client, contextlib.suppress(OSError, EOFError):
                client.settimeout(20)
                self.talk(client)

    @abstractmethod
    def talk(self, client: socket.socket) -> None:
        """Speak the protocol."""


def exactly(client: socket.socket, length: int) -> bytes:
    found = b""
    while len(found) < length:
        part = client.recv(length - len(found))
        if not part:
            raise EOFError
        found += part
    return found


class MySQL(Rogue):
    harmless: tuple[bytes, ...] = ()  # starts of statements that are answered with OK

    def talk(self, client: socket.socket) -> None:
        greeting = b"\x0a5.7.99-rogue\x00" + struct.pack("<I", 1) + b"12345678\x00"
        greeting += struct.pack("<H", CAPABILITIES & 0xFFFF) + b"\x2d\x02\x00"
        greeting += struct.pack("<H", CAPABILITIES >> 16) + b"\x15" + bytes(10)
        greeting += b"123456789012\x00mysql_native_password\x00"
        self.send(client, 0, greeting)
        number, _ = self.receive(client)
        self.send(client, number + 1, OK)
        while True:
            number, packet = self.receive(client)
            # COM_QUERY; what sets something has an answer of one packet, or drivers stop there.
            if packet[:1] == b"\x03" and not packet[1:].upper().startswith(self.harmless):
                self.answer(client, number + 1)
            else:
                self.send(client, number + 1, OK)

    @abstractmethod
    def answer(self, client: socket.socket, number: int) -> None:
        """Answer a statement; `number` is the next packet's."""

    def send(self, client: socket.socket, number: int, payload: bytes) -> None:
        client.sendall(struct.pack("<I", len(payload))[:3] + bytes([number & 0xFF]) + payload)

    def receive(self, client: socket.socket) -> tuple[int, bytes]:
        head = exactly(client, 4)
        return head[3], exactly(client, int.from_bytes(head[:3], "little"))


class Thief(MySQL):
    """Asks for a file."""

    def __init__(self, wanted: Path) -> None:
        self.wanted = wanted
        self.asked = 0
        self.given = b""
        super().__init__()

    def answer(self, client: socket.socket, number: int) -> None:
        self.asked += 1
        self.send(client, number, LOCAL_FILE + str(self.wanted).encode())
        number, content = self.receive(client)
        while content:
            self.given += content
            number, content = self.receive(client)
        self.send(client, number + 1, OK)


class EndlessMySQL(MySQL):
    """Sends rows for ever: as fast as it can, or one now and then."""

    harmless = (b"SET",)

    def __init__(self, row: bytes, pause: float) -> None:
        size = bytes([len(row)]) if len(row) < 0xFB else b"\xfe" + struct.pack("<Q", len(row))
        self._row, self._pause = size + row, pause
        super().__init__()

    def answer(self, client: socket.socket, number: int) -> None:
        for packet in (b"\x01", COLUMN, EOF):
            self.send(client, number, packet)
            number += 1
        while True:
            self.send(client, number, self._row)
            number += 1
            time.sleep(self._pause)


class EndlessPostgreSQL(Rogue):
    """The same in PostgreSQL's protocol."""

    def __init__(self, row: bytes, pause: float) -> None:
        self._row, self._pause = struct.pack("!hi", 1, len(row)) + row, pause
        super().__init__()

    def talk(self, client: socket.socket) -> None:
        (length,) = struct.unpack("!i", exactly(client, 4))
        while int.from_bytes(exactly(client, length - 4)[:4], "big") in REFUSABLE:
            client.sendall(b"N")
            (length,) = struct.unpack("!i", exactly(client, 4))
        self._send(client, b"R", bytes(4))  # come in
        for setting in ("server_version=15.99", "client_encoding=UTF8", "DateStyle=ISO, MDY"):
            self._send(client, b"S", f"{setting}=".replace("=", "\0").encode())
        self._send(client, b"Z", b"I")
        while True:
            kind, length = struct.unpack("!ci", exactly(client, 5))
            exactly(client, length - 4)
            if kind in b"PB":
                self._send(client, b"1" if kind == b"P" else b"2", b"")
            elif kind in b"QE":
                self._endless(client)

    def _endless(self, client: socket.socket) -> None:
        column = struct.pack("!h2sihihih", 1, b"a\x00", 0, 0, TEXT, -1, -1, 0)
        self._send(client, b"T", column)
        while True:
            self._send(client, b"D", self._row)
            time.sleep(self._pause)

    def _send(self, client: socket.socket, kind: bytes, payload: bytes) -> None:
        client.sendall(kind + struct.pack("!i", len(payload) + 4) + payload)


@pytest.fixture
def thief(tmp_path: Path) -> Iterator[Thief]:
    wanted = tmp_path / "secret"
    wanted.write_bytes(SECRET)
    with contextlib.closing(Thief(wanted)) as server:
        yield server


@pytest.mark.parametrize(
    ("driver", "asked_for"),
    [
        ("pymysql", ""),
        ("pymysql", "&local_infile=1"),
        ("mysqldb", ""),
        ("mysqldb", "&local_infile=1"),
        ("mysqlconnector", ""),
        ("mysqlconnector", "&allow_local_infile=1"),
    ],
)
def test_no_server_gets_a_file(thief: Thief, driver: str, asked_for: str) -> None:
    """Whatever a URL allows. What comes instead is an empty packet, or the next statement."""
    url = f"mysql+{driver}://u:p@{HOST}:{thief.port}/d?connect_timeout=3{asked_for}"
    follower = Follower(url, query_timeout=2.0, connect_timeout=2.0)
    assert not follower.poller.try_poll()
    assert follower.poller.status.message
    follower.close()
    assert thief.asked > 0
    assert SECRET not in thief.given


ENDLESS = pytest.mark.parametrize(
    ("kind", "driver"),
    [
        (EndlessMySQL, "mysql+pymysql"),
        (EndlessMySQL, "mysql+mysqldb"),
        (EndlessPostgreSQL, "postgresql+psycopg"),
        (EndlessPostgreSQL, "postgresql+psycopg2"),
        (EndlessPostgreSQL, "postgresql+pg8000"),
    ],
)


@ENDLESS
def test_answer_that_takes_too_much_memory(
    kind: Endless, driver: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cutting, "MOST_GROWTH", 64 * 1024**2)
    with contextlib.closing(kind(LARGE, 0)) as server:
        follower = Follower(f"{driver}://u:p@{HOST}:{server.port}/d", query_timeout=60.0)
        assert not follower.poller.try_poll()
        message = follower.poller.status.message
        follower.close()
    assert "the server's answer took more than 64 MiB of memory" in message


@ENDLESS
def test_answer_that_takes_too_long(kind: Endless, driver: str) -> None:
    with contextlib.closing(kind(SMALL, 0.1)) as server:
        follower = Follower(f"{driver}://u:p@{HOST}:{server.port}/d", query_timeout=0.2)
        begun = time.monotonic()
        assert not follower.poller.try_poll()
        assert time.monotonic() - begun < 10
        follower.close()


@ENDLESS
def test_checkpoint_waits_no_longer_either(kind: Endless, driver: str) -> None:
    with contextlib.closing(kind(SMALL, 0.1)) as server:
        url = make_url(f"{driver}://u:p@{HOST}:{server.port}/d")
        store = Store(url, "checkpoint database", limits=Limits(connect=2.0, query=0.2))
        for _ in range(2):
            begun = time.monotonic()
            with pytest.raises(CheckpointError), store.transaction():
                pass
            assert time.monotonic() - begun < 10
        store.close()


def test_others_go_on_beside_it(tmp_path: Path) -> None:
    with (
        SQLite(tmp_path).fresh_database() as database,
        contextlib.closing(EndlessPostgreSQL(LARGE, 0)) as server,
    ):
        engine = create_tables(database)
        rogue = backend("rogue", f"postgresql://u:p@{HOST}:{server.port}/d")
        with running(tmp_path, config(tmp_path, rogue, backend("shop", database.reader_url))) as it:
            it.wait_for_log("the server's answer took more than 256 MiB of memory")
            with engine.begin() as connection:
                insert(connection)
            it.wait_until(lambda: it.scrape().sums("celery_task_results_total")[()] == 1, "one")
            peak = rss(it.pid, peak=True)
        print(f"an endless answer: at most {peak:.0f} MiB")  # noqa: T201 - shown with -s
    assert peak < 1024
