"""Wires the parts together and keeps them running until a signal comes."""

from __future__ import annotations

import ctypes
import faulthandler
import logging
import os
import platform
import signal
import sys
import threading
import time
from collections.abc import Callable, Collection
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import NoReturn

import sqlalchemy
from sqlalchemy import URL

from exporter import __version__
from exporter.backends.database import Database
from exporter.checkpoint.checkpoint import Checkpoint, open_file
from exporter.checkpoint.lease import LEASE_DURATION, LIMITS, Leases
from exporter.checkpoint.store import IN_A_DATABASE, Store
from exporter.config.loading import load
from exporter.config.settings import Config
from exporter.errors import CheckpointError, ConfigError
from exporter.exposition.exposition import Exposition
from exporter.exposition.formats import Format
from exporter.metrics import catalogue
from exporter.metrics.samples import Sample, Samples
from exporter.printable import some
from exporter.runtime.options import Options
from exporter.runtime.polling import Polling
from exporter.runtime.replica import RETRY_INTERVAL, STANDING_BY, Replica
from exporter.sql.connection import trouble
from exporter.web.server import Guard, WebServer, parse_address
from exporter.web.status import ServiceStatus

log = logging.getLogger(__name__)

# Seconds, of the 5 that are promised from the signal to the end; the web server adds one.
STOP_WITHIN = 2.5
RELEASE_WITHIN = 0.7
ANSWER_WITHIN = 0.3
ENDED_AFTER = 4.8
SHOWN = 10  # faults of a configuration in a line of the log
ENDS = {signal.SIGTERM, signal.SIGINT}
M_ARENA_MAX = -8
SWITCH = 0.0001  # seconds; a poll that computes keeps a scrape waiting for no longer


