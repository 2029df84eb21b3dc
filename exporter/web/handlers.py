"""What each path answers."""

from __future__ import annotations

import asyncio
import logging
import math
import re
import ssl
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Protocol, cast

from tornado.iostream import SSLIOStream
from tornado.web import Application, Finish, HTTPError, RequestHandler

from exporter.errors import ConfigError, shown
from exporter.web import data, page, tls
from exporter.web.negotiation import accepts_gzip, choose_format
from exporter.web.passwords import BusyError, Passwords
from exporter.web.view import View

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping
    from types import TracebackType

    from tornado.http1connection import HTTP1Connection
    from tornado.iostream import IOStream

    from exporter.exposition.formats import Format
    from exporter.web.guard import Guard
    from exporter.web.status import ServiceStatus
    from exporter.web.webconfig import WebConfig

_log = logging.getLogger(__name__)

_HEALTHY = ("/-/healthy", "/healthz")
_READY = ("/-/ready", "/readyz")
_RELOAD = "/-/reload"
_DATA = "/status.json"
_METHODS = ("GET", "HEAD")
_PLAIN = "text/plain; charset=utf-8"


class Site(Protocol):
    """What is served. Called from the web server's thread, which waits: answer at once."""

    def cached(self, form: Format, /, *, gzip: bool) -> bytes | None:
        """Return all metrics, or None where they have to be rendered first."""

    def exposition(self, form: Format, /, *, gzip: bool) -> bytes:
        """Return all metrics. Called from a thread of its own: it renders them where it must."""

    def unhealthy(self) -> str:
        """Return why the exporter should be restarted, or ""."""

    def unready(self) -> str:
        """Return why the metrics are not complete yet, or ""."""

    def status(self) -> ServiceStatus:
        """Return what the status page shows. Called from a thread of its own."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What one client may take; seconds and bytes."""

    idle: float = 30.0  # to send a whole request head, or the next one
    body: float = 5.0
    answer: float = 30.0  # to take a whole answer
    connections: int = 256  # well below the 1024 open files that many systems allow
    requests: int = 20  # in flight: not answered yet, or with an answer that is not taken yet
    pages: int = 4  # of these for people, being made: that takes long with thousands of backends
    slow: float = 1.0  # to take an answer, while another request wants its place
    head_bytes: int = 16 * 1024
    body_bytes: int = 1024


class Pages(Application):
    """The paths and what they share."""

    def __init__(
        self,
        site: Site,
        telemetry_path: str,
        guard: Guard,
        limits: Limits,
        reload: Callable[[], list[str]] | None,
    ) -> None:
        _check_telemetry_path(telemetry_path)
        healthy = {"good": "healthy", "fault": site.unhealthy}
        ready = {"good": "ready", "fault": site.unready}

        def html(view: View) -> str:
            # Relative, so that it also works behind a proxy that adds a path prefix.
            metrics = telemetry_path.lstrip("/")
            return page.render(site.status(), time.time(), view, metrics=metrics)

        def json(view: View) -> str:
            return data.render(site.status(), time.time(), view)

        super().__init__(
            [
                (re.escape(telemetry_path), _Metrics),
                ("/", _Status, {"form": "text/html", "made": html}),
                (_DATA, _Status, {"form": "application/json", "made": json}),
                (_RELOAD, _Reload),
                *((path, _Probe, healthy) for path in _HEALTHY),
                *((path, _Probe, ready) for path in _READY),
            ],
            default_handler_class=_NotFound,
            # A line for each scrape is noise; what goes wrong is logged where it goes wrong.
            log_function=lambda _handler: None,
        )
        self.site = site
        self.reload = reload
        self.reloads = False  # at the moment
        # Not those that answer scrapes.
        self.reloading = ThreadPoolExecutor(1, "reload")
        self.rendering = ThreadPoolExecutor(1, "page")
        self.guard = guard
        self.passwords = Passwords()
        self.limits = limits
        self.waiting: dict[IOStream, None] = {}  # connections that may be hung up on
        self.answering: dict[_Handler, asyncio.Future[None]] = {}  # requests in flight
        self.unsent: set[asyncio.Task[None]] = set()  # answers on their way
        self.faults: dict[str, bool] = {}  # whether each probe answered 503 last, by path


