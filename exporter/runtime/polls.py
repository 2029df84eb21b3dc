"""How the polls of one backend have gone: whether it is up, why not, how long they take."""

from __future__ import annotations

import logging
import time
import traceback
from collections import Counter, deque
from typing import NamedTuple

from exporter.errors import BackendAbsent, BackendError, Reason
from exporter.metrics import catalogue
from exporter.metrics.catalogue import Metric
from exporter.metrics.samples import Histogram, Sample

log = logging.getLogger(__name__)

MOST_OUTAGES = 20  # that are remembered, for people
ABSENT = "absent"  # no reason for an error yet: there is no database


class Outage(NamedTuple):
    """A time in which polls failed, Unix time, seconds."""

    since: float
    until: float | None  # None: it lasts
    message: str  # the last


class Polls:
    """Counts them, and logs what changes."""

    def __init__(self, backend: str) -> None:
        self.up: bool | None = None  # None: there was none yet
        self.since: float | None = None  # when it came up, or went down, Unix time
        self.message = "not tried yet"  # why it is down, or what it waits for
        self.reason = ""  # of the last that failed, one of Reason or ABSENT
        self.outages: deque[Outage] = deque(maxlen=MOST_OUTAGES)
        self.failures = 0  # in a row
        self.duration: float | None = None  # of the last that worked, seconds
        self.born = time.time()  # when counting them began
        self._backend = backend
        self._begun = 0
        self._errors: Counter[Reason] = Counter(dict.fromkeys(Reason, 0))
        self._durations = Histogram.empty(catalogue.POLL_BUCKETS)
        self._seen: set[object] = set()  # unexpected errors, by their place in code

    def begin(self) -> None:
        """Count one more."""
        self._begun += 1

    def worked(self, duration: float, server: str, waiting: str) -> None:
        """Take note of one that worked, though it may wait for a table."""
        if not self.up:
            log.info("backend is up", extra={"backend": self._backend, "server": server})
            self._turned(up=True)
        self.up, self.message, self.failures = True, waiting, 0
        self.duration = duration
        self._durations = self._durations.observe(duration)

    def failed(self, error: BackendError, failures: int) -> None:
        """Take note of one that failed, the how manyth in a row."""
        known = self.up is False and self.message == str(error)
        if self.up is not False:
            self._turned(up=False)
        self.outages[-1] = self.outages[-1]._replace(message=str(error))
        self.reason = ABSENT if isinstance(error, BackendAbsent) else error.reason.value
        self.up, self.message, self.failures = False, str(error), failures
        self._errors[error.reason] += 1
        level = logging.WARNING if not known or failures > 1 else logging.DEBUG
        fields = {"backend": self._backend, "reason": error.reason, "error": str(error)}
        log.log(level, "poll failed", extra=fields, exc_info=self._worth_a_look(error))

    def samples(self) -> dict[Metric, list[Sample]]:
        """Say all this as metrics."""
        samples = {
            catalogue.POLLS: [Sample((), self._begun, self.born)],
            catalogue.POLL_ERRORS: [
                Sample((reason.value,), count, self.born) for reason, count in self._errors.items()
            ],
            catalogue.POLL_DURATION: [Sample((), self._durations)],
        }
        if self.up is not None:
            samples[catalogue.UP] = [Sample((), float(self.up))]
        return samples

    def _turned(self, *, up: bool) -> None:
        self.since = time.time()
        if not up:
            self.outages.append(Outage(self.since, None, ""))
        elif self.outages:
            self.outages[-1] = self.outages[-1]._replace(until=self.since)

    def _worth_a_look(self, error: BackendError) -> BaseException | None:
        """Return what is behind an unexpected error, for who debugs any: once for each place."""
        cause = error.__cause__
        if cause is None or not (error.unexpected or log.isEnabledFor(logging.DEBUG)):
            return None
        innermost = traceback.extract_tb(cause.__traceback__, limit=-1)
        place = (type(cause), *((frame.filename, frame.lineno) for frame in innermost))
        new = place not in self._seen
        self._seen.add(place)
        return cause if new else None
