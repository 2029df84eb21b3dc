"""Wires the parts together and keeps them running until a signal comes."""

from __future__ import annotations

import ctypes
import faulthandler
import gc
import logging
import os
import platform
import signal
import sys
import threading
import time
from collections.abc import Collection
from contextlib import suppress
from typing import NoReturn

import sqlalchemy
from sqlalchemy import URL

from exporter import __version__
from exporter.checkpoint.checkpoint import Checkpoint, open_file
from exporter.checkpoint.lease import LEASE_DURATION, LIMITS, Lease
from exporter.checkpoint.store import IN_A_DATABASE, Fence, Store
from exporter.config.settings import Config
from exporter.errors import CheckpointError
from exporter.exposition.exposition import Exposition
from exporter.exposition.formats import Format
from exporter.metrics import catalogue
from exporter.metrics.samples import Sample, Samples
from exporter.printable import some
from exporter.runtime.election import RETRY_INTERVAL, Election
from exporter.runtime.options import Options
from exporter.runtime.poller import Poller
from exporter.runtime.schedule import Schedule
from exporter.web.server import Guard, WebServer, parse_address
from exporter.web.status import ServiceStatus

log = logging.getLogger(__name__)

# Seconds, of the 5 that are promised from the signal to the end; the web server adds one.
STOP_WITHIN = 2.5
RELEASE_WITHIN = 0.7
ANSWER_WITHIN = 0.3
ENDED_AFTER = 4.8
ENDS = {signal.SIGTERM, signal.SIGINT}
LONGEST_END = 600.0  # seconds; no poll takes as long
M_ARENA_MAX = -8
TOGETHER = 3  # polls in a row: what is served changes less often, and a scrape waits for few
SWITCH = 0.0001  # seconds; a poll that computes keeps a scrape waiting for no longer


class Polling:
    """What is read and served while this process leads: all of it anew each time."""

    def __init__(
        self, config: Config, exposition: Exposition, checkpoint: Checkpoint | None
    ) -> None:
        self.checkpoint = checkpoint
        self.exposition = exposition
        self.pollers = [Poller(backend, exposition, checkpoint) for backend in config.backends]
        self._schedule = Schedule(self.pollers)
        self._stopping = threading.Event()

    def start(self) -> None:
        """Begin polling: one backend after the other, then spread over the interval."""
        begun = time.monotonic()
        for number, poller in enumerate(self.pollers):
            share = number // TOGETHER * TOGETHER / len(self.pollers)
            poller.begin(begun + share * poller.settings.poll_interval)
        self._schedule.start()
        threading.Thread(target=self._settle, name="settle", daemon=True).start()

    def _settle(self) -> None:
        """Let stay what is loaded once all were tried: no scrape need wait for a look at it."""
        for poller in self.pollers:
            while not poller.tried.wait(1.0):
                if self._stopping.is_set():
                    return
        gc.unfreeze()
        gc.collect()
        gc.freeze()

    def stop(self) -> None:
        """End polling after the step each poll is in."""
        self._stopping.set()
        for poller in self.pollers:
            poller.stop()
        self._schedule.stop()

    def end(self, timeout: float) -> None:
        """Wait for that; a poll that hangs is abandoned."""
        self._schedule.join(timeout)
        if self.checkpoint is not None:
            self.checkpoint.close()


