"""The web server: a thread of its own, with its own event loop."""

from __future__ import annotations

import asyncio
import errno
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, cast

from tornado.httpserver import HTTPServer

from exporter.web.addresses import (
    Address,
    UnixAddress,
    address_of,
    inherited,
    listen,
    parse_address,
)
from exporter.web.guard import Guard
from exporter.web.handlers import Limits, Pages, Site

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Sequence

    from tornado.http1connection import HTTP1Connection, HTTP1ServerConnection
    from tornado.httputil import HTTPConnection, HTTPMessageDelegate
    from tornado.iostream import IOStream

__all__ = ["Address", "Guard", "Limits", "Site", "UnixAddress", "WebServer", "parse_address"]

_DEFAULT_LIMITS = Limits()
_NO_MORE_FILES = (errno.EMFILE, errno.ENFILE)
_MOMENT = 0.05  # seconds


class WebServer:
    """Serves a site until stopped. Silent and slow clients cost a timeout, never a scrape."""

    def __init__(
        self,
        site: Site,
        addresses: Sequence[Address | UnixAddress],
        telemetry_path: str = "/metrics",
        *,
        guard: Guard | None = None,
        reload: Callable[[], list[str]] | None = None,
        limits: Limits = _DEFAULT_LIMITS,
    ) -> None:
        """No addresses: those that systemd hands over.

        `reload`: what a POST may ask for, None: nothing; it returns what is wrong.
        """
        self.addresses = list(addresses)
        self._pages = Pages(site, telemetry_path, guard or Guard(), limits, reload)
        self._stopping = asyncio.Event()
        self._patience = 0.0
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Listen, in the caller's thread so that it gets the error, then serve."""
        sockets = listen(self.addresses) if self.addresses else inherited()
        self.addresses = [address_of(sock) for sock in sockets]
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(
            target=self._run, args=(self._loop, sockets), name="web", daemon=True
        )
        self._thread.start()

    def stop(self, timeout: float = 2.0) -> None:
        """Stop listening, let answers on their way end, hang up, join the thread."""
        if self._loop is None or self._thread is None or not self._thread.is_alive():
            return
        self._patience = timeout
        self._loop.call_soon_threadsafe(self._stopping.set)
        self._thread.join(timeout + 1)

    def _run(self, loop: asyncio.AbstractEventLoop, sockets: list[socket.socket]) -> None:
        with asyncio.Runner(loop_factory=lambda: loop) as runner:
            runner.run(self._serve(sockets))

    async def _serve(self, sockets: list[socket.socket]) -> None:
        # One thread answers scrapes, in turn: many clients make no more of them.
        asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(1, "scrape"))
        limits = self._pages.limits
        server = _CappedServer(
            self._pages,
            idle_connection_timeout=limits.idle,
            body_timeout=limits.body,
            max_header_size=limits.head_bytes,
            max_body_size=limits.body_bytes,
        )
        server.guard = self._pages.guard
        server.limit = limits.connections
        server.waiting = self._pages.waiting
        asyncio.get_running_loop().set_exception_handler(server.on_exception)
        server.add_sockets(sockets)
        await self._stopping.wait()
        server.stop()
        if unanswered := [*self._pages.answering.values(), *self._pages.unsent]:
            await asyncio.wait(unanswered, timeout=self._patience)
        await server.close_all_connections()
        self._pages.passwords.stop()
        self._pages.reloading.shutdown(wait=False)
        self._pages.rendering.shutdown(wait=False)


class _CappedServer(HTTPServer):
    """Keeps to a limit of connections, so that open files never run out.

    One more takes the place of the one that has kept silent for the longest time. Requests in
    flight keep theirs: they have a limit of their own, and leave room for others.
    """

    guard: Guard
    limit = 0
    waiting: dict[IOStream, None]  # that may be hung up on, the longest wait first
    _open = 0

    def _handle_connection(self, connection: socket.socket, address: Any) -> None:
        self.ssl_options = self.guard.config.tls  # as the files are now
        try:
            super()._handle_connection(connection, address)
        except OSError:  # it has gone already; whoever reaches the port may do so often
            connection.close()

    def handle_stream(self, stream: IOStream, address: Any) -> None:
        if self._open >= self.limit and not self._make_room():
            stream.close()
            return
        self._open += 1
        super().handle_stream(stream, address)

    def _make_room(self) -> bool:
        silent = next(iter(self.waiting), None)
        if silent is not None:
            del self.waiting[silent]
            silent.close()
        return silent is not None

    def on_exception(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """Make room where open files have run out all the same: the limit is low, or backends many.

        To accept is tried again at once, and a line for each time would fill the disk.
        """
        error = context.get("exception")
        if not isinstance(error, OSError) or error.errno not in _NO_MORE_FILES:
            loop.default_exception_handler(context)
        elif not self._make_room():
            time.sleep(_MOMENT)

    def start_request(
        self, server_conn: object, request_conn: HTTPConnection
    ) -> HTTPMessageDelegate:
        stream = cast("HTTP1Connection", request_conn).stream
        self.waiting.pop(stream, None)
        self.waiting[stream] = None
        return super().start_request(server_conn, request_conn)

    def on_close(self, server_conn: object) -> None:
        self._open -= 1
        self.waiting.pop(cast("HTTP1ServerConnection", server_conn).stream, None)
        super().on_close(server_conn)
