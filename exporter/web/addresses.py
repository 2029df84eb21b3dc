"""Where to listen: ``HOST:PORT`` -> listening sockets."""

from __future__ import annotations

import errno
import os
import socket
from typing import TYPE_CHECKING, NamedTuple

from exporter.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterable

_HINTS = {
    errno.EADDRINUSE: "; is another exporter running? Stop it or choose another port",
    errno.EACCES: "; ports below 1024 need a privilege: choose a higher one",
    errno.EADDRNOTAVAIL: "; this machine does not have that address",
}
# How a machine without IPv6 refuses it: no such family, or no such address.
_NO_IPV6 = (errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL)


class Address(NamedTuple):
    """A host and a port to listen on; the empty host means every interface."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def parse_address(text: str) -> Address:
    """Read ``:10224``, ``127.0.0.1:10224``, ``localhost:0`` or ``[::1]:10224``."""
    host, colon, port = text.strip().rpartition(":")
    bracketed = host.startswith("[") and host.endswith("]")
    if not colon or (":" in host and not bracketed):
        raise ValueError(f"{text!r} is not HOST:PORT, such as ':10224' or '[::1]:10224'")
    if not (port.isascii() and port.isdigit() and int(port) <= 65535):  # noqa: PLR2004 (TCP's)
        raise ValueError(f"{text!r}: the port must be a number from 0 to 65535")
    return Address(host[1:-1] if bracketed else host, int(port))


def listen(addresses: Iterable[Address]) -> list[socket.socket]:
    """Listen on every address, or on none: all that cannot be had are in the one error."""
    sockets: list[socket.socket] = []
    faults = []
    for address in addresses:
        try:
            sockets += _listen(address)
        except OSError as error:
            faults.append(f"--web.listen-address: cannot listen on {address}: {_reason(error)}")
    if faults:
        for sock in sockets:
            sock.close()
        raise ConfigError(faults)
    return sockets


def _listen(address: Address) -> list[socket.socket]:
    """Listen on every IP address that a host has, on the same port.

    Tornado's `bind_sockets` would leave open what it had before one failed.
    """
    found = socket.getaddrinfo(
        address.host or None, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )
    sockets: list[socket.socket] = []
    port = address.port
    try:
        for family, host in sorted({(info[0], str(info[4][0])) for info in found}):
            try:
                sock = socket.create_server((host, port), family=family, backlog=128)
            except OSError as error:
                if sockets and family is socket.AF_INET6 and error.errno in _NO_IPV6:
                    continue
                raise
            sock.settimeout(0)
            sockets.append(sock)
            port = sock.getsockname()[1]
    except OSError:
        for sock in sockets:
            sock.close()
        raise
    return sockets


def _reason(error: OSError) -> str:
    if isinstance(error, socket.gaierror):
        return f"{error.strerror}".lower()
    assert error.errno is not None  # noqa: S101 (what the operating system refuses has a number)
    return os.strerror(error.errno).lower() + _HINTS.get(error.errno, "")
