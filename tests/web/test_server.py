"""The web server, asked over real sockets."""

from __future__ import annotations

import gzip
import http.client
import json
import logging
import math
import socket
import threading
import time
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from exporter.errors import ConfigError
from exporter.exposition.formats import Format
from exporter.web.server import Address, Limits, UnixAddress, WebServer
from exporter.web.status import BackendStatus, ServiceStatus, TaskStatus

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

LOOPBACK = Address("127.0.0.1", 0)
QUICK = Limits(idle=0.5, body=0.5, answer=0.5, connections=20, head_bytes=4096)
PATIENCE = 30.0  # seconds; only what hangs takes as long
PATIENT = replace(QUICK, idle=10 * PATIENCE, body=10 * PATIENCE, answer=10 * PATIENCE)
REQUEST = b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n"
PROBE = b"GET /-/healthy HTTP/1.1\r\nHost: x\r\n\r\n"
MOST_TAKEN = 20_000_000  # bytes; the kernel's buffers hold nearly as much for us
METRICS = b"# TYPE celery_backend_up gauge\ncelery_backend_up 1\n"


class Shop:
    """A small site with real answers, and faults to order."""

    def __init__(self) -> None:
        self.metrics = METRICS
        self.ill = ""
        self.busy = ""
        self.broken: Exception | None = None
        self.scrapes = 0
        self.rendering = threading.Lock()
        self.looking = threading.Lock()

    def cached(self, form: Format, *, gzip: bool) -> bytes | None:
        del form, gzip
        self.scrapes += 1

    def exposition(self, form: Format, *, gzip: bool) -> bytes:
        if self.broken:
            raise self.broken
        with self.rendering:
            body = form.name.encode() + b"\n" + self.metrics
        return compress(body) if gzip else body

    def unhealthy(self) -> str:
        return self.ill

    def unready(self) -> str:
        return self.busy

    def status(self) -> ServiceStatus:
        now = time.time()
        with self.looking:
            pass
        tasks = (TaskStatus("<script>alert(1)</script>", {"SUCCESS": 1}, {}, now),)
        backend = BackendStatus("orders", True, "", "", 15, now, 0.1, tasks=tasks)  # noqa: FBT003
        if self.broken:
            raise self.broken
        return ServiceStatus("1.2.3", now, (backend,), self.ill, self.busy)


compress = gzip.compress


@contextmanager
def serving(
    site: Shop, limits: Limits = QUICK, path: str = "/metrics"
) -> Iterator[tuple[WebServer, int]]:
    server = WebServer(site, [LOOPBACK], path, limits=limits)
    server.start()
    try:
        yield server, server.addresses[0].port
    finally:
        server.stop()
    assert "web" not in {thread.name for thread in threading.enumerate()}


@pytest.fixture
def shop() -> Shop:
    return Shop()


@pytest.fixture
def port(shop: Shop) -> Iterator[int]:
    with serving(shop) as (_, port):
        yield port


def ask(
    port: int, path: str, method: str = "GET", **headers: str
) -> tuple[http.client.HTTPResponse, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE)
    try:
        given = {name.replace("_", "-"): value for name, value in headers.items()}
        connection.request(method, path, headers=given)
        answer = connection.getresponse()
        return answer, answer.read()
    finally:
        connection.close()


def connect(port: int, data: bytes = b"") -> socket.socket:
    sock = socket.create_connection(("127.0.0.1", port), timeout=PATIENCE)
    sock.sendall(data)
    return sock


def closed(sock: socket.socket, within: float = PATIENCE) -> bool:
    """Tell whether the other side hangs up in time, reading on until it does."""
    deadline = time.monotonic() + within
    try:
        while (left := deadline - time.monotonic()) > 0:
            sock.settimeout(left)
            if not sock.recv(65536):
                return True
    except ConnectionError:
        return True
    except TimeoutError:
        pass
    return False


def received(sock: socket.socket, until: float = math.inf) -> int:
    """Count the bytes that come until the other side hangs up, or so many have come."""
    count = 0
    try:
        while count < until and (data := sock.recv(65536)):
            count += len(data)
    except ConnectionResetError:
        pass
    return count