class Service:
    """All that is read and served; what the web pages ask is answered here."""

    def __init__(
        self, config: Config, adopt: Collection[str] = (), guard: Guard | None = None
    ) -> None:
        self.started = time.time()
        self._config = config
        self._guard = guard  # None: there is no web configuration
        self._adopt = adopt
        self._election: Election | None = None
        self._in_threads = True  # in threads, as soon as we lead
        self._standby = self._new_exposition()
        self._checkpoint: Checkpoint | None = None  # the last; perhaps nothing is polled yet
        self.polling: Polling | None = None  # None: another replica leads
        if isinstance(config.checkpoint, URL):
            lease = Lease(Store(config.checkpoint, IN_A_DATABASE, limits=LIMITS))
            self._election = Election(lease, self._lead, self._stand_by)
        else:
            checkpoint = open_file(config.checkpoint, adopt) if config.checkpoint else None
            self.polling = Polling(config, self._new_exposition(), checkpoint)
            for poller in self.polling.pollers:
                poller.restore()

    def start(self) -> None:
        """Begin polling, at once or when elected."""
        if self._election is not None:
            self._election.start()
        elif self.polling is not None:
            self.polling.start()

    def poll_once(self) -> bool:
        """Poll every backend to the end of what there is; say whether all that worked."""
        if self._election is not None:
            self._in_threads = False
            self._election.start()
            self._election.decided.wait(LEASE_DURATION + 5 * RETRY_INTERVAL)
        if self.polling is None:
            raise CheckpointError(f"{IN_A_DATABASE}: {self.unready()}")
        worked = [poller.try_once() for poller in self.polling.pollers]
        return all(worked)

    def stop(self) -> None:
        """End polling, then let another replica lead."""
        polling = self.polling
        if polling is not None:
            polling.stop()
            polling.end(STOP_WITHIN)
        elif self._checkpoint is not None:
            self._checkpoint.close()
        if self._election is not None:
            self._election.stop(RELEASE_WITHIN)

    # -- terms -------------------------------------------------------------------------------

    def _lead(self, fence: Fence) -> None:
        """Begin to poll, anew. What was left hanging before stays outside the fence."""
        assert isinstance(self._config.checkpoint, URL)  # noqa: S101  # or there is no election
        checkpoint = Checkpoint(Store(self._config.checkpoint, IN_A_DATABASE), fence, self._adopt)
        self._checkpoint = checkpoint
        checkpoint.open()
        self.polling = Polling(self._config, self._new_exposition(), checkpoint)
        if self._in_threads:
            self.polling.start()

    def _stand_by(self) -> None:
        """End polling, and forget what was counted."""
        polling, self.polling = self.polling, None
        if polling is not None:
            polling.stop()
            threading.Thread(target=polling.end, args=(LONGEST_END,), daemon=True).start()

    def _new_exposition(self) -> Exposition:
        exposition = Exposition(self._fresh_samples)
        version = (__version__, platform.python_version(), sqlalchemy.__version__)
        exposition.publish(
            None,
            {
                catalogue.BUILD_INFO: [Sample(version, 1)],
                catalogue.RELOAD_SUCCESSFUL: [Sample((), 1)],
                catalogue.RELOAD_TIMESTAMP: [Sample((), self.started)],
                catalogue.CONFIG_HASH: [Sample((), self._config.hash)],
            },
        )
        return exposition

    def _fresh_samples(self) -> Samples:
        polling, election = self.polling, self._election
        samples: dict[catalogue.Metric, float | None] = {
            catalogue.LEADER: float(election is None or election.leading)
        }
        if self._guard is not None:
            samples[catalogue.WEB_RELOAD_SUCCESSFUL] = float(not self._guard.faults)
        if polling is not None and polling.checkpoint is not None:
            samples[catalogue.CHECKPOINT_COMMIT] = polling.checkpoint.last_commit
            samples[catalogue.CHECKPOINT_SIZE] = polling.checkpoint.size
        return {metric: [Sample((), v)] for metric, v in samples.items() if v is not None}

    # -- what the web pages ask --------------------------------------------------------------

    def cached(self, form: Format, *, gzip: bool) -> bytes | None:
        """Return the body of /metrics at once, or None where it must be rendered first."""
        return self._exposition().cached(form, compressed=gzip)

    def exposition(self, form: Format, *, gzip: bool) -> bytes:
        """Return the body of /metrics."""
        return self._exposition().body(form, compressed=gzip)

    def _exposition(self) -> Exposition:
        polling = self.polling
        return polling.exposition if polling else self._standby

    def unhealthy(self) -> str:
        """Say what makes no progress. A database that is down is not our illness."""
        stuck = [poller.settings.name for poller in self._pollers() if poller.stuck()]
        if stuck:
            return f"polling is stuck: {some(stuck)}"
        election = self._election
        return "election thread is stuck" if election is not None and election.stuck() else ""

    def unready(self) -> str:
        """Say why we stand by, or name the backends that were not tried yet."""
        if self.polling is None and self._election is not None:
            return self._election.fault
        waiting = [poller.settings.name for poller in self._pollers() if not poller.tried.is_set()]
        return f"not tried yet: {some(waiting)}" if waiting else ""

    def status(self) -> ServiceStatus:
        """Return what the status page shows."""
        backends = tuple(poller.status for poller in self._pollers())
        return ServiceStatus(__version__, self.started, backends)

    def _pollers(self) -> list[Poller]:
        polling = self.polling
        return polling.pollers if polling is not None else []


def _share_memory() -> None:
    """Let glibc's malloc keep one arena, not one a thread: 2 to 10 MiB less. See mallopt(3)."""
    with suppress(OSError, AttributeError):  # another C library
        ctypes.CDLL(None).mallopt(M_ARENA_MAX, 1)


def run(config: Config, options: Options) -> NoReturn:
    """Serve until SIGTERM or SIGINT; then end the process."""
    sys.setswitchinterval(SWITCH)
    _share_memory()
    faulthandler.enable()  # a crash of a driver, or SIGABRT, shows where each thread stood
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGHUP})
    # A large checkpoint takes long to be brought up to date and restored. Nothing is served yet,
    # and what is half written is undone: as after a kill, but that process 1 must end by itself.
    for how in ENDS:
        signal.signal(how, lambda number, _: os._exit(128 + number))
    guard = Guard(options.web_config)
    service = Service(config, options.adopt, guard if options.web_config else None)
    # Blocked in every thread to come, and waited for here. A handler would do for one thread: with
    # many, another one may be given the signal, and the main thread sleeps on (seen under load).
    signal.pthread_sigmask(signal.SIG_BLOCK, ENDS)
    addresses = [parse_address(address) for address in options.listen_addresses]
    server = WebServer(service, addresses, options.telemetry_path, guard=guard)
    server.start()
    for address in server.addresses:
        log.info("listening", extra={"address": str(address)})
    if config.checkpoint is None:
        log.warning("no checkpoint: counts live in memory, and begin at 0 after a restart")
    service.start()
    while signal.sigwait(ENDS | {signal.SIGHUP}) == signal.SIGHUP:
        log.warning("SIGHUP is ignored: to read the configuration again, restart")
    faulthandler.dump_traceback_later(ENDED_AFTER, exit=True)  # whatever hangs, needing no thread
    log.info("stopping")
    service.stop()
    server.stop(ANSWER_WITHIN)
    log.info("stopped")
    logging.shutdown()
    os._exit(0)  # Python would free all memory bit by bit: seconds, with thousands of backends
