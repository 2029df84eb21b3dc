"""Where to listen: ``HOST:PORT``, ``unix:/PATH``, or what systemd hands over -> sockets."""

from __future__ import annotations

import errno
import os
import socket
from contextlib import suppress
from typing import TYPE_CHECKING, NamedTuple

from exporter.errors import ConfigError
from exporter.web.unixsocket import listen_at

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

_HINTS = {
    errno.EADDRINUSE: "; is another exporter running? Stop it or choose another port",
    errno.EACCES: "; ports below 1024 need a privilege: choose a higher one",
    errno.EADDRNOTAVAIL: "; this machine does not have that address",
    errno.EINVAL: "; a link-local address needs its interface, such as [fe80::1%eth0]:10224",
}
_UNIX_HINTS = {
    errno.EADDRINUSE: "; is another exporter running? Stop it or choose another path",
    errno.EEXIST: ", and is no socket; choose another path",
    errno.ENOENT: "; create its folder",
}
_SYSTEMD = "--web.systemd-socket"
_FIRST_FD = 3  # of those that systemd hands over: sd_listen_fds(3)
# How a machine without IPv6 refuses it: no such family, or no such address.
_NO_IPV6 = (errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL)


class Address(NamedTuple):
    """A host and a port to listen on; the empty host means every interface."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


class UnixAddress(NamedTuple):
    """The path of a unix socket."""

    path: str

    def __str__(self) -> str:
        return f"unix:{self.path}"


def parse_address(text: str) -> Address | UnixAddress:
    """Read ``:10224``, ``127.0.0.1:10224``, ``[::1]:0``, ``[fe80::1%eth0]:0`` or ``unix:/PATH``."""
    scheme, _, path = text.strip().partition(":")
    if scheme == "unix":
        if not path.startswith("/"):
            raise ValueError(
                f"{text!r}: the path must be absolute, such as unix:/run/exporter.sock"
            )
        return UnixAddress(path)
    host, colon, port = text.strip().rpartition(":")
    bracketed = host.startswith("[") and host.endswith("]")
    if not colon or (":" in host and not bracketed):
        raise ValueError(f"{text!r} is not HOST:PORT, such as ':10224' or '[::1]:10224'")
    if not (port.isascii() and port.isdigit() and int(port) <= 65535):  # noqa: PLR2004 (TCP's)
        raise ValueError(f"{text!r}: the port must be a number from 0 to 65535")
    return Address(host[1:-1] if bracketed else host, int(port))


def address_of(sock: socket.socket) -> Address | UnixAddress:
    """Return where a socket listens."""
    name = sock.getsockname()
    if sock.family is socket.AF_UNIX:
        return UnixAddress(name)
    host, port, *more = name
    scope = more[1] if more else 0  # the interface of a link-local address; 0 is none
    return Address(f"{host}%{socket.if_indextoname(scope)}" if scope else host, port)


def listen(addresses: Iterable[Address | UnixAddress]) -> list[socket.socket]:
    """Listen on every address, or on none: all that cannot be had are in the one error."""
    sockets: list[socket.socket] = []
    faults = []
    for address in addresses:
        hints = _UNIX_HINTS if isinstance(address, UnixAddress) else _HINTS
        try:
            sockets += _listen(address)
        except OSError as error:
            reason = _reason(error, hints)
            faults.append(f"--web.listen-address: cannot listen on {address}: {reason}")
    if faults:
        for sock in sockets:
            sock.close()
        raise ConfigError(faults)
    return sockets


def inherited() -> list[socket.socket]:
    """Return the sockets that systemd hands over."""
    count = os.environ.get("LISTEN_FDS", "")
    if os.environ.get("LISTEN_PID") != str(os.getpid()) or not count.isdecimal() or count == "0":
        raise ConfigError([f"{_SYSTEMD}: systemd handed over no socket; start its .socket unit"])
    return [_inherited(fd) for fd in range(_FIRST_FD, _FIRST_FD + int(count))]


def _inherited(fd: int) -> socket.socket:
    with suppress(OSError):
        sock = socket.socket(fileno=fd)
        if sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
            sock.settimeout(0)
            return sock
        sock.close()
    raise ConfigError(
        [f"{_SYSTEMD}: file descriptor {fd} does not listen; use ListenStream= and Accept=no"]
    )


def _listen(address: Address | UnixAddress) -> list[socket.socket]:
    """Listen on every IP address that a host has, on the same port.

    Tornado's `bind_sockets` would leave open what it had before one failed.
    """
    if isinstance(address, UnixAddress):
        return [listen_at(address.path)]
    found = socket.getaddrinfo(
        address.host or None, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )
    sockets: list[socket.socket] = []
    port = address.port
    try:
        for family, (host, _, *scope) in sorted({(info[0], info[4]) for info in found}):
            try:
                sock = socket.create_server((host, port, *scope), family=family, backlog=128)
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


def _reason(error: OSError, hints: Mapping[int, str]) -> str:
    if isinstance(error, socket.gaierror):
        return f"{error.strerror}".lower()
    if error.errno is None:  # Python's own
        return "the path is too long for a socket"
    return os.strerror(error.errno).lower() + hints.get(error.errno, "")
