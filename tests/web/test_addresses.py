"""Where to listen: every spelling of an address, and every way in which it cannot be had."""

from __future__ import annotations

import socket

import pytest

from exporter.errors import ConfigError
from exporter.web.addresses import Address, listen, parse_address

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
        (" 0.0.0.0:9000 ", "0.0.0.0", 9000),  # noqa: S104
    ],
)
def test_address(text: str, host: str, port: int) -> None:
    address = parse_address(text)
    assert address == (host, port)
    assert str(address) == text.strip()


@pytest.mark.parametrize(
    ("text", "fault"),
    [
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
