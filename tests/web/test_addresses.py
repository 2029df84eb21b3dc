"""Where to listen: every spelling of an address, and every way in which it cannot be had."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from exporter.errors import ConfigError
from exporter.web import addresses
from exporter.web.addresses import Address, UnixAddress, inherited, listen, parse_address
from tests.servers.process import require

if TYPE_CHECKING:
    from pathlib import Path

IPV6 = socket.has_ipv6
try:
    socket.create_server(("::1", 0), family=socket.AF_INET6).close()
except OSError:
    IPV6 = False


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [
        (":10224", "", 10224),
        ("127.0.0.1:0", "127.0.0.1", 0),
        ("localhost:65535", "localhost", 65535),
        ("[::1]:10224", "::1", 10224),
        ("[::]:80", "::", 80),
        ("[fe80::1%eth0]:80", "fe80::1%eth0", 80),
        (" 0.0.0.0:9000 ", "0.0.0.0", 9000),  # noqa: S104
    ],
)
def test_address(text: str, host: str, port: int) -> None:
    address = parse_address(text)
    assert address == (host, port)
    assert str(address) == text.strip()


@pytest.mark.parametrize("text", ["unix:/run/exporter.sock", " unix:/tmp/a:1 "])
def test_unix_address(text: str) -> None:
    address = parse_address(text)
    assert isinstance(address, UnixAddress)
    assert str(address) == text.strip()


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        *(
            (text, f"{text!r}: the path must be absolute, such as unix:/run/exporter.sock")
            for text in ("unix:", "unix:exporter.sock", "unix:80", "unix:@abstract")
        ),
        ("10224", "'10224' is not HOST:PORT, such as ':10224' or '[::1]:10224'"),
        ("", "'' is not HOST:PORT, such as ':10224' or '[::1]:10224'"),
        ("::1:10224", "'::1:10224' is not HOST:PORT, such as ':10224' or '[::1]:10224'"),
        ("http://a:80", "'http://a:80' is not HOST:PORT, such as ':10224' or '[::1]:10224'"),
        ("localhost:", "'localhost:': the port must be a number from 0 to 65535"),
        ("localhost:http", "'localhost:http': the port must be a number from 0 to 65535"),
        (":65536", "':65536': the port must be a number from 0 to 65535"),
        (":-1", "':-1': the port must be a number from 0 to 65535"),
        (":\u0661", "':\u0661': the port must be a number from 0 to 65535"),
        ("[::1]", "'[::1]' is not HOST:PORT, such as ':10224' or '[::1]:10224'"),
    ],
)
def test_not_an_address(text: str, fault: str) -> None:
    with pytest.raises(ValueError) as caught:  # noqa: PT011 (the whole text is compared)
        parse_address(text)
    assert str(caught.value) == fault


def bound(sockets: list[socket.socket]) -> set[tuple[str, int]]:
    found = {sock.getsockname()[:2] for sock in sockets}
    for sock in sockets:
        sock.close()
    return found


def test_no_host_means_every_interface() -> None:
    """IPv4 and, where the machine has it, IPv6: on the same port."""
    found = bound(listen([Address("", 0)]))
    assert {host for host, _ in found} == {"0.0.0.0", "::"} if IPV6 else {"0.0.0.0"}  # noqa: S104
    assert len({port for _, port in found}) == 1


@pytest.mark.skipif(not IPV6, reason="this machine has no IPv6")
def test_ipv6_only() -> None:
    assert {host for host, _ in bound(listen([Address("::1", 0)]))} == {"::1"}


LINK_LOCAL = """
import socket
from exporter.errors import ConfigError
from exporter.web.addresses import address_of, listen, parse_address

(sock,) = listen([parse_address("[fe80::1%lo]:0")])
with socket.socket(socket.AF_INET6) as client:
    client.connect(sock.getsockname())
    print(address_of(sock))
for address in ("[fe80::1]:1", "[fe80::1%eth7]:1"):
    try:
        listen([parse_address(address)])
    except ConfigError as error:
        print(error)
