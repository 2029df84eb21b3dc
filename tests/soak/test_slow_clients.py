"""Slow clients and guessed passwords: whoever may scrape hardly notices."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import http.client
import itertools
import socket
import ssl
import threading
import time
from collections import Counter
from contextlib import closing
from statistics import median
from typing import TYPE_CHECKING, Any

import bcrypt
import pytest
import yaml

from tests.acceptance.process import one_backend, running
from tests.follow import create_tables, insert
from tests.servers.database import SQLite
from tests.servers.process import HOST, wait_until
from tests.soak.sizes import LONG, SLOW_SECONDS
from tests.web.certificates import Authority
from tests.web.test_server import served

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

SLOW = 200  # clients at a time
GUESSES = 20  # a second
TASKS = 1_000
PAUSE = 0.05  # seconds between scrapes
MOST = 0.05 if LONG else 1.0  # seconds that 99 of 100 scrapes take; more beside other tests
# What slow clients begin with, and send once a second.
PLAIN = [
    (b"", b""),
    (b"GET /metrics HTTP/1.1\r\nHost: x\r\nX-Slow: ", b"x"),
    (b"POST /metrics HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n", b"x"),
    (b"", b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n"),  # and never reads what it is answered
]
HANDSHAKES = [(b"", b""), (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", b"x")]


class Attack:
    """Keeps slow clients connected and guesses passwords, from many addresses."""

    def __init__(self, port: int, context: ssl.SSLContext | None) -> None:
        self.answers: Counter[str] = Counter()  # to guesses
        self.hang_ups = 0
        self._port = port
        self._context = context
        self._tasks: set[asyncio.Task[None]] = set()
        self._over = threading.Event()

    @contextlib.contextmanager
    def going_on(self) -> Iterator[None]:
        """Attack until the end of the block."""
        thread = threading.Thread(target=lambda: asyncio.run(self._attack()))
        thread.start()
        try:
            wait_until(lambda: served(self._port) >= SLOW, "the slow clients")
            yield
        finally:
            self._over.set()
            thread.join()

    async def _attack(self) -> None:
        kinds = itertools.cycle(HANDSHAKES if self._context else PLAIN)
        for start, more in itertools.islice(kinds, SLOW):
            self._begin(self._be_slow(start, more))
        for number in itertools.count():
            if self._over.is_set():
                break
            self._begin(self._guess(number))
            await asyncio.sleep(1 / GUESSES)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _begin(self, what: Any) -> None:
        task = asyncio.create_task(what)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _be_slow(self, start: bytes, more: bytes) -> None:
        loop = asyncio.get_running_loop()
        while True:
            with socket.socket() as sock, contextlib.suppress(OSError):
                sock.setblocking(False)  # noqa: FBT003
                await loop.sock_connect(sock, (HOST, self._port))
                await loop.sock_sendall(sock, start)
                for step in itertools.count():
                    if hung_up(sock):
                        break
                    if step % 10 == 9:
                        await loop.sock_sendall(sock, more)
                    await asyncio.sleep(0.1)
            self.hang_ups += 1

    async def _guess(self, number: int) -> None:
        user = ("prometheus", "root")[number % 2]
        with contextlib.suppress(OSError):
            reader, writer = await asyncio.open_connection(
                HOST, self._port, ssl=self._context, local_addr=(f"127.0.0.{2 + number % 200}", 0)
            )
            try:
                head = "".join(f"{name}: {value}\r\n" for name, value in basic(user, f"{number}"))
                writer.write(f"GET /metrics HTTP/1.1\r\nHost: x\r\n{head}\r\n".encode())
                self.answers[(await reader.readline()).decode()[9:12]] += 1
            finally:
                writer.transport.abort()


def hung_up(sock: socket.socket) -> bool:
    try:
        return not sock.recv(1, socket.MSG_PEEK)
    except BlockingIOError:
        return False


def basic(user: str, password: str) -> list[tuple[str, str]]:
    token = base64.b64encode(f"{user}:{password}".encode()).decode()
    return [("Authorization", f"Basic {token}"), ("Accept-Encoding", "gzip")]


class Scrapes:
    """How long right requests take: on a connection that is kept, on new ones, and a probe."""

    def __init__(self, port: int, context: ssl.SSLContext | None) -> None:
        self.took: dict[str, list[float]] = {"kept": [], "new": [], "probe": []}
        self._port = port
        self._context = context
        self.kept = self._connection()

    def _connection(self) -> http.client.HTTPConnection:
        if self._context is None:
            return http.client.HTTPConnection(HOST, self._port, timeout=30)
        return http.client.HTTPSConnection(HOST, self._port, timeout=30, context=self._context)

    def ask(self, connection: http.client.HTTPConnection, path: str = "/metrics") -> bytes:
        headers = dict(basic("prometheus", "p@ss")) if path == "/metrics" else {}
        connection.request("GET", path, headers=headers)
        answer = connection.getresponse()
        body = answer.read()
        assert answer.status == 200
        return body

    def once(self) -> None:
        """Ask in each way."""
        with closing(self._connection()) as new, closing(self._connection()) as probe:
            for way, connection, path in (
                ("kept", self.kept, "/metrics"),
                ("new", new, "/metrics"),
                ("probe", probe, "/-/healthy"),
            ):
                begun = time.perf_counter()
                self.ask(connection, path)
                self.took[way].append(time.perf_counter() - begun)

    def close(self) -> None:
        self.kept.close()


@pytest.mark.timeout(SLOW_SECONDS + 300)
@pytest.mark.parametrize("tls", [False, True], ids=["plain", "TLS"])
def test_slow_clients_and_guesses(tmp_path: Path, *, tls: bool) -> None:
    authority = Authority()
    authority.pair(HOST).write(tmp_path, "server")
    hashed = bcrypt.hashpw(b"p@ss", bcrypt.gensalt(10)).decode()
    web: dict[str, Any] = {"basic_auth_users": {"prometheus": hashed}}
    if tls:
        web["tls_server_config"] = {"cert_file": "server.crt", "key_file": "server.key"}
    (tmp_path / "web.yaml").write_text(yaml.safe_dump(web))
    context = ssl.create_default_context(cadata=authority.cert) if tls else None
    connected: list[int] = []
    with SQLite(tmp_path).fresh_database() as database:
        with create_tables(database).begin() as connection:
            for number in range(TASKS):
                insert(connection, name=f"app.task{number}")
        backend = one_backend(database.reader_url)
        with running(tmp_path, backend, f"--web.config.file={tmp_path}/web.yaml") as exporter:
            port = int(exporter.address.rpartition(":")[2])
            with closing(Scrapes(port, context)) as scrapes:
                attack = Attack(port, context)
                wait_until(lambda: len(scrapes.ask(scrapes.kept)) > 10_000, "the results")
                with attack.going_on():
                    end = time.monotonic() + SLOW_SECONDS
                    while time.monotonic() < end:
                        scrapes.once()
                        connected.append(served(port))
                        time.sleep(PAUSE)
    p99 = {}
    for way, took in scrapes.took.items():
        took.sort()
        p99[way] = took[int(len(took) * 0.99)]
        print(  # noqa: T201 - the figures, shown with -s
            f"\n{'TLS' if tls else 'plain'}, {way}: {len(took)} times, p50 "
            f"{took[len(took) // 2] * 1000:.1f} ms, p99 {p99[way] * 1000:.1f} ms, at most "
            f"{took[-1] * 1000:.1f} ms",
            end="",
        )
    print(  # noqa: T201
        f"\n{min(connected)} to {max(connected)} connections, {median(connected):g} as a rule, "
        f"{attack.hang_ups} slow ones hung up on, guesses answered with {dict(attack.answers)}"
    )
    assert median(connected) >= SLOW
    assert attack.answers.keys() <= {"401", "503"}
    assert attack.answers["401"]
    assert max(p99.values()) < MOST
