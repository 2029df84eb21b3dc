"""A hostile MySQL server asks its client for a file, as LOAD DATA LOCAL does; none gets one."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
from typing import TYPE_CHECKING

import pytest

from tests.follow import Follower
from tests.servers.process import HOST

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

SECRET = b"hunter2: what only the exporter may read"
# https://dev.mysql.com/doc/dev/mysql-server/latest/page_protocol_connection_phase_packets.html
CAPABILITIES = 0x1 | 0x8 | 0x80 | 0x200 | 0x2000 | 0x8000 | 0x80000  # LOCAL FILES is 0x80
OK = b"\x00\x00\x00\x02\x00\x00\x00"
LOCAL_FILE = b"\xfb"


class Rogue:
    """Lets anybody in, and answers every statement by asking for a file."""

    def __init__(self, wanted: Path) -> None:
        self.wanted = wanted
        self.asked = 0
        self.given = b""
        self._listener = socket.create_server((HOST, 0))
        self.port = self._listener.getsockname()[1]
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

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
                self._talk(client)

    def _talk(self, client: socket.socket) -> None:
        greeting = b"\x0a5.7.99-rogue\x00" + struct.pack("<I", 1) + b"12345678\x00"
        greeting += struct.pack("<H", CAPABILITIES & 0xFFFF) + b"\x2d\x02\x00"
        greeting += struct.pack("<H", CAPABILITIES >> 16) + b"\x15" + bytes(10)
        greeting += b"123456789012\x00mysql_native_password\x00"
        self._send(client, 0, greeting)
        number, _ = self._receive(client)
        self._send(client, number + 1, OK)
        while True:
            number, packet = self._receive(client)
            if packet[:1] != b"\x03":  # COM_QUERY
                self._send(client, number + 1, OK)
                continue
            self.asked += 1
            self._send(client, number + 1, LOCAL_FILE + str(self.wanted).encode())
            number, content = self._receive(client)
            while content:
                self.given += content
                number, content = self._receive(client)
            self._send(client, number + 1, OK)

    def _send(self, client: socket.socket, number: int, payload: bytes) -> None:
        client.sendall(struct.pack("<I", len(payload))[:3] + bytes([number & 0xFF]) + payload)

    def _receive(self, client: socket.socket) -> tuple[int, bytes]:
        head = self._exactly(client, 4)
        return head[3], self._exactly(client, int.from_bytes(head[:3], "little"))

    def _exactly(self, client: socket.socket, length: int) -> bytes:
        found = b""
        while len(found) < length:
            part = client.recv(length - len(found))
            if not part:
                raise EOFError
            found += part
        return found


@pytest.fixture
def rogue(tmp_path: Path) -> Iterator[Rogue]:
    wanted = tmp_path / "secret"
    wanted.write_bytes(SECRET)
    server = Rogue(wanted)
    yield server
    server.close()


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
def test_no_server_gets_a_file(rogue: Rogue, driver: str, asked_for: str) -> None:
    """Whatever a URL allows. What comes instead is an empty packet, or the next statement."""
    url = f"mysql+{driver}://u:p@{HOST}:{rogue.port}/d?connect_timeout=3{asked_for}"
    follower = Follower(url, query_timeout=2.0, connect_timeout=2.0)
    assert not follower.poller.try_poll()
    assert follower.poller.status.message
    follower.close()
    assert rogue.asked > 0
    assert SECRET not in rogue.given