class TestMetrics:
    """The page that Prometheus reads."""

    def test_default_is_text(self, port: int) -> None:
        answer, body = ask(port, "/metrics")
        assert answer.status == 200
        assert answer.headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
        assert answer.headers["Content-Encoding"] is None
        assert answer.headers["Vary"] == "Accept, Accept-Encoding"
        assert answer.headers["ETag"] is None
        assert body == b"TEXT\n" + METRICS

    def test_openmetrics(self, port: int) -> None:
        answer, body = ask(
            port, "/metrics", Accept="application/openmetrics-text;version=1.0.0,*/*;q=0.1"
        )
        assert answer.headers["Content-Type"] == Format.OPENMETRICS.value
        assert body == b"OPENMETRICS\n" + METRICS

    def test_gzip(self, port: int) -> None:
        answer, body = ask(port, "/metrics", Accept_Encoding="gzip")
        assert answer.headers["Content-Encoding"] == "gzip"
        assert int(answer.headers["Content-Length"]) == len(body)
        assert gzip.decompress(body) == b"TEXT\n" + METRICS

    def test_gzip_refused(self, port: int) -> None:
        answer, body = ask(port, "/metrics", Accept_Encoding="gzip;q=0, *")
        assert answer.headers["Content-Encoding"] is None
        assert body == b"TEXT\n" + METRICS

    @pytest.mark.parametrize("encoding", ["gzip", "identity"])
    def test_head_is_get_without_the_body(self, port: int, encoding: str) -> None:
        head, nothing = ask(port, "/metrics", "HEAD", Accept_Encoding=encoding)
        get, body = ask(port, "/metrics", Accept_Encoding=encoding)
        assert nothing == b""
        assert head.status == 200
        assert int(head.headers["Content-Length"]) == len(body)
        assert {**head.headers, "Date": ""} == {**get.headers, "Date": ""}

    def test_connection_is_kept(self, port: int) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE)
        connection.request("GET", "/metrics")
        connection.getresponse().read()
        sock = connection.sock
        connection.request("GET", "/metrics")
        assert connection.getresponse().read() == b"TEXT\n" + METRICS
        assert connection.sock is sock
        connection.close()

    @pytest.mark.parametrize(
        ("version", "header", "kept"),
        [
            ("1.0", b"", False),
            ("1.0", b"Connection: keep-alive\r\n", True),
            ("1.1", b"", True),
            ("1.1", b"Connection: close\r\n", False),
        ],
    )
    def test_connection_is_kept_as_the_client_wants(
        self, port: int, version: str, header: bytes, *, kept: bool
    ) -> None:
        request = f"GET /metrics HTTP/{version}\r\nHost: x\r\n".encode() + header + b"\r\n"
        with connect(port, request) as client:
            assert client.recv(65536).startswith(b"HTTP/1.1 200 OK")
            assert closed(client, within=0.1) != kept

    def test_a_scrape_that_must_wait_holds_nobody_up(self, shop: Shop, port: int) -> None:
        with shop.rendering:
            waiting = connect(port, b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n")
            assert ask(port, "/-/healthy")[0].status == 200
            waiting.settimeout(0.2)
            with pytest.raises(TimeoutError):
                waiting.recv(1)
        waiting.settimeout(5)
        assert waiting.recv(65536).startswith(b"HTTP/1.1 200 OK")
        waiting.close()

    def test_other_path(self, shop: Shop) -> None:
        with serving(shop, path="/celery/metrics.txt") as (_, port):
            assert ask(port, "/celery/metrics.txt")[0].status == 200
            assert ask(port, "/celery/metricsXtxt")[0].status == 404
            assert ask(port, "/metrics")[0].status == 404
            assert b'href="celery/metrics.txt"' in ask(port, "/")[1]

    @pytest.mark.parametrize(
        ("path", "fault"),
        [
            ("metrics", "'metrics' is not a path such as '/metrics'"),
            ("/", "'/' is not a path such as '/metrics'"),
            ("", "'' is not a path such as '/metrics'"),
            ("/a?b", "'/a?b' is not a path such as '/metrics'"),
            ("//metrics", "'//metrics' is not a path such as '/metrics'"),
            ("/healthz", "'/healthz' is taken by another page; use '/metrics'"),
            ("/-/ready", "'/-/ready' is taken by another page; use '/metrics'"),
            ("/-/reload", "'/-/reload' is taken by another page; use '/metrics'"),
            ("/status.json", "'/status.json' is taken by another page; use '/metrics'"),
        ],
    )
    def test_impossible_path(self, shop: Shop, path: str, fault: str) -> None:
        with pytest.raises(ConfigError) as caught:
            WebServer(shop, [LOOPBACK], path)
        assert caught.value.faults == [f"--web.telemetry-path: {fault}"]


class TestProbes:
    """What Kubernetes asks."""

    @pytest.mark.parametrize("path", ["/-/healthy", "/healthz"])
    def test_health(self, shop: Shop, port: int, path: str) -> None:
        shop.busy = "not its business"
        answer, body = ask(port, path)
        assert (answer.status, body) == (200, b"healthy\n")
        assert answer.headers["Content-Type"] == "text/plain; charset=utf-8"
        shop.ill = "orders: no poll\nsince 5 min"
        answer, body = ask(port, path)
        assert (answer.status, body) == (503, b"not healthy: orders: no poll since 5 min\n")
        assert ask(port, path, "HEAD")[0].status == 503

    @pytest.mark.parametrize("path", ["/-/ready", "/readyz"])
    def test_readiness(self, shop: Shop, port: int, path: str) -> None:
        shop.ill = "not its business"
        answer, body = ask(port, path)
        assert (answer.status, body) == (200, b"ready\n")
        shop.busy = "mail was not tried yet"
        answer, body = ask(port, path)
        assert (answer.status, body) == (503, b"not ready: mail was not tried yet\n")

    def test_only_changes_are_logged(
        self, shop: Shop, port: int, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level(logging.INFO)
        for fault in ("", "not tried yet:\nmail", "not tried yet: shop", "", ""):
            shop.busy = fault
            for method in ("GET", "HEAD", "GET"):
                ask(port, "/-/ready", method)
        assert [(record.levelname, record.message) for record in caplog.records] == [
            ("WARNING", "/-/ready answers 503: not tried yet: mail"),
            ("INFO", "/-/ready answers 200: ready"),
        ]

    def test_each_path_has_its_own_answer(
        self, shop: Shop, port: int, caplog: pytest.LogCaptureFixture
    ) -> None:
        shop.busy, shop.ill = "not tried yet", "stuck"
        for path in ("/-/ready", "/readyz", "/-/healthy", "/healthz") * 2:
            ask(port, path)
        assert [record.message for record in caplog.records] == [
            "/-/ready answers 503: not tried yet",
            "/readyz answers 503: not tried yet",
            "/-/healthy answers 503: stuck",
            "/healthz answers 503: stuck",
        ]


class TestPages:
    """Everything around the metrics."""

    def test_status_page(self, shop: Shop, port: int) -> None:
        shop.busy = "mail was not tried yet"
        answer, body = ask(port, "/")
        assert answer.status == 200
        assert answer.headers["Content-Type"] == "text/html; charset=utf-8"
        page = body.decode()
        assert 'href="metrics"' in page
        assert "mail was not tried yet" in page
        assert "<script" not in page
        assert 'http-equiv="refresh"' in page
        assert 'http-equiv="refresh"' not in ask(port, "/?refresh=off")[1].decode()

    def test_status_as_data(self, shop: Shop, port: int) -> None:
        shop.ill = "stuck"
        answer, body = ask(port, "/status.json")
        assert answer.status == 200
        assert answer.headers["Content-Type"] == "application/json; charset=utf-8"
        assert json.loads(body)["headline"] == "Not well: the exporter is not healthy"
        assert [backend["name"] for backend in json.loads(body)["backends"]] == ["orders"]
        assert json.loads(ask(port, "/status.json?backend=none")[1])["backends"] == []
        head, nothing = ask(port, "/status.json", "HEAD")
        assert (head.status, nothing) == (200, b"")

    @pytest.mark.parametrize("path", ["/", "/status.json"])
    @pytest.mark.parametrize(
        "query",
        [
            "sort=nonsense&sort=task&refresh=",
            "task=%ff%fe%00%0a%1b%E2%80%AE&backend=%",
            "task=" + "x" * 3000,
            "task=%3Cscript%3Ealert(1)%3C/script%3E",
            "&&&=&==&a=b;c=d&task",
            "&".join(f"task={n}" for n in range(300)),
            "backend=../../etc/passwd&task={{7*7}}{%25+raw+x+%25}",
        ],
    )
    def test_whatever_is_asked_is_a_view(
        self, port: int, path: str, query: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        answer, body = ask(port, f"{path}?{query}")
        assert answer.status == 200
        assert path != "/" or b"<script" not in body
        assert len(body) < 30_000
        assert caplog.records == []

    @pytest.mark.parametrize("path", ["/", "/status.json"])
    def test_a_page_that_takes_its_time_holds_no_scrape_up(
        self, shop: Shop, port: int, path: str
    ) -> None:
        with shop.looking:
            waiting = connect(port, f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
            assert ask(port, "/metrics")[0].status == 200
            assert ask(port, "/-/healthy")[0].status == 200
            waiting.settimeout(0.2)
            with pytest.raises(TimeoutError):
                waiting.recv(1)
        waiting.settimeout(PATIENCE)
        assert waiting.recv(65536).startswith(b"HTTP/1.1 200 OK")
        waiting.close()

    @pytest.mark.parametrize("path", ["/", "/status.json"])
    def test_a_page_that_fails_says_nothing(
        self, shop: Shop, port: int, path: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        shop.broken = KeyError("hunter2")
        answer, body = ask(port, path)
        assert (answer.status, body) == (500, b"500 Internal Server Error\n")
        (record,) = caplog.records
        assert record.message == f"cannot answer GET {path}"

    def test_forms_lead_to_this_site_only(self, port: int) -> None:
        policy = ask(port, "/")[0].headers["Content-Security-Policy"]
        assert "form-action 'self';" in policy
        assert "script" not in policy

    @pytest.mark.parametrize("path", ["/", "/status.json", "/metrics", "/-/healthy", "/nothing"])
    def test_safe_headers(self, port: int, path: str) -> None:
        headers = ask(port, path)[0].headers
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert headers["Content-Security-Policy"].startswith("default-src 'none';")
        assert "unsafe" not in headers["Content-Security-Policy"]
        assert headers["Referrer-Policy"] == "no-referrer"
        assert headers["Server"] is None

    @pytest.mark.parametrize(
        "path", ["/nothing", "/metrics/", "/-/", "/../etc/passwd", "/%6detrics"]
    )
    def test_unknown_path(self, port: int, path: str) -> None:
        answer, body = ask(port, path)
        assert (answer.status, body) == (404, b"404 Not Found\n")
        assert answer.headers["Content-Type"] == "text/plain; charset=utf-8"

    @pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "PATCH", "BREW"])
    @pytest.mark.parametrize("path", ["/metrics", "/", "/readyz"])
    def test_other_methods(self, port: int, path: str, method: str) -> None:
        answer, body = ask(port, path, method)
        assert (answer.status, body) == (405, b"405 Method Not Allowed\n")
        assert answer.headers["Allow"] == "GET, HEAD"

    def test_a_fault_of_ours_is_logged_not_told(
        self, shop: Shop, port: int, caplog: pytest.LogCaptureFixture
    ) -> None:
        shop.broken = KeyError("hunter2")
        answer, body = ask(port, "/metrics", Accept_Encoding="gzip")
        assert (answer.status, body) == (500, b"500 Internal Server Error\n")
        assert answer.headers["Content-Encoding"] is None
        (record,) = caplog.records
        assert (record.levelname, record.message) == ("ERROR", "cannot answer GET /metrics")
        assert record.exc_info
        assert record.exc_info[1] is shop.broken
        shop.broken = None
        assert ask(port, "/metrics")[0].status == 200

    def test_scrapes_and_wrong_paths_are_not_logged(
        self, port: int, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level(logging.INFO)
        for path in ("/metrics", "/", "/nothing", "/-/ready"):
            ask(port, path)
        assert caplog.records == []


class TestUnfriendlyClients:
    """No client keeps another from its answer, and none stays for good."""

    @pytest.mark.parametrize(
        "start",
        [
            b"",
            b"GET /metrics HTTP/1.1\r\nHost: x\r\nX-Slow: ",
            b"GET /metrics HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n",
        ],
        ids=["silent", "half a head", "half a body"],
    )
    def test_fifty_clients_that_never_finish(self, shop: Shop, start: bytes) -> None:
        limits = Limits(idle=1, body=1, connections=100)
        with serving(shop, limits) as (_, port), ExitStack() as stack:
            clients = [stack.enter_context(connect(port, start)) for _ in range(50)]
            for _ in range(10):  # to wait for the 50 in turn would take 50 s
                assert ask(port, "/metrics")[1] == b"TEXT\n" + METRICS
            assert all(closed(client) for client in clients)

    def test_dripping_does_not_buy_time(self, port: int) -> None:
        """The deadline is for the whole head, not for the next byte."""
        with connect(port, b"GET /metrics HTTP/1.1\r\nX-Drip: ") as client:
            began = time.monotonic()
            with pytest.raises(ConnectionError):  # noqa: PT012
                while time.monotonic() < began + PATIENCE:
                    client.sendall(b"x")
                    time.sleep(0.05)

    def test_an_answer_that_is_not_taken(self, shop: Shop) -> None:
        """Who does not read is hung up on, and others are answered meanwhile."""
        shop.metrics = b"x" * 30_000_000
        with serving(shop) as (_, port), ExitStack() as stack:
            clients = [stack.enter_context(connect(port, REQUEST)) for _ in range(3)]
            eventually(lambda: shop.scrapes == len(clients))
            assert ask(port, "/-/healthy")[0].status == 200
            eventually(lambda: served(port) == 0)
            assert all(received(client) < len(shop.metrics) for client in clients)

    def test_a_client_that_leaves_midway(
        self, shop: Shop, caplog: pytest.LogCaptureFixture
    ) -> None:
        shop.metrics = b"x" * 30_000_000
        with serving(shop, Limits()) as (server, port):
            with connect(port, REQUEST) as client:
                client.recv(1000)
            assert ask(port, "/-/healthy")[0].status == 200
            began = time.monotonic()
            server.stop(timeout=PATIENCE)
            assert time.monotonic() - began < PATIENCE / 2  # nothing is waited for
        assert caplog.records == []

    def test_silent_connections_make_room(self, shop: Shop) -> None:
        """However many say nothing, each scrape is answered; who scrapes again keeps his place."""
        with serving(shop, PATIENT) as (_, port), ExitStack() as stack:

            def silent(starts: int) -> list[socket.socket]:
                parts = (REQUEST[: n % 9] for n in range(starts))
                return [stack.enter_context(connect(port, part)) for part in parts]

            scraper = stack.enter_context(connect(port))
            first, *others = silent(QUICK.connections - 1)
            for _ in range(3):
                scraper.sendall(REQUEST)
                assert scraper.recv(1000).startswith(b"HTTP/1.1 200")
                assert ask(port, "/-/healthy")[0].status == 200
                others += silent(QUICK.connections // 2)
            assert closed(first)
            assert not closed(others[-1], within=0.1)

    def test_too_many_requests_at_once(self, shop: Shop) -> None:
        """One more is told to come back; probes are answered; when others leave there is room."""
        limits = replace(PATIENT, requests=5)
        with serving(shop, limits) as (_, port), ExitStack() as stack:
            with shop.rendering:
                clients = [stack.enter_context(connect(port, REQUEST)) for _ in range(5)]
                eventually(lambda: shop.scrapes == 5)
                for path in ("/metrics", "/", "/nothing"):
                    answer, body = ask(port, path)
                    assert (answer.status, body) == (503, b"503 Service Unavailable\n")
                    assert answer.headers["Retry-After"] == "1"
                assert ask(port, "/-/healthy")[0].status == 200
                assert ask(port, "/readyz")[0].status == 200
            assert all(client.recv(1000).startswith(b"HTTP/1.1 200") for client in clients)
            assert ask(port, "/metrics")[0].status == 200

    def test_pages_leave_room_for_scrapes(self, shop: Shop) -> None:
        """However long it takes to make one, and whoever asks for them all the time."""
        limits = replace(PATIENT, requests=5, pages=2)
        with serving(shop, limits) as (server, port), ExitStack() as stack:
            with shop.looking:
                page = REQUEST.replace(b"/metrics", b"/status.json")
                clients = [stack.enter_context(connect(port, page)) for _ in range(2)]
                eventually(lambda: len(server._pages.answering) == 2)
                assert ask(port, "/")[0].status == 503
                assert ask(port, "/metrics")[0].status == 200
            assert all(client.recv(1000).startswith(b"HTTP/1.1 200") for client in clients)
            assert ask(port, "/")[0].status == 200

    def test_who_is_gone_keeps_his_place_until_the_work_is_done(self, shop: Shop) -> None:
        """Or whoever asks and hangs up, over and over, would make a queue without end."""
        limits = replace(PATIENT, requests=1)
        with serving(shop, limits) as (_, port):
            with shop.rendering:
                with connect(port, REQUEST):
                    eventually(lambda: shop.scrapes == 1)
                eventually(lambda: served(port) == 0)
                assert ask(port, "/metrics")[0].status == 503
            eventually(lambda: ask(port, "/metrics")[0].status == 200)

    def test_no_more_connections_than_requests(self, shop: Shop) -> None:
        """Where all are being answered one more is hung up on; when others leave there is room."""
        limits = replace(PATIENT, connections=5, requests=5)
        with serving(shop, limits) as (_, port), ExitStack() as stack:
            with shop.rendering:
                clients = [stack.enter_context(connect(port, REQUEST)) for _ in range(5)]
                eventually(lambda: shop.scrapes == 5)
                assert closed(stack.enter_context(connect(port)))
            assert clients[0].recv(1000).startswith(b"HTTP/1.1 200")
            eventually(lambda: ask(port, "/metrics")[0].status == 200)

    def test_who_takes_an_answer_slowly_makes_room(self, shop: Shop) -> None:
        """The slowest of them, and only where there is no other place."""
        shop.metrics = b"x" * 30_000_000
        limits = replace(PATIENT, requests=3, slow=2.0)
        with serving(shop, limits) as (_, port), ExitStack() as stack:
            clients = []
            for number in range(3):
                clients.append(stack.enter_context(connect(port, REQUEST)))
                eventually(lambda number=number: shop.scrapes == number + 1)
            assert ask(port, "/")[0].status == 503
            eventually(lambda: ask(port, "/")[0].status == 200)
            assert received(clients[0]) < len(shop.metrics)
            assert received(clients[1], until=len(shop.metrics)) >= len(shop.metrics)

    def test_small_answers_that_are_not_taken_make_room(self, shop: Shop) -> None:
        """Those of probes, and those that say no, have no place of their own."""
        shop.ill = "x" * 1_000_000
        limits = replace(PATIENT, connections=4)
        with serving(shop, limits) as (_, port), ExitStack() as stack:
            clients = [stack.enter_context(connect(port, PROBE * 20)) for _ in range(4)]
            time.sleep(0.5)  # their answers fill what the kernel has room for
            for _ in range(3):
                assert ask(port, "/readyz")[0].status == 200
            all_of_it = 20 * len(shop.ill)
            # Whose answer came to wait first, which need not be the first who asked.
            assert min(received(client, until=all_of_it) for client in clients) < all_of_it

    @pytest.mark.parametrize(
        ("start", "more"),
        [
            (b"GET /metrics HTTP/1.1\r\nHost: x\r\nX-Endless: ", b"x"),
            (
                b"POST /metrics HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n",
                b"1\r\nx\r\n",
            ),
            (b"POST /metrics HTTP/1.1\r\nHost: x\r\nContent-Length: 1024\r\n\r\n", b"x"),
            (REQUEST, REQUEST),
        ],
        ids=["head", "chunks", "body", "requests"],
    )
    def test_pouring(self, shop: Shop, start: bytes, more: bytes) -> None:
        """Nobody fills our memory; what comes while an answer is made waits in the kernel."""
        with serving(shop, PATIENT) as (_, port), shop.rendering, connect(port, start) as client:
            client.settimeout(0.5)
            block, taken = more * (65536 // len(more)), 0
            try:
                while taken <= MOST_TAKEN:
                    taken += client.send(block)
            except (ConnectionError, TimeoutError):
                pass
            assert taken <= MOST_TAKEN
            assert ask(port, "/-/healthy")[0].status == 200

    @pytest.mark.parametrize(
        "data",
        [
            b"GET /metrics HTTP/1.1\r\nHost: x\r\nX-Large: " + b"x" * 5000 + b"\r\n\r\n",
            b"POST /metrics HTTP/1.1\r\nHost: x\r\nContent-Length: 999999\r\n\r\n",
            b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
            b"GET /metrics\r\n\r\n",
        ],
        ids=["large head", "large body", "TLS", "HTTP 0.9"],
    )
    def test_nonsense(self, shop: Shop, data: bytes) -> None:
        with serving(shop, PATIENT) as (_, port):
            with connect(port, data) as client:
                assert closed(client)
            assert ask(port, "/metrics")[0].status == 200


def eventually(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        try:
            if true():
                return
        except (ConnectionError, http.client.RemoteDisconnected):
            pass
        time.sleep(0.02)
    pytest.fail(f"not in {PATIENCE:g} s")


def served(port: int) -> int:
    """Count the connections that the server has not hung up on, as the kernel has them."""
    here = f":{port:04X}"
    lines = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return sum(local.endswith(here) and state == "01" for _, local, _, state, *_ in lines)


class TestLife:
    """Starting and stopping."""

    def test_several_addresses(self, shop: Shop) -> None:
        server = WebServer(shop, [LOOPBACK, LOOPBACK])
        server.start()
        first, second = server.addresses
        assert first.port != second.port
        assert ask(first.port, "/metrics")[0].status == 200
        assert ask(second.port, "/metrics")[0].status == 200
        server.stop()
        for address in (first, second):
            with pytest.raises(ConnectionRefusedError):
                connect(address.port)

    def test_unix_socket(self, shop: Shop, tmp_path: Path) -> None:
        path = tmp_path / "exporter.sock"
        server = WebServer(shop, [LOOPBACK, UnixAddress(str(path))])
        server.start()
        assert str(server.addresses[1]) == f"unix:{path}"
        assert ask(server.addresses[0].port, "/metrics")[0].status == 200
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(path))
            client.sendall(REQUEST)
            assert client.recv(65536).startswith(b"HTTP/1.1 200 OK")
            server.stop()
            assert closed(client)
        assert not path.exists()

    def test_port_in_use(self, shop: Shop) -> None:
        with serving(shop) as (_, port):
            second = WebServer(shop, [Address("127.0.0.1", port)])
            with pytest.raises(ConfigError) as caught:
                second.start()
            assert str(caught.value).startswith(
                f"--web.listen-address: cannot listen on 127.0.0.1:{port}: address already in use;"
            )
            second.stop()
            assert ask(port, "/metrics")[0].status == 200

    def test_the_port_is_free_again_at_once(self, shop: Shop) -> None:
        with serving(shop) as (_, port):
            ask(port, "/metrics")
        again = WebServer(shop, [Address("127.0.0.1", port)])
        again.start()
        assert ask(port, "/metrics")[0].status == 200
        again.stop()
        again.stop()

    def test_stop_hangs_up_on_idle_clients(self, shop: Shop) -> None:
        with serving(shop, Limits()) as (server, port), connect(port) as client:
            ask(port, "/metrics")
            began = time.monotonic()
            server.stop(timeout=PATIENCE)
            assert time.monotonic() - began < PATIENCE / 2
            assert closed(client)

    def test_stop_lets_a_running_answer_end(self, shop: Shop) -> None:
        shop.metrics = b"x" * 30_000_000
        with serving(shop, Limits()) as (server, port):
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE)
            connection.request("GET", "/metrics")
            answer = connection.getresponse()
            assert len(answer.read(1000)) == 1000
            stopping = threading.Thread(target=server.stop)
            stopping.start()
            eventually(lambda: refused(port))
            assert 1000 + len(answer.read()) == int(answer.headers["Content-Length"])
            stopping.join()
            connection.close()

    def test_stop_lets_an_answer_be_made(self, shop: Shop) -> None:
        with serving(shop, Limits()) as (server, port), connect(port) as client:
            with shop.rendering:
                client.sendall(REQUEST)
                eventually(lambda: shop.scrapes == 1)
                stopping = threading.Thread(target=server.stop, args=(PATIENCE,))
                stopping.start()
                eventually(lambda: refused(port))
            assert received(client) > len(METRICS)
            stopping.join()

    def test_stop_does_not_wait_for_ever(self, shop: Shop) -> None:
        shop.metrics = b"x" * 30_000_000
        with (
            serving(shop, Limits()) as (server, port),
            connect(port, REQUEST) as client,
        ):
            client.recv(1000)
            began = time.monotonic()
            server.stop(timeout=0.3)
            assert 0.2 < time.monotonic() - began < PATIENCE / 2


def refused(port: int) -> bool:
    try:
        connect(port).close()
    except ConnectionRefusedError:
        return True
    return False
