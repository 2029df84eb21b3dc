"""Wires the parts together and keeps them running until a signal comes."""

from __future__ import annotations

import logging
import platform
import signal
import sys
import threading
import time

import sqlalchemy

from exporter import __version__, metrics
from exporter.checkpoint import open_file
from exporter.config import Config
from exporter.exposition import Exposition
from exporter.formats import Format
from exporter.options import Options
from exporter.poller import Poller
from exporter.status import ServiceStatus
from exporter.tally import Sample, Samples
from exporter.web.server import WebServer, parse_address

log = logging.getLogger(__name__)

STOP_WITHIN = 4.0  # seconds, of the 5 that are promised


class Service:
    """All pollers and what they publish; what the web pages ask is answered here."""

    def __init__(self, config: Config) -> None:
        self.started = time.time()
        self._checkpoint = open_file(config.checkpoint) if config.checkpoint else None
        self._exposition = Exposition(self._checkpoint_samples)
        self.pollers = [
            Poller(backend, self._exposition, self._checkpoint) for backend in config.backends
        ]
        for poller in self.pollers:
            poller.restore()
        version = (__version__, platform.python_version(), sqlalchemy.__version__)
        self._exposition.publish(
            None,
            {
                metrics.BUILD_INFO: [Sample(version, 1)],
                metrics.RELOAD_SUCCESSFUL: [Sample((), 1)],
                metrics.RELOAD_TIMESTAMP: [Sample((), self.started)],
                metrics.CONFIG_HASH: [Sample((), config.hash)],
            },
        )

    def start(self) -> None:
        """Begin polling."""
        for poller in self.pollers:
            poller.start()

    def stop(self) -> None:
        """End polling; a poll that hangs is abandoned."""
        for poller in self.pollers:
            poller.stop()
        deadline = time.monotonic() + STOP_WITHIN
        for poller in self.pollers:
            poller.join(max(0.0, deadline - time.monotonic()))
        if self._checkpoint is not None:
            self._checkpoint.close()

    def _checkpoint_samples(self) -> Samples:
        if self._checkpoint is None:
            return {}
        commit, size = self._checkpoint.last_commit, self._checkpoint.size()
        samples = {metrics.CHECKPOINT_COMMIT: commit, metrics.CHECKPOINT_SIZE: size}
        return {metric: [Sample((), v)] for metric, v in samples.items() if v is not None}

    # -- what the web pages ask --------------------------------------------------------------

    def exposition(self, form: Format, *, gzip: bool) -> bytes:
        """Return the body of /metrics."""
        return self._exposition.body(form, compressed=gzip)

    def unhealthy(self) -> str:
        """Name a poll thread that is stuck. A database that is down is not our illness."""
        stuck = [poller.settings.name for poller in self.pollers if poller.stuck()]
        return f"poll thread is stuck: {', '.join(stuck)}" if stuck else ""

    def unready(self) -> str:
        """Name the backends that were not tried yet."""
        waiting = [poller.settings.name for poller in self.pollers if not poller.tried.is_set()]
        return f"not tried yet: {', '.join(waiting)}" if waiting else ""

    def status(self) -> ServiceStatus:
        """Return what the status page shows."""
        backends = tuple(poller.status for poller in self.pollers)
        return ServiceStatus(__version__, self.started, backends)


def run(config: Config, options: Options) -> int:
    """Serve until SIGTERM or SIGINT; return the exit code."""
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    service = Service(config)
    addresses = [parse_address(address) for address in options.listen_addresses]
    server = WebServer(service, addresses, options.telemetry_path)
    server.start()
    for address in server.addresses:
        log.info("listening", extra={"address": str(address)})
    if config.checkpoint is None:
        log.warning("no checkpoint: counts live in memory, and begin at 0 after a restart")
    service.start()
    stop.wait()
    log.info("stopping")
    service.stop()
    server.stop()
    log.info("stopped")
    return 0


def once(config: Config) -> int:
    """Poll every backend to the end of what there is; print the exposition."""
    service = Service(config)
    worked = [poller.try_poll() for poller in service.pollers]
    service.stop()
    sys.stdout.write(service.exposition(Format.TEXT, gzip=False).decode())
    return 0 if all(worked) else 1
