"""What looks at the tables of celery beat have found: entries, when they are due, what is wrong."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import NamedTuple

from exporter.backends.schedules.due import (
    Due,
    Entry,
    Schedule,
    Solar,
    Unreadable,
    due,
    has_ephem,
    planned,
)
from exporter.backends.schedules.entries import Fault, understood
from exporter.backends.schedules.reader import MOST_ENTRIES, NOTHING, Found, Reader
from exporter.config.settings import BeatSchedule
from exporter.metrics import catalogue
from exporter.metrics.catalogue import Metric
from exporter.metrics.samples import Sample
from exporter.sql.dialects import Dialect

log = logging.getLogger(__name__)

APP = "beat_schedule"  # in place of a package's tables, the setting of an app
MOST_LOGGED = 20  # entries that cannot be read, at a look


@dataclass(frozen=True, slots=True)
class Seen:
    """One entry as of the last look."""

    entry: Entry
    due: Due | None
    runs: int | None  # counted: never fewer than before; None: nobody tells


@dataclass(frozen=True, slots=True)
class Look:
    """What a look has found."""

    up: bool
    message: str = ""  # why the tables were not read
    package: str = ""
    count: int = 0
    seen: tuple[Seen, ...] = ()
    faults: tuple[Fault, ...] = ()

    @property
    def overdue(self) -> list[tuple[Entry, float]]:
        """Those that have missed a second run, too, with when they were due, the worst first."""
        late = [
            (each.entry, when.next_run)
            for each in self.seen
            if (when := each.due) and when.next_run and when.period
            if (when.overdue or 0.0) > when.period
        ]
        return sorted(late, key=lambda each: each[1])

    @property
    def tells(self) -> bool:
        """Whether it says what was sent, and so what is overdue."""
        return self.package != APP


class _Known(NamedTuple):
    """What is remembered of an entry from one look to the next."""

    schedule: Schedule
    since: float  # when that was first seen; 0: it was there before we were
    number: int  # of runs, as the table had it
    runs: int  # counted


class Looks:
    """The last look, and what is remembered of those before."""

    def __init__(self, dialect: Dialect) -> None:
        self.reader = Reader(dialect)
        self.last: Look | None = None
        self._known: dict[str, _Known] = {}
        self._told = Look(up=True)
        self._told_ephem = False

    def carry_on(self, old: Looks) -> None:
        """Go on counting where another stands."""
        self._known = old._known

    def forget(self) -> None:
        """Take note that there are no tables any more."""
        self.last = None
        self._known.clear()

    def missing(self, message: str) -> None:
        """Take note that there are none, and that somebody misses them."""
        self.forget()
        self.failed(message)

    def failed(self, message: str) -> None:
        """Keep what was seen last."""
        self.last = replace(self.last or Look(up=False), up=False, message=message)

    def understand(self, found: Found, now: float) -> None:
        """Take what was read at `now`, Unix time."""
        self.last = Look(up=True, package=found.package, count=found.count)
        if found.count > MOST_ENTRIES:
            few = f"at most {MOST_ENTRIES:,} are read: delete those that are not needed any more"
            self.failed(f"there are {found.count:,} entries, and {few}")
            return
        entries, faults = understood(found.rows)
        before, self._known = self._known, {}
        seen = []
        for entry in entries:
            known = self._known[entry.name] = _known(entry, before, now)
            changed = max(entry.changed or 0.0, known.since) or None
            try:
                when = due(replace(entry, changed=changed), now)
            except Unreadable as error:
                faults.append(Fault(entry.name, str(error)))
            else:
                seen.append(Seen(entry, when, known.runs))
        self.last = replace(self.last, seen=tuple(seen), faults=tuple(faults))

    def plan(self, schedule: BeatSchedule, now: float) -> None:
        """Take what an app has set, as of `now`, Unix time: it does not say what was sent."""
        self._known.clear()
        if schedule.fault:
            self.last = Look(up=False, message=schedule.fault)
            return
        rows = [{**NOTHING, "enabled": True, **row} for row in schedule.entries]
        entries, faults = understood(rows)
        faults += (Fault(*fault) for fault in schedule.faults)
        seen = []
        for entry in entries:
            try:
                seen.append(Seen(entry, planned(entry.schedule, now), None))
            except Unreadable as error:
                faults.append(Fault(entry.name, str(error)))
        self.last = Look(
            up=True,
            package=APP,
            count=len(rows) + len(schedule.faults),
            seen=tuple(seen),
            faults=tuple(faults),
        )

    # -- for people --------------------------------------------------------------------------

    def tell(self, backend: str) -> None:
        """Log what has changed since it was told."""
        before, look = self._told, self.last
        if look is None:
            return
        self._told = look
        if not look.up:
            if before.message != look.message:
                log.warning(
                    "schedules of celery beat are not read",
                    extra={"backend": backend, "error": look.message},
                )
            return
        if not (before.up and before.package):
            log.info(
                "schedules of celery beat are read",
                extra={"backend": backend, "package": look.package, "entries": look.count},
            )
        self._tell_faults(backend, set(before.faults), look.faults)
        solar = any(isinstance(each.entry.schedule, Solar) for each in look.seen)
        if solar and not self._told_ephem and not has_ephem():
            self._told_ephem = True
            log.warning(
                "solar schedules need the package ephem: pip install ephem; until then nobody "
                "knows when their entries are due",
                extra={"backend": backend},
            )

    def _tell_faults(self, backend: str, told: set[Fault], faults: Iterable[Fault]) -> None:
        new = [fault for fault in faults if fault not in told]
        for fault in new[:MOST_LOGGED]:
            log.warning(
                "an entry of celery beat cannot be read",
                extra={"backend": backend, "entry": fault.name, "error": fault.why},
            )
        if (more := len(new) - MOST_LOGGED) > 0:
            log.warning("and %d more entries", more, extra={"backend": backend})

    def samples(self) -> dict[Metric, list[Sample]]:
        """Say all this as metrics."""
        look = self.last
        if look is None:
            return {}
        made: dict[Metric, list[Sample]] = {catalogue.BEAT_UP: [Sample((), float(look.up))]}
        if look.package:
            made[catalogue.BEAT_ENTRIES] = [Sample((), look.count)]
            made[catalogue.BEAT_UNREADABLE] = [Sample((), len(look.faults))]
        for metric, labels, value in _of_entries(look.seen):
            made.setdefault(metric, []).append(Sample(labels, value))
        return made


def _known(entry: Entry, before: Mapping[str, _Known], now: float) -> _Known:
    """Return what is to be remembered of an entry: a number that falls began again at 0."""
    old = before.get(entry.name)
    if old is None:
        return _Known(entry.schedule, 0.0, entry.runs, entry.runs)
    since = old.since if old.schedule == entry.schedule else now
    more = entry.runs - old.number if entry.runs >= old.number else entry.runs
    return _Known(entry.schedule, since, entry.runs, old.runs + more)


def _of_entries(seen: Iterable[Seen]) -> Iterator[tuple[Metric, tuple[str, str], float]]:
    for each in seen:
        entry, when = each.entry, each.due
        labels = (entry.name, entry.task)
        yield catalogue.ENTRY_ENABLED, labels, float(entry.enabled)
        if each.runs is not None:
            yield catalogue.ENTRY_RUNS, labels, each.runs
        if entry.last_run is not None:
            yield catalogue.ENTRY_LAST_RUN, labels, entry.last_run
        if when is not None:
            for metric, value in (
                (catalogue.ENTRY_NEXT_RUN, when.next_run),
                (catalogue.ENTRY_OVERDUE, when.overdue),
                (catalogue.ENTRY_PERIOD, when.period),
            ):
                if value is not None:
                    yield metric, labels, value
