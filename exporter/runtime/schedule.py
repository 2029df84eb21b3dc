"""Runs polls when they fall due, in as few threads as keep up with them.

Python runs one thread at a time, and each thread that is ready wakes every switch interval to ask
for that: two hundred that fall due together, one a backend, spend all there is on asking, and take
longer than their interval. So a thread goes from one poll to the next, and another joins it where
the first waits for a database, or takes long.
"""

from __future__ import annotations

import heapq
import itertools
import logging
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Protocol

from exporter.sql.waiting import share

log = logging.getLogger(__name__)

HELPER_INTERVAL = 0.005  # seconds between looks whether whoever works waits for a database
HELP_AFTER = 0.25  # seconds; then another thread joins, even if those at work compute
SPARE = 2  # threads that stay although there is nothing to do


class Job(Protocol):
    """Something to do again and again, by one thread at a time."""

    def run(self) -> float:
        """Do it; return when to do it again, by the monotonic clock."""

    def close(self) -> None:
        """End it: it is not done again."""


@dataclass(order=True, slots=True)
class _Due:
    moment: float
    number: int  # those of one moment keep their order
    job: Job = field(compare=False)


class Schedule:
    """Runs jobs until it is stopped."""

    def __init__(self, jobs: Iterable[Job]) -> None:
        now = time.monotonic()
        self._numbers = itertools.count()
        self._jobs = [_Due(now, next(self._numbers), job) for job in jobs]  # a heap
        self._changed = threading.Condition()
        self._threads = 0
        self._busy = 0  # of these, those that have a job
        self._computing = 0  # of these, those that do not wait
        self._began = now  # when a job was begun last
        self._stopping = False
        self._retired: dict[Job, Callable[[], None]] = {}  # and what to do once they are closed

    def start(self) -> None:
        """Begin with all jobs, in their order."""
        with self._changed:
            self._join_in()

    def add(self, job: Job) -> None:
        """Run one more, from now on."""
        with self._changed:
            heapq.heappush(self._jobs, _Due(time.monotonic(), next(self._numbers), job))
            self._changed.notify()

    def retire(self, job: Job, then: Callable[[], None]) -> None:
        """Close a job instead of running it again, and do `then`, in the thread that closes it."""
        with self._changed:
            self._retired[job] = then
            for due in self._jobs:
                if due.job is job:
                    due.moment = time.monotonic()
            heapq.heapify(self._jobs)
            self._changed.notify()

    def stop(self) -> None:
        """Close each job instead of running it again."""
        with self._changed:
            self._stopping = True
            self._changed.notify_all()

    def join(self, timeout: float) -> bool:
        """Wait until all jobs are closed, `timeout` seconds at most; say whether they are."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._threads, timeout)

    # -- the threads -------------------------------------------------------------------------

    def _join_in(self) -> None:
        threading.Thread(target=self._work, name="poll", daemon=True).start()
        self._threads += 1

    def _work(self) -> None:
        share(self._computes)
        while (job := self._next()) is not None:
            if self._stopping:
                job.close()
            else:
                self._run(job)

    def _run(self, job: Job) -> None:
        due = None
        try:
            if (then := self._retired.pop(job, None)) is None:
                due = job.run()
            else:
                job.close()
                then()
        except Exception:
            log.exception("a poll broke off, and is not tried again")
        with self._changed:
            self._busy -= 1
            self._computing -= 1
            if due is not None:
                due = time.monotonic() if job in self._retired else due
                heapq.heappush(self._jobs, _Due(due, next(self._numbers), job))
            self._changed.notify()

    def _next(self) -> Job | None:
        """Wait until a job is to be run, or, when stopping, closed; None: leave."""
        with self._changed:
            job = self._choose()
            if job is None:
                self._threads -= 1
                self._changed.notify_all()
            return job

    def _choose(self) -> Job | None:
        while (wait := self._wait(time.monotonic())) is None or wait > 0:
            if self._threads - self._busy > SPARE:
                return None
            self._changed.wait(wait)
        if self._stopping:
            return heapq.heappop(self._jobs).job if self._jobs else None
        self._began = time.monotonic()
        self._busy += 1
        self._computing += 1
        if self._threads == self._busy:
            with suppress(RuntimeError):  # the system allows no more: those at work come back
                self._join_in()
        return heapq.heappop(self._jobs).job

    def _wait(self, now: float) -> float | None:
        """Return the seconds until a job may begin, None where that is not known."""
        if self._stopping:
            return 0.0
        if not self._jobs:
            return None
        late = now - self._jobs[0].moment
        if late < 0:
            return -late
        return min(HELPER_INTERVAL, self._began + HELP_AFTER - now) if self._computing else 0.0

    def _computes(self, threads: int) -> None:
        with self._changed:
            self._computing += threads
