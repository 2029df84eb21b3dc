"""TLS, client certificates, passwords and the rate limit, asked over real sockets."""

from __future__ import annotations

import base64
import contextlib
import http.client
import logging
import socket
import ssl
import struct
import threading
import time
from contextlib import closing, contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import bcrypt
import pytest
import yaml

from exporter.errors import ConfigError
from exporter.web.guard import Bucket, Guard
from exporter.web.server import WebServer
from exporter.web.webconfig import RateLimit
from tests.servers.process import wait_until
from tests.web.certificates import Authority, Pair
from tests.web.test_server import LOOPBACK, METRICS, PATIENT, Shop, closed, connect

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

ALICE = bcrypt.hashpw(b"p@ss", bcrypt.gensalt(4)).decode()
SLOW = bcrypt.hashpw(b"p@ss", bcrypt.gensalt(10)).decode()


@pytest.fixture(scope="module")
def authority() -> Authority:
    return Authority()


class Secured:
    """A server with a web configuration, and clients of it."""

    def __init__(self, folder: Path, authority: Authority) -> None:
        self.folder = folder
        self.authority = authority
        self.path = folder / "web.yaml"
        self.server_pair = authority.pair("127.0.0.1")
        (folder / "ca.crt").write_text(authority.cert)
        self.server_pair.write(folder, "server")
        self.tls: dict[str, Any] = {"cert_file": "server.crt", "key_file": "server.key"}
        self.port = 0
        self.shop = Shop()
        self.limits = replace(PATIENT, connections=100)

    def write(self, **config: Any) -> None:
        self.path.write_text(yaml.safe_dump(config))

    @contextmanager
    def serving(self, **config: Any) -> Iterator[Guard]:
        self.write(**config)
        guard = Guard(self.path)
        server = WebServer(self.shop, [LOOPBACK], guard=guard, limits=self.limits)
        server.start()
        self.port = server.addresses[0].port
        try:
            yield guard
        finally:
            server.stop(5)

    def context(self, client: Pair | None = None) -> ssl.SSLContext:
        context = ssl.create_default_context(cadata=self.authority.cert)
        if client is not None:
            context.load_cert_chain(*client.write(self.folder, "client"))
        return context

    def connect(self, context: ssl.SSLContext | None) -> http.client.HTTPConnection:
        if context is None:
            return http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        return http.client.HTTPSConnection("127.0.0.1", self.port, timeout=30, context=context)

    def ask(
        self,
        path: str = "/metrics",
        context: ssl.SSLContext | None = None,
        user: str | None = None,
        password: str = "",
    ) -> http.client.HTTPResponse:
        token = base64.b64encode(f"{user}:{password}".encode()).decode()
        headers = {} if user is None else {"Authorization": f"Basic {token}"}
        with closing(self.connect(context)) as connection:
            connection.request("GET", path, headers=headers)
            answer = connection.getresponse()
            answer.body = answer.read()  # type: ignore[attr-defined]
        return answer


@pytest.fixture
def secured(tmp_path: Path, authority: Authority) -> Secured:
    return Secured(tmp_path, authority)


# --- TLS ----------------------------------------------------------------------------------------


def test_https_and_no_plain_http(secured: Secured) -> None:
    with secured.serving(tls_server_config=secured.tls):
        answer = secured.ask(context=secured.context())
        assert answer.status == 200
        assert METRICS in answer.body  # type: ignore[attr-defined]
        with pytest.raises((http.client.HTTPException, OSError)):
            secured.ask()


