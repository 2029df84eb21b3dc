"""A TCP proxy before a server, with the faults that networks have."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
from enum import Enum, auto
from typing import Self

from tests.servers.process import HOST, free_port

RESET = struct.pack("ii", 1, 0)  # SO_LINGER: closing sends RST


class Mode(Enum):
    """What becomes of connections and of the bytes on them."""

    PASS = auto()
    CUT = auto()  # reset when the server begins to answer: in the middle of a query
    STALL = auto()  # nothing moves, and all of it arrives later
    BLACK_HOLE = auto()  # connections are accepted, and whatever is said is lost
    REFUSE = auto()  # nothing listens, and the connections there were are reset


class Proxy:
    """Listens on a port of its own; `mode` may be changed at any time."""

    def __init__(self, upstream: int) -> None:
        self.upstream = upstream
        self.port = free_port()
        self._mode = Mode.PASS
        self._changed = threading.Condition()
        self._listener: socket.socket | None = None
        self._open: set[socket.socket] = set()
        self._closed = False

    def __enter__(self) -> Self:
        self._listen()
        return self

    def __exit__(self, *_: object) -> None:
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        self._stop_listening()

    @property
    def mode(self) -> Mode:
        """What it does."""
        return self._mode

    @mode.setter
    def mode(self, mode: Mode) -> None:
        with self._changed:
            # What was swallowed is missing: no connection out of a black hole can go on.
            lost = Mode.BLACK_HOLE in (mode, self._mode) and mode is not self._mode
            self._mode = mode
            self._changed.notify_all()
        if mode is Mode.REFUSE:
            self._stop_listening()
        else:
            if lost and mode is not Mode.BLACK_HOLE:
                self._reset_all()
            self._listen()

    def _listen(self) -> None:
        if self._listener is None:
            self._listener = socket.create_server((HOST, self.port))
            threading.Thread(target=self._accept, args=(self._listener,), daemon=True).start()

    def _stop_listening(self) -> None:
        listener, self._listener = self._listener, None
        if listener is not None:
            with contextlib.suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)  # wakes accept()
            listener.close()
        self._reset_all()

    def _reset_all(self) -> None:
        with self._changed:
            sockets = list(self._open)
        for each in sockets:
            _reset(each)

    def _accept(self, listener: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = listener.accept()
                try:
                    server = socket.create_connection((HOST, self.upstream), timeout=5)
                except OSError:
                    _reset(client)
                    client.close()
                    continue
                server.settimeout(None)
                for source, sink in ((client, server), (server, client)):
                    threading.Thread(
                        target=self._pump, args=(source, sink, source is server), daemon=True
                    ).start()

    def _pump(self, source: socket.socket, sink: socket.socket, answers: bool) -> None:  # noqa: FBT001
        """Carry bytes one way until one end is gone; then end both."""
        with self._changed:
            self._open.add(source)
        try:
            with contextlib.suppress(OSError):
                while data := source.recv(65536):
                    with self._changed:
                        self._changed.wait_for(lambda: self._mode is not Mode.STALL or self._closed)
                        mode = self._mode
                    if mode is Mode.REFUSE or (mode is Mode.CUT and answers):
                        _reset(sink)
                        return
                    if mode is not Mode.BLACK_HOLE:
                        sink.sendall(data)
        finally:
            with self._changed:
                self._open.discard(source)
            with contextlib.suppress(OSError):
                resets = sink.getsockopt(socket.SOL_SOCKET, socket.SO_LINGER, len(RESET)) == RESET
                sink.shutdown(socket.SHUT_RD if resets else socket.SHUT_RDWR)
            source.close()


def _reset(connection: socket.socket) -> None:
    """End a connection with RST, whoever is reading from it."""
    with contextlib.suppress(OSError):
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        connection.shutdown(socket.SHUT_RD)  # wakes recv(), whose thread closes it
