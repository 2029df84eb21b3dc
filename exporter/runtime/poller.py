"""The loop of one backend: poll, publish; wait longer after each failure."""

from __future__ import annotations

import gc
import random
import threading
import time

from exporter.checkpoint.checkpoint import Checkpoint
from exporter.config.settings import Backend
from exporter.errors import BackendAbsent, BackendError, Reason
from exporter.exposition.exposition import Exposition
from exporter.exposition.rendering import Fixed
from exporter.runtime.beat import Beat
from exporter.runtime.follower import Follower
from exporter.runtime.polls import Polls
from exporter.runtime.samples import samples
from exporter.runtime.statuses import backend_status, server
from exporter.sql.connection import unexpected
from exporter.sql.waiting import minded, waiting
from exporter.web.status import BackendStatus

PUBLISH_INTERVAL = 1.0  # seconds, while a poll lasts
PROGRESS_INTERVAL = 10.0  # seconds between lines on a backlog
LONGEST_BACKOFF = 60.0  # seconds
PAUSE_BETWEEN_STEPS = 0.005  # seconds between two steps, for everybody else who uses the database
BEGIN_WITHIN = 60.0  # seconds; later than that no thread is left to poll
INTERVALS = 3  # without progress, beyond all timeouts: a poll that hangs
LATE = 2.0  # seconds by which a timeout may come late


class Poller:
    """Polls one backend until told to stop."""

    def __init__(
        self,
        settings: Backend,
        exposition: Exposition,
        checkpoint: Checkpoint | None = None,
        *,
        freezes: bool = True,
    ) -> None:
        """`freezes`: the first poll leaves out of garbage collection what it has loaded."""
        self.settings = settings
        self.follower = Follower(settings, checkpoint)
        self.beat = Beat(settings, self.follower.database)
        self.polls = Polls(settings.name)
        self.tried = threading.Event()
        self._exposition = exposition
        without = self.follower.tally.relabelled.without
        self._fixed = Fixed(tuple(settings.extra_labels.items()), without)
        self._freezes = freezes
        self._stop = threading.Event()
        self.silent = False  # nothing is served any more
        self._publishing = threading.Lock()
        self._phase = 0.0  # monotonic; polls begin so many intervals from then on
        self._patient_until = float("inf")  # monotonic; later than this they are stuck
        self._published = 0.0

    def begin(self, phase: float) -> None:
        """Expect polls from now on, so many intervals from this moment on.

        By the monotonic clock; it may lie ahead.
        """
        self._phase = phase

    def restore(self) -> None:
        """Serve at once what the checkpoint has kept."""
        if self.follower.restore():
            self.publish()

    def succeed(self, old: Poller) -> None:
        """Go on from where another stands that has ended: the same backend, otherwise set up."""
        self.polls = old.polls
        self.beat.carry_on(old.beat)
        if not self.follower.database.is_that_of(old.follower.database):
            return
        if self.follower.carry_on(old.follower):
            self.publish()

    def run(self) -> float:
        """Poll; return when to poll again, by the monotonic clock."""
        started = time.monotonic()
        self.try_poll()
        now = time.monotonic()
        due = now + self._delay(now, now - started)
        self._patient_until = due + BEGIN_WITHIN
        return due

    def stop(self) -> None:
        """Ask a poll to end after the step it is in."""
        self._stop.set()

    def silence(self) -> None:
        """Serve nothing from now on, even if a poll goes on."""
        self.stop()
        with self._publishing:
            self.silent = True
            self._exposition.withdraw(self.settings.name)

    def close(self) -> None:
        """Discard the connections."""
        self.follower.database.close()
        self.beat.close()

    def stuck(self) -> bool:
        """Whether polls make no progress."""
        return time.monotonic() > self._patient_until

    def try_once(self) -> bool:
        """Poll for the only time."""
        self.follower.expect_no_later_poll()
        return self.try_poll()

    def try_poll(self) -> bool:
        """Poll once, take note of how it went, publish; return whether it worked."""
        started = time.monotonic()
        self.polls.begin()
        try:
            with minded(self._goes_on, self._limit):
                self._poll()
        except BackendAbsent as error:
            self._failed(error, 1)
        except BackendError as error:
            self._failed(error, self.polls.failures + 1)
        except Exception as error:  # noqa: BLE001  # our own: the other backends must go on
            self._failed(unexpected(error, Reason.QUERY), self.polls.failures + 1)
        else:
            duration = time.monotonic() - started
            self.polls.worked(duration, server(self.follower), self.follower.readers.waiting)
        self.publish()
        self._look_at_beat()
        self.tried.set()
        return bool(self.polls.up)

    def publish(self) -> None:
        """Serve what is known now."""
        made = samples(self.follower, self.polls, self.beat)
        with self._publishing:
            if not self.silent:
                self._exposition.publish(self.settings.name, made, self._fixed)
        self.follower.recent.oldest = self.follower.main.oldest()  # other threads must not ask
        self._published = time.monotonic()

    @property
    def status(self) -> BackendStatus:
        """What people want to know, made when they ask. Called from another thread."""
        return backend_status(self.follower, self.polls, self.beat, stuck=self.stuck())

    def _look_at_beat(self) -> None:
        """Results are served by now, and the next poll may wait for this."""
        if self._stop.is_set():
            return
        with minded(self._goes_on, self._limit):
            looked = self.beat.look(answering=bool(self.polls.up))
        if looked:
            self.publish()

    @property
    def _limit(self) -> float:
        """Seconds that one wait for a database may take."""
        return self.settings.connect_timeout + self.settings.query_timeout

    def _failed(self, error: BackendError, failures: int) -> None:
        self.polls.failed(error, failures)
        self.follower.pace.slow_down()

    def _delay(self, now: float, spent: float) -> float:
        """Seconds to the next poll: at a steady pace, or backing off."""
        interval = self.settings.poll_interval
        failures = self.polls.failures
        if not failures:
            return (self._phase - now) % interval if spent < interval else 0.0
        backoff = min(interval * 2.0 ** min(failures - 1, 16), LONGEST_BACKOFF)
        return max(interval, backoff) * random.uniform(0.9, 1.1)  # noqa: S311  # jitter

    def _goes_on(self, limit: float) -> None:
        """Be patient with the wait that begins now, and may take so long."""
        patience = limit + LATE + INTERVALS * self.settings.poll_interval
        self._patient_until = time.monotonic() + patience

    def _poll(self) -> None:
        """Read step by step until there is nothing left to read."""
        began = time.time()
        logged = time.monotonic()
        while True:
            if self.follower.go_on():
                self.publish()
            moved = self.follower.step()
            if self._freezes and not self.tried.is_set():
                gc.freeze()  # what a backlog leaves stays: to look at it again and again is slow
            # What falls due meanwhile is the next poll's: else a busy table's poll never ends.
            busy = moved and self.follower.busy(min(began, time.time()))
            if self._stop.is_set() or not busy:
                return
            if time.monotonic() - self._published >= PUBLISH_INTERVAL:
                self.publish()
            if time.monotonic() - logged >= PROGRESS_INTERVAL:
                logged = time.monotonic()
                self.follower.log_progress()
            with waiting():
                self._stop.wait(PAUSE_BETWEEN_STEPS)
