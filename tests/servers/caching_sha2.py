"""The first packets of a MySQL 8 without TLS: enough to see a password sent by RSA, no more."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
from typing import TYPE_CHECKING

from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa

from tests.servers.process import HOST

if TYPE_CHECKING:
    from collections.abc import Iterator

PLUGIN = b"caching_sha2_password\0"
SALT = b"abcdefghijklmnopqrst"
#: Long passwords, protocol 4.1, secure connections, a database, pluggable authentication.
CAPABILITIES = 0x0001 | 0x0008 | 0x0200 | 0x8000 | 0x80000
FULL, MORE = b"\x01\x04", b"\x01"


@contextlib.contextmanager
def server(password: str) -> Iterator[int]:
    """Ask whoever connects for this password; answer that there is no such database."""
    key = rsa.generate_private_key(65537, 2048)
    with socket.create_server((HOST, 0)) as listener:
        thread = threading.Thread(target=_serve, args=(listener, key, password), daemon=True)
        thread.start()
        yield listener.getsockname()[1]
        listener.shutdown(socket.SHUT_RDWR)
    thread.join(5)


def _serve(listener: socket.socket, key: rsa.RSAPrivateKey, password: str) -> None:
    with contextlib.suppress(OSError):
        while True:
            client, _ = listener.accept()
            with client:
                _answer(client, key, password)


def _answer(client: socket.socket, key: rsa.RSAPrivateKey, password: str) -> None:
    low, high = CAPABILITIES & 0xFFFF, CAPABILITIES >> 16
    greeting = b"\x0a8.0.36\0" + struct.pack("<I", 1) + SALT[:8] + b"\0"
    greeting += struct.pack("<HBHHB", low, 255, 2, high, len(SALT) + 1) + bytes(10)
    _send(client, 0, greeting + SALT[8:] + b"\0" + PLUGIN)
    _receive(client)
    _send(client, 2, FULL)
    if _receive(client) != b"\x02":  # please give me your public key
        return
    public = key.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    _send(client, 4, MORE + public)
    oaep = padding.OAEP(padding.MGF1(hashes.SHA1()), hashes.SHA1(), None)  # noqa: S303 - MySQL's
    sealed = _receive(client)
    if not sealed:  # it cannot, and has gone
        return
    secret = key.decrypt(sealed, oaep)
    plain = bytes(c ^ SALT[n % len(SALT)] for n, c in enumerate(secret))
    right = plain == password.encode() + b"\0"
    _send(client, 6, _error(1049, "Unknown database") if right else _error(1045, "Access denied"))


def _error(number: int, text: str) -> bytes:
    return b"\xff" + struct.pack("<H", number) + b"#42000" + text.encode()


def _send(client: socket.socket, number: int, packet: bytes) -> None:
    client.sendall(struct.pack("<I", len(packet))[:3] + bytes([number]) + packet)


def _receive(client: socket.socket) -> bytes:
    head = client.recv(4, socket.MSG_WAITALL)
    return client.recv(int.from_bytes(head[:3], "little"), socket.MSG_WAITALL)