class Service:
    """All that is read and served; what the web pages ask is answered here."""

    def __init__(
        self, config: Config, adopt: Collection[str] = (), guard: Guard | None = None
    ) -> None:
        self.started = time.time()
        self._config = config
        self._read_at = self.started  # Unix time of the configuration in use, seconds
        self._refused = False  # whether a newer one was wrong
        self._changing = threading.Lock()  # what is polled
        self._reloading = threading.Lock()  # may take long: apps are asked
        self._guard = guard  # None: there is no web configuration
        self._live = self._new_exposition()
        self._idle = self._new_exposition()  # of a replica that may follow nothing
        self._replica: Replica | None = None
        if isinstance(config.checkpoint, URL):
            leases = Leases(Store(config.checkpoint, IN_A_DATABASE, limits=LIMITS))
            store = Store(config.checkpoint, IN_A_DATABASE)
            checkpoint = Checkpoint(store, leases.fence, adopt)
            self._replica = replica = self._new_replica(leases, checkpoint)
            self.polling = Polling((), self._live, checkpoint, ended=replica.wake)
        else:
            kept = open_file(config.checkpoint, adopt) if config.checkpoint else None
            self.polling = Polling(config.backends, self._live, kept)
            for poller in self.polling.pollers:
                poller.restore()

    def start(self) -> None:
        """Begin polling; a replica polls what is its share."""
        self.polling.start()
        if self._replica is not None:
            self._replica.start()

    def poll_once(self) -> bool:
        """Poll every backend to the end of what there is; say whether all that worked."""
        if (replica := self._replica) is not None:
            replica.shares = False
            replica.start()
            if not replica.complete.wait(LEASE_DURATION + 5 * RETRY_INTERVAL):
                others = sorted(set(self._names()) - replica.followed)
                why = f"other replicas follow {some(others)}" if replica.followed else replica.fault
                raise CheckpointError(f"{IN_A_DATABASE}: {why}")
        worked = [poller.try_once() for poller in self.polling.pollers]
        return all(worked)

    def stop(self) -> None:
        """End polling, then let other replicas follow."""
        self.polling.stop()
        self.polling.end(STOP_WITHIN)
        if self._replica is not None:
            self._replica.stop(RELEASE_WITHIN)

    def reload(self, load: Callable[[], Config]) -> list[str]:
        """Take the configuration that `load` reads; return what is wrong with it: then nothing is.

        Backends that stay as they are go on; those that change go on from where they stand.
        """
        with self._reloading:
            new, faults = self._tried(load)
            self._refused = bool(faults)
            if new is not None:
                self._take(new)
        if faults:
            log.error(
                "the configuration was not reloaded", extra={"faults": "; ".join(faults[:SHOWN])}
            )
            return faults
        log.info("the configuration was reloaded")
        return []

    def _take(self, new: Config) -> None:
        with self._changing:
            self._config, self._read_at = new, time.time()
            if self._replica is None:
                self.polling.change(new.backends)
            else:
                self._follow(self._replica.followed)
                self._replica.wake()

    def _tried(self, load: Callable[[], Config]) -> tuple[Config | None, list[str]]:
        """Return a new configuration, or what is wrong with it."""
        before = {backend.name: backend for backend in self._config.backends}
        try:
            new = load()
            for backend in new.backends:
                if backend != before.get(backend.name):
                    Database(backend)  # a mistake in its engine's options shows
        except ConfigError as error:
            return None, error.faults
        except Exception as error:  # whatever it is, what is in use stays
            log.debug("not reloaded", exc_info=error)
            return None, [trouble(error)]
        if new.checkpoint != self._config.checkpoint:
            return None, ["checkpoint: it changes with a restart only"]
        return new, []

    # -- replicas ----------------------------------------------------------------------------

    def _new_replica(self, leases: Leases, checkpoint: Checkpoint) -> Replica:
        def follow(names: Collection[str], lost: Collection[str]) -> None:
            with self._changing:
                self._follow(names, lost)

        return Replica(
            leases,
            wanted=self._names,
            follow=follow,
            ending=lambda: self.polling.ending(),  # noqa: PLW0108 - it is not there yet
            open_checkpoint=checkpoint.lay_out,
        )

    def _names(self) -> list[str]:
        return [backend.name for backend in self._config.backends]

    def _follow(self, names: Collection[str], lost: Collection[str] = ()) -> None:
        those = [backend for backend in self._config.backends if backend.name in names]
        self.polling.change(those, lost)

    def _may_serve(self) -> bool:
        """Whether nobody else can serve what is polled here."""
        return self._replica is None or self._replica.confirmed

    def _new_exposition(self) -> Exposition:
        exposition = Exposition(self._fresh_samples)
        version = (__version__, platform.python_version(), sqlalchemy.__version__)
        exposition.publish(
            None,
            {
                catalogue.BUILD_INFO: [Sample(version, 1)],
            },
        )
        return exposition

    def _fresh_samples(self) -> Samples:
        polling = self.polling
        samples: dict[catalogue.Metric, float | None] = {
            catalogue.RELOAD_SUCCESSFUL: float(not self._refused),
            catalogue.RELOAD_TIMESTAMP: self._read_at,
            catalogue.CONFIG_HASH: self._config.hash,
        }
        if self._guard is not None:
            samples[catalogue.WEB_RELOAD_SUCCESSFUL] = float(not self._guard.faults)
        if polling.checkpoint is not None:
            samples[catalogue.CHECKPOINT_COMMIT] = polling.checkpoint.last_commit
            samples[catalogue.CHECKPOINT_SIZE] = polling.checkpoint.size
        served = polling.served() if self._may_serve() else ()
        return {
            catalogue.LEADER: [Sample((name,), float(name in served)) for name in self._names()],
            **{metric: [Sample((), v)] for metric, v in samples.items() if v is not None},
        }

    # -- what the web pages ask --------------------------------------------------------------

    def cached(self, form: Format, *, gzip: bool) -> bytes | None:
        """Return the body of /metrics at once, or None where it must be rendered first."""
        return self._exposition().cached(form, compressed=gzip)

    def exposition(self, form: Format, *, gzip: bool) -> bytes:
        """Return the body of /metrics."""
        return self._exposition().body(form, compressed=gzip)

    def _exposition(self) -> Exposition:
        return self._live if self._may_serve() else self._idle

    def unhealthy(self) -> str:
        """Say what makes no progress. A database that is down is not our illness."""
        stuck = [poller.settings.name for poller in self.polling.all() if poller.stuck()]
        if stuck:
            return f"polling is stuck: {some(stuck)}"
        replica = self._replica
        return "replica thread is stuck" if replica is not None and replica.stuck() else ""

    def unready(self) -> str:
        """Say why nothing is served, or name the backends that were not tried yet."""
        replica, polling = self._replica, self.polling
        if replica is not None and not (polling.pollers and replica.confirmed):
            return replica.fault or STANDING_BY
        untried = polling.untried()
        return f"not tried yet: {some(untried)}" if untried else ""

    def status(self) -> ServiceStatus:
        """Return what the status page shows."""
        replica, guard = self._replica, self._guard
        refused = {
            "the configuration file": self._refused,
            "the web configuration": guard is not None and bool(guard.faults),
        }
        return ServiceStatus(
            version=__version__,
            started=self.started,
            backends=tuple(poller.status for poller in self.polling.pollers),
            unhealthy=self.unhealthy(),
            unready=self.unready(),
            standby=replica is not None and replica.fault == STANDING_BY,
            replica="" if replica is None else replica.leases.own,
            followers={} if replica is None else replica.followers,
            unfollowed={} if replica is None else replica.unfollowed,
            refused=tuple(name for name, wrong in refused.items() if wrong),
        )


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
    listen_on = () if options.systemd_socket else options.listen_addresses
    addresses = [parse_address(address) for address in listen_on]
    reload = partial(_reload, service, options.config_file)
    server = WebServer(
        service,
        addresses,
        options.telemetry_path,
        guard=guard,
        reload=reload if options.lifecycle else None,
    )
    server.start()
    for address in server.addresses:
        log.info("listening", extra={"address": str(address)})
    if config.checkpoint is None:
        log.warning("no checkpoint: counts live in memory, and begin at 0 after a restart")
    service.start()
    while signal.sigwait(ENDS | {signal.SIGHUP}) == signal.SIGHUP:
        threading.Thread(target=reload, name="reload", daemon=True).start()
    faulthandler.dump_traceback_later(ENDED_AFTER, exit=True)  # whatever hangs, needing no thread
    log.info("stopping")
    service.stop()
    server.stop(ANSWER_WITHIN)
    log.info("stopped")
    logging.shutdown()
    os._exit(0)  # Python would free all memory bit by bit: seconds, with thousands of backends


def _reload(service: Service, file: Path | None) -> list[str]:
    """Read the configuration again; return what is wrong with it."""
    if file is None:
        fault = (
            "there is no file to read again: what flags and variables say changes with a restart"
        )
        log.warning(fault)
        return [fault]
    return service.reload(partial(load, file, os.environ))