@pytest.mark.parametrize("start", [b"", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"])
def test_handshakes_that_never_end(secured: Secured, start: bytes) -> None:
    """They keep nobody waiting, and are hung up on."""
    secured.limits = replace(secured.limits, idle=1)
    with secured.serving(tls_server_config=secured.tls), contextlib.ExitStack() as stack:
        clients = [stack.enter_context(connect(secured.port, start)) for _ in range(50)]
        for _ in range(5):
            assert secured.ask(context=secured.context()).status == 200
        assert all(closed(client) for client in clients)


def test_inline_certificate_and_key(secured: Secured) -> None:
    pair = secured.server_pair
    with secured.serving(tls_server_config={"cert": pair.cert, "key": pair.key}):
        assert secured.ask(context=secured.context()).status == 200


@pytest.mark.parametrize(
    ("least", "most", "offered", "taken"),
    [
        ("TLS12", "TLS12", ssl.TLSVersion.TLSv1_2, "TLSv1.2"),
        ("TLS12", "TLS12", ssl.TLSVersion.TLSv1_3, None),
        ("TLS13", "TLS13", ssl.TLSVersion.TLSv1_2, None),
        ("TLS13", "TLS13", ssl.TLSVersion.TLSv1_3, "TLSv1.3"),
    ],
)
def test_versions(
    secured: Secured, least: str, most: str, offered: ssl.TLSVersion, taken: str | None
) -> None:
    config = secured.tls | {"min_version": least, "max_version": most}
    context = secured.context()
    context.minimum_version = context.maximum_version = offered
    with secured.serving(tls_server_config=config), closing(secured.connect(context)) as connection:
        if taken is None:
            with pytest.raises(ssl.SSLError):
                connection.connect()
        else:
            connection.connect()
            assert connection.sock.version() == taken


def test_cipher_suites_by_their_go_names(secured: Secured) -> None:
    suites = ["TLS_AES_128_GCM_SHA256", "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256"]
    config = secured.tls | {"cipher_suites": suites, "max_version": "TLS12"}
    with secured.serving(tls_server_config=config):
        connection = secured.connect(secured.context())
        connection.connect()
        assert connection.sock.cipher()[0] == "ECDHE-ECDSA-CHACHA20-POLY1305"
        connection.close()


@pytest.mark.parametrize("auth", ["RequireAndVerifyClientCert", "RequireAnyClientCert"])
def test_client_without_a_certificate_is_refused(secured: Secured, auth: str) -> None:
    config = secured.tls | {"client_ca_file": "ca.crt", "client_auth_type": auth}
    with secured.serving(tls_server_config=config):
        good = secured.context(secured.authority.pair("prometheus"))
        assert secured.ask(context=good).status == 200
        stranger = secured.context(Authority().pair("prometheus"))
        for context in (secured.context(), stranger):
            with pytest.raises((ssl.SSLError, OSError, http.client.HTTPException)):
                secured.ask(context=context)


@pytest.mark.parametrize("auth", ["VerifyClientCertIfGiven", "RequestClientCert", "NoClientCert"])
def test_client_may_come_without_a_certificate(secured: Secured, auth: str) -> None:
    config = secured.tls | {"client_auth_type": auth}
    if auth == "VerifyClientCertIfGiven":
        config["client_ca_file"] = "ca.crt"
    with secured.serving(tls_server_config=config):
        assert secured.ask(context=secured.context()).status == 200
        stranger = secured.context(Authority().pair("prometheus"))
        if auth == "VerifyClientCertIfGiven":
            with pytest.raises((ssl.SSLError, OSError, http.client.HTTPException)):
                secured.ask(context=stranger)
        else:
            assert secured.ask(context=stranger).status == 200


@pytest.mark.parametrize("name", ["prometheus.svc", "10.1.2.3", "ops@example.com", "spiffe://a/b"])
def test_names_of_client_certificates(secured: Secured, name: str) -> None:
    config = secured.tls | {
        "client_ca_file": "ca.crt",
        "client_auth_type": "RequireAndVerifyClientCert",
        "client_allowed_sans": ["other", name],
    }
    with secured.serving(tls_server_config=config):
        assert secured.ask(context=secured.context(secured.authority.pair(name))).status == 200
        for path in ("/metrics", "/-/healthy", "/nowhere"):
            wrong = secured.context(secured.authority.pair("prometheus.example"))
            with pytest.raises((OSError, http.client.HTTPException)):
                secured.ask(path, context=wrong)


# --- passwords ----------------------------------------------------------------------------------


def test_passwords(secured: Secured) -> None:
    with secured.serving(basic_auth_users={"alice": ALICE, "메일": ALICE}):
        assert secured.ask(user="alice", password="p@ss").status == 200  # noqa: S106
        assert secured.ask(user="메일", password="p@ss").status == 200  # noqa: S106
        for user, password in (("alice", "wrong"), ("bob", "p@ss"), ("", ""), (None, "")):
            for path in ("/metrics", "/", "/nowhere"):
                answer = secured.ask(path, user=user, password=password)
                assert answer.status == 401
                assert answer.headers["WWW-Authenticate"] == "Basic"
        for path in ("/-/healthy", "/-/ready", "/healthz", "/readyz"):
            assert secured.ask(path).status == 200


@pytest.mark.parametrize(
    "header", ["Basic", "Basic !", "Basic YWxpY2U=", "Basic /zo=", "Bearer YWxpY2U6cEBzcw==", "x"]
)
def test_credentials_that_are_none(secured: Secured, header: str) -> None:
    with secured.serving(basic_auth_users={"alice": ALICE}):
        connection = secured.connect(None)
        connection.request("GET", "/metrics", headers={"Authorization": header})
        assert connection.getresponse().status == 401
        connection.close()


def test_wrong_passwords_take_as_long_for_everybody(secured: Secured) -> None:
    """Whatever the hashes cost, and whether or not there is such a user; in time of the CPU."""
    cheap, dear = (bcrypt.hashpw(b"p@ss", bcrypt.gensalt(cost)).decode() for cost in (4, 9))
    took: dict[str, list[float]] = {"cheap": [], "dear": [], "nobody": []}
    with secured.serving(basic_auth_users={"cheap": cheap, "dear": dear}):
        for number in range(5):
            for user, times in took.items():
                begun = time.process_time()
                assert secured.ask(user=user, password=f"wrong {number}").status == 401
                times.append(time.process_time() - begun)
        assert secured.ask(user="cheap", password="p@ss").status == 200  # noqa: S106
    least = {user: min(times) for user, times in took.items()}
    assert max(least.values()) < 2 * min(least.values()), least


def test_too_many_requests_are_told_to_come_back(secured: Secured) -> None:
    """After the password: whoever has none gets no place, and learns nothing."""
    secured.limits = replace(secured.limits, requests=1)
    alice = {"user": "alice", "password": "p@ss"}
    with secured.serving(basic_auth_users={"alice": ALICE}):
        with secured.shop.rendering:
            first = threading.Thread(target=secured.ask, kwargs=alice)
            first.start()
            wait_until(lambda: secured.shop.scrapes, "the first request")
            assert secured.ask(user="alice", password="wrong").status == 401  # noqa: S106
            assert secured.ask(**alice).status == 503
            assert secured.ask("/-/healthy").status == 200
        first.join()
        assert secured.ask(**alice).status == 200


def test_password_longer_than_bcrypt_looks_at(secured: Secured) -> None:
    stored = bcrypt.hashpw(b"x" * 72, bcrypt.gensalt(4)).decode()
    with secured.serving(basic_auth_users={"alice": stored}):
        assert secured.ask(user="alice", password="x" * 100).status == 200
        assert secured.ask(user="alice", password="x" * 71).status == 401


def test_who_is_known_does_not_wait_for_who_guesses(secured: Secured) -> None:
    """Comparisons have a thread of their own, and a queue with an end."""
    with secured.serving(basic_auth_users={"alice": SLOW}):
        assert secured.ask(user="alice", password="p@ss").status == 200  # noqa: S106
        answers: list[int] = []

        def guess(number: int) -> None:
            answers.append(secured.ask(user="alice", password=f"wrong {number}").status)

        guessing = [threading.Thread(target=guess, args=(number,)) for number in range(40)]
        for thread in guessing:
            thread.start()
        while any(thread.is_alive() for thread in guessing):
            assert secured.ask(user="alice", password="p@ss").status == 200  # noqa: S106
            assert secured.ask("/-/healthy").status == 200
        assert set(answers) == {401, 503}
        assert secured.ask(user="alice", password="wrong 0").status == 401  # noqa: S106


# --- rate limit and headers ---------------------------------------------------------------------


def test_rate_limit(secured: Secured) -> None:
    with secured.serving(rate_limit={"interval": "1h", "burst": 3}):
        assert [secured.ask().status for _ in range(5)] == [200, 200, 200, 429, 429]
        assert secured.ask("/-/healthy").status == 200


def test_bucket_fills() -> None:
    now = 0.0
    bucket = Bucket(RateLimit(interval=2.0, burst=2), lambda: now)
    assert [bucket.take() for _ in range(3)] == [True, True, False]
    now = 3.9
    assert [bucket.take() for _ in range(2)] == [True, False]
    now = 1000.0
    assert [bucket.take() for _ in range(3)] == [True, True, False]


def test_headers(secured: Secured) -> None:
    headers = {
        "X-Frame-Options": "deny",
        "Strict-Transport-Security": "max-age=31536000",
        "X-XSS-Protection": "",
    }
    with secured.serving(http_server_config={"headers": headers}):
        for path in ("/metrics", "/", "/nowhere"):
            answer = secured.ask(path)
            assert answer.headers["X-Frame-Options"] == "deny"
            assert answer.headers["Strict-Transport-Security"] == "max-age=31536000"
            assert "X-XSS-Protection" not in answer.headers


# --- files that change --------------------------------------------------------------------------


def test_certificate_is_followed(secured: Secured) -> None:
    """As Kubernetes swaps it: a link to a folder."""
    for name in ("old", "new"):
        (secured.folder / name).mkdir()
        secured.authority.pair("127.0.0.1").write(secured.folder / name, "server")
    (secured.folder / "..data").symlink_to("old")
    config = {"cert_file": "..data/server.crt", "key_file": "..data/server.key"}

    def shown() -> str:
        connection = secured.connect(secured.context())
        connection.connect()
        found = ssl.DER_cert_to_PEM_cert(connection.sock.getpeercert(binary_form=True))
        connection.close()
        return found

    with secured.serving(tls_server_config=config):
        old, new = ((secured.folder / n / "server.crt").read_text() for n in ("old", "new"))
        assert shown() == old
        (secured.folder / "..new").symlink_to("new")
        (secured.folder / "..new").replace(secured.folder / "..data")
        wait_until(lambda: shown() == new, "the new certificate")


def test_key_that_comes_after_its_certificate(secured: Secured) -> None:
    """In between the old pair serves on, and the metric says so."""

    def answered() -> bool:
        return secured.ask(context=secured.context()).status == 200

    with secured.serving(tls_server_config=secured.tls) as guard:
        pair = secured.authority.pair("127.0.0.1")
        (secured.folder / "server.crt").write_text(pair.cert)
        wait_until(lambda: answered() and guard.faults, "the fault")
        assert "key_file: does not belong to the certificate" in guard.faults[0]
        (secured.folder / "server.key").write_text(pair.key)
        wait_until(lambda: answered() and not guard.faults, "the new pair")


def test_bad_file_keeps_the_old(secured: Secured) -> None:
    with secured.serving(basic_auth_users={"alice": ALICE}) as guard:
        secured.write(basic_auth_users={"bob": ALICE}, basic_auth_user={})
        wait_until(lambda: secured.ask().status == 401 and guard.faults, "the fault")
        assert secured.ask(user="alice", password="p@ss").status == 200  # noqa: S106
        (fault,) = guard.faults
        assert fault.endswith("basic_auth_user: is no known key; did you mean basic_auth_users?")
        secured.write(basic_auth_users={"bob": ALICE})
        bob = {"user": "bob", "password": "p@ss"}
        wait_until(lambda: secured.ask(**bob).status == 200, "the new file")
        assert not guard.faults
        assert secured.ask(user="alice", password="p@ss").status == 401  # noqa: S106


@pytest.mark.parametrize("text", ["", "tls_server_config: {client_allowed_sans: x}", "\0"])
def test_file_that_is_emptied_or_nonsense_opens_nothing(secured: Secured, text: str) -> None:
    """A disk may be full, or an editor half done."""
    users = {"alice": ALICE}
    with secured.serving(tls_server_config=secured.tls, basic_auth_users=users) as guard:
        secured.path.write_text(text)
        wait_until(lambda: secured.ask(context=secured.context()) and guard.faults, "the fault")
        assert secured.ask(context=secured.context()).status == 401
        with pytest.raises((http.client.HTTPException, OSError)):
            secured.ask()


def test_connection_that_is_older_than_tls_is_closed(secured: Secured) -> None:
    with secured.serving(), closing(secured.connect(None)) as connection:
        connection.request("GET", "/metrics")
        assert connection.getresponse().read()
        secured.write(tls_server_config=secured.tls)
        time.sleep(1.1)
        with pytest.raises((http.client.HTTPException, OSError)):
            ask_again(connection)


def ask_again(connection: http.client.HTTPConnection) -> None:
    connection.request("GET", "/metrics")
    connection.getresponse()


@pytest.mark.filterwarnings("ignore:Exception ignored in. <ssl.SSLSocket")  # Python's own
def test_hang_ups_and_strangers_leave_no_trace(
    secured: Secured, caplog: pytest.LogCaptureFixture
) -> None:
    """Whoever reaches the port could fill the disk with what is logged."""
    config = secured.tls | {
        "client_ca_file": "ca.crt",
        "client_auth_type": "RequireAndVerifyClientCert",
        "client_allowed_sans": ["prometheus"],
    }
    caplog.set_level(logging.ERROR, "tornado.general")  # as `logs.configure` has it
    with secured.serving(tls_server_config=config):
        for data in (b"", b"GET / HTTP/1.1"):
            for _ in range(50):
                with socket.create_connection(("127.0.0.1", secured.port)) as raw:
                    raw.sendall(data)
                    raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        wrong = secured.context(secured.authority.pair("somebody"))
        for _ in range(10):
            with (
                socket.create_connection(("127.0.0.1", secured.port)) as raw,
                contextlib.suppress(OSError),
                wrong.wrap_socket(raw, server_hostname="127.0.0.1") as stranger,
            ):
                stranger.sendall(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n" * 5)
                stranger.recv(1)
        good = secured.context(secured.authority.pair("prometheus"))
        assert secured.ask(context=good).status == 200
    assert [record.message for record in caplog.records if record.levelno >= logging.WARNING] == []


def test_methods_are_told_to_nobody_without_a_password(secured: Secured) -> None:
    with secured.serving(basic_auth_users={"alice": ALICE}):
        for method in ("POST", "DELETE", "PUT"):
            for path in ("/metrics", "/-/reload", "/nowhere"):
                with closing(secured.connect(None)) as connection:
                    connection.request(method, path)
                    assert connection.getresponse().status == 401


def test_tls_that_is_switched_on(secured: Secured) -> None:
    with secured.serving():
        assert secured.ask().status == 200
        secured.write(tls_server_config=secured.tls)
        time.sleep(1.1)
        assert secured.ask(context=secured.context()).status == 200


def test_missing_file_is_a_fault_at_start(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read: No such file"):
        Guard(tmp_path / "none.yaml")