"""


@pytest.mark.skipif(not IPV6, reason="this machine has no IPv6")
def test_link_local() -> None:
    """In a network of its own, whose loopback has such an address."""
    network = (require("unshare", "util-linux"), "--user", "--map-root-user", "--net", "sh", "-c")
    links = "ip link set lo up && ip address add fe80::1/64 dev lo nodad"
    python = (sys.executable, "-c", LINK_LOCAL)
    require("ip", "iproute2")
    said = subprocess.run(
        [*network, f'{links} && exec "$@"', "sh", *python],
        check=True,
        capture_output=True,
        text=True,
        timeout=60,
    ).stdout
    address, *faults = said.splitlines()
    assert re.fullmatch(r"\[fe80::1%lo\]:\d+", address)
    assert faults == [
        (
            "--web.listen-address: cannot listen on [fe80::1]:1: invalid argument; "
            "a link-local address needs its interface, such as [fe80::1%eth0]:10224"
        ),
        "--web.listen-address: cannot listen on [fe80::1%eth7]:1: name or service not known",
    ]


def test_all_that_cannot_be_had_is_said_at_once() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError) as caught:
            listen([Address("127.0.0.1", 0), Address("127.0.0.1", port), Address("192.0.2.1", 0)])
    assert caught.value.faults == [
        (
            f"--web.listen-address: cannot listen on 127.0.0.1:{port}: address already in use; "
            "is another exporter running? Stop it or choose another port"
        ),
        (
            "--web.listen-address: cannot listen on 192.0.2.1:0: cannot assign requested address; "
            "this machine does not have that address"
        ),
    ]


def test_the_same_address_twice() -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with pytest.raises(ConfigError, match="address already in use"):
        listen([Address("127.0.0.1", port)] * 2)
    with socket.create_server(("127.0.0.1", port)):  # the first of the two was let go
        pass


def test_unknown_host() -> None:
    with pytest.raises(ConfigError) as caught:
        listen([Address("no such host", 0)])
    (fault,) = caught.value.faults
    assert fault.startswith("--web.listen-address: cannot listen on no such host:0: ")
    assert "name or service not known" in fault


def test_unix_socket_beside_a_port(tmp_path: Path) -> None:
    """Where one cannot be had, nothing is left of the other."""
    path = tmp_path / "exporter.sock"
    for sock in listen([Address("127.0.0.1", 0), UnixAddress(str(path))]):
        assert isinstance(addresses.address_of(sock), Address | UnixAddress)
        sock.close()
    with pytest.raises(ConfigError):
        listen([UnixAddress(str(path)), Address("192.0.2.1", 0)])
    assert not path.exists()


def test_unix_sockets_that_cannot_be_had(tmp_path: Path) -> None:
    used, file, folder = tmp_path / "used", tmp_path / "file", tmp_path / "folder"
    file.write_text("precious")
    folder.mkdir()
    (tmp_path / "link").symlink_to(used)
    names = ["used", "file", "folder", "link", "none/a", "file/a", "x" * 108, "x" * 300]
    with listen([UnixAddress(str(used))])[0], pytest.raises(ConfigError) as caught:
        listen(UnixAddress(str(tmp_path / name)) for name in names)
    in_use = "address already in use; is another exporter running? Stop it or choose another path"
    no_socket = "file exists, and is no socket; choose another path"
    assert caught.value.faults == [
        f"--web.listen-address: cannot listen on unix:{tmp_path / name}: {reason}"
        for name, reason in zip(
            names,
            (
                in_use,
                *[no_socket] * 3,
                "no such file or directory; create its folder",
                "not a directory",
                "the path is too long for a socket",
                "file name too long",
            ),
            strict=True,
        )
    ]
    assert file.read_text() == "precious"


@pytest.mark.parametrize(
    ("pid", "count"), [("", ""), ("1", "1"), ("ours", "0"), ("ours", "x"), ("ours", "")]
)
def test_systemd_hands_nothing_over(monkeypatch: pytest.MonkeyPatch, pid: str, count: str) -> None:
    """As when it is started by hand, or the variables are another process's."""
    monkeypatch.setenv("LISTEN_PID", str(os.getpid()) if pid == "ours" else pid)
    monkeypatch.setenv("LISTEN_FDS", count)
    with pytest.raises(ConfigError) as caught:
        inherited()
    assert caught.value.faults == [
        "--web.systemd-socket: systemd handed over no socket; start its .socket unit"
    ]


def test_systemd_hands_over(monkeypatch: pytest.MonkeyPatch) -> None:
    """What listens; not a connection, as Accept=yes has it, nor a pipe."""
    monkeypatch.setenv("LISTEN_PID", str(os.getpid()))
    monkeypatch.setenv("LISTEN_FDS", "1")
    server = socket.create_server(("127.0.0.1", 0))
    port = server.getsockname()[1]
    client = socket.create_connection(("127.0.0.1", port))
    monkeypatch.setattr(addresses, "_FIRST_FD", server.detach())
    assert bound(inherited()) == {("127.0.0.1", port)}
    reader, writer = os.pipe()
    for fd in (client.detach(), reader):
        monkeypatch.setattr(addresses, "_FIRST_FD", fd)
        with pytest.raises(ConfigError, match=f"file descriptor {fd} does not listen; use Listen"):
            inherited()
    os.close(reader)
    os.close(writer)