def _check_telemetry_path(path: str) -> None:
    name = "--web.telemetry-path"
    if not re.fullmatch(r"(/[A-Za-z0-9._~-]+)+/?", path):
        raise ConfigError([f"{name}: {path!r} is not a path such as '/metrics'"])
    if path.startswith("/-/") or path in {*_HEALTHY, *_READY, _DATA}:
        raise ConfigError([f"{name}: {path!r} is taken by another page; use '/metrics'"])


class _Handler(RequestHandler):
    """Rules for every answer: its turn, safe headers, a deadline, errors in one plain line."""

    application: Pages
    methods = _METHODS
    for_all = False  # without a password and a limit
    ready = math.inf  # when there was an answer; monotonic

    async def prepare(self) -> None:
        stream = self.connection.stream
        self.application.waiting.pop(stream, None)
        guard = self.application.guard
        config = guard.config
        if not _may_talk(stream, config):
            stream.close()
            raise Finish
        if not self.for_all:
            if not guard.lets_pass():
                raise HTTPError(HTTPStatus.TOO_MANY_REQUESTS)
            if config.users is not None:
                await self._ask_for_password(config.users)
            self.take_turn()
        if self.request.method not in self.methods:
            raise HTTPError(HTTPStatus.METHOD_NOT_ALLOWED)

    async def _ask_for_password(self, users: Mapping[str, str]) -> None:
        given = self.request.headers.get("Authorization", "")
        try:
            right = await self.application.passwords.are_right(
                users, given, str(self.request.remote_ip)
            )
        except BusyError:
            raise HTTPError(HTTPStatus.SERVICE_UNAVAILABLE) from None
        if not right:
            raise HTTPError(HTTPStatus.UNAUTHORIZED)

    def take_turn(self) -> None:
        """Be one of the requests in flight. Whoever takes an answer slowly makes room."""
        answering, limits = self.application.answering, self.application.limits
        if len(answering) >= limits.requests:
            slowest = min(answering, key=lambda handler: handler.ready)
            if time.monotonic() - slowest.ready < limits.slow:
                raise HTTPError(HTTPStatus.SERVICE_UNAVAILABLE)
            slowest.end_turn()
            slowest.connection.stream.close()
        answering[self] = asyncio.get_running_loop().create_future()

    def end_turn(self) -> None:
        """Be no longer one of them."""
        if (turn := self.application.answering.pop(self, None)) is not None:
            turn.set_result(None)

    @property
    def connection(self) -> HTTP1Connection:
        """Whose request it is."""
        return cast("HTTP1Connection", self.request.connection)

    def head(self) -> Awaitable[None] | None:
        return self.get()  # tornado leaves the body out and keeps its length

    def set_default_headers(self) -> None:
        self.clear_header("Server")
        self.set_header("Content-Type", _PLAIN)
        self.set_header("Cache-Control", "no-store")
        self.set_header("X-Content-Type-Options", "nosniff")
        self.set_header("Referrer-Policy", "no-referrer")
        self.set_header("Content-Security-Policy", page.CONTENT_SECURITY_POLICY)
        for name, value in self.application.guard.config.headers:
            self.set_header(name, value)

    def compute_etag(self) -> None:
        """Spare every scrape a hash of its body: no scraper sends If-None-Match."""

    def finish(self, chunk: str | bytes | dict[Any, Any] | None = None) -> asyncio.Future[None]:
        sent = super().finish(chunk)
        self.ready = time.monotonic()
        stream = self.connection.stream
        if self not in self.application.answering and not stream.closed():
            self.application.waiting[stream] = None  # an answer that need not arrive
        if sent.done():
            self.end_turn()
        else:
            sending = asyncio.create_task(self._send(sent))
            self.application.unsent.add(sending)
            sending.add_done_callback(self.application.unsent.discard)
        return sent

    async def _send(self, sent: asyncio.Future[None]) -> None:
        """Hang up on a client that does not take its answer: tornado has no such deadline."""
        _, late = await asyncio.wait([sent], timeout=self.application.limits.answer)
        if late:
            self.connection.close()
        self.end_turn()

    def write_error(self, status_code: int, **_kwargs: Any) -> None:
        if status_code == HTTPStatus.METHOD_NOT_ALLOWED:
            self.set_header("Allow", ", ".join(self.methods))
        elif status_code == HTTPStatus.UNAUTHORIZED:
            self.set_header("WWW-Authenticate", "Basic")
        elif status_code == HTTPStatus.SERVICE_UNAVAILABLE:
            self.set_header("Retry-After", "1")
        self.finish(f"{status_code} {HTTPStatus(status_code).phrase}\n")

    def log_exception(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind and error and not isinstance(error, HTTPError):  # those are the client's own
            _log.error(
                "cannot answer %s %s",
                self.request.method,
                self.request.path,
                exc_info=(kind, error, trace),
            )


def _may_talk(stream: IOStream, config: WebConfig) -> bool:
    """Whether a connection, which may be older than the configuration, is as that wants it."""
    if stream.closed():
        return False
    if config.tls is None:
        return True
    if not isinstance(stream, SSLIOStream):
        return False
    certificate = stream.socket.getpeercert()
    if config.tls.verify_mode is ssl.CERT_REQUIRED and not certificate:
        return False
    return not config.sans or bool(config.sans & tls.names(certificate))


class _Metrics(_Handler):
    async def get(self) -> None:
        format_ = choose_format(self.request.headers.get("Accept", ""))
        gzip = accepts_gzip(self.request.headers.get("Accept-Encoding", ""))
        self.set_header("Content-Type", format_.value)
        self.set_header("Vary", "Accept, Accept-Encoding")
        if gzip:
            self.set_header("Content-Encoding", "gzip")
        site = self.application.site
        body = site.cached(format_, gzip=gzip)
        if body is None:
            body = await asyncio.to_thread(site.exposition, format_, gzip=gzip)
        self.finish(body)


class _Probe(_Handler):
    """200 while all is well, else 503 and why. A kubelet has no password, and must not wait."""

    for_all = True

    def initialize(self, good: str, fault: Callable[[], str]) -> None:
        self.good = good
        self.fault = fault

    def get(self) -> None:
        fault = " ".join(self.fault().split())
        self._log_change(fault)
        if fault:
            self.set_status(HTTPStatus.SERVICE_UNAVAILABLE)
        self.finish(f"not {self.good}: {fault}\n" if fault else f"{self.good}\n")

    def _log_change(self, fault: str) -> None:
        path, faults = self.request.path, self.application.faults
        if bool(fault) == faults.get(path, False):  # names that come and go are no news
            return
        faults[path] = bool(fault)
        if fault:
            _log.warning("%s answers 503: %s", path, fault)
        else:
            _log.info("%s answers 200: %s", path, self.good)


class _Reload(_Handler):
    """Reads the configuration again, where that is allowed, as Prometheus does."""

    methods = ("POST", "PUT")

    async def post(self) -> None:
        reload, reloading = self.application.reload, self.application.reloading
        if reload is None:
            self.set_status(HTTPStatus.FORBIDDEN)
            self.finish("reload by HTTP is off; start with --web.enable-lifecycle\n")
            return
        if self.application.reloads:  # as many as ask would take all connections
            raise HTTPError(HTTPStatus.SERVICE_UNAVAILABLE)
        self.application.reloads = True
        try:
            faults = await asyncio.get_running_loop().run_in_executor(reloading, reload)
        finally:
            self.application.reloads = False
        if faults:
            self.set_status(HTTPStatus.INTERNAL_SERVER_ERROR)
        self.finish("".join(f"{fault}\n" for fault in shown(faults)) or "reloaded\n")

    put = post


class _Status(_Handler):
    """What is going on: made when asked for, by one thread, which is none of those that scrape."""

    def initialize(self, form: str, made: Callable[[View], str]) -> None:
        self.form = form
        self.made = made

    def take_turn(self) -> None:
        pages = (other for other in self.application.answering if isinstance(other, _Status))
        if sum(page.ready == math.inf for page in pages) >= self.application.limits.pages:
            raise HTTPError(HTTPStatus.SERVICE_UNAVAILABLE)
        super().take_turn()

    async def get(self) -> None:
        view = View.of(self.request.query_arguments)
        loop, rendering = asyncio.get_running_loop(), self.application.rendering
        answer = await loop.run_in_executor(rendering, self.made, view)
        self.set_header("Content-Type", f"{self.form}; charset=utf-8")
        self.finish(answer)


class _NotFound(_Handler):
    async def prepare(self) -> None:
        await super().prepare()
        raise HTTPError(HTTPStatus.NOT_FOUND)
