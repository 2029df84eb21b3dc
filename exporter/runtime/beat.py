"""What celery beat is to send, and has sent, as its tables say: looked at once a minute.

It stands beside the counting of results, which goes on whatever becomes of this.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import NamedTuple

from exporter.backends.database import Database
from exporter.backends.schedules.due import (
    Due,
    Entry,
    Schedule,
    Solar,
    Unreadable,
    due,
    has_ephem,
    synced,
)
from exporter.backends.schedules.entries import Fault, understood
from exporter.backends.schedules.reader import MOST_ENTRIES, Found, Reader
from exporter.config.settings import Backend
from exporter.errors import BackendError, Reason
from exporter.metrics import catalogue
from exporter.metrics.catalogue import Metric
from exporter.metrics.samples import Sample
from exporter.sql.connection import unexpected

log = logging.getLogger(__name__)

LOOK_INTERVAL = 60.0  # seconds
MOST_LOGGED = 20  # entries that cannot be read, at a look

NO_RIGHT = "no right to read the tables of celery beat: GRANT SELECT on them to this account"
NO_TABLES = (
    "there are no tables of celery beat: see whether beat_database and beat_schema name those of "
    "django-celery-beat or sqlalchemy-celery-beat"
)


@dataclass(frozen=True, slots=True)
class Seen:
    """One entry as of the last look."""

    entry: Entry
    due: Due | None
    runs: int  # counted: never fewer than before


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
    def overdue(self) -> list[Seen]:
        """Those that have missed a second run, too, the worst first."""
        late = [
            each
            for each in self.seen
            if each.due and each.due.period and each.due.overdue > each.due.period
        ]
        return sorted(late, key=lambda each: each.due.next_run if each.due else 0.0)


class _Known(NamedTuple):
    """What is remembered of an entry from one look to the next."""

    schedule: Schedule
    since: float  # when that was first seen; 0: it was there before we were
    number: int  # of runs, as the table had it
    runs: int  # counted


class Beat:
    """Follows the tables of one backend's beat, if there are any."""

    def __init__(self, settings: Backend, results: Database) -> None:
        """`results`: whose connection will do, unless another database is configured."""
        own = settings.beat()
        self.last: Look | None = None  # None: there are no tables
        self.samples: dict[Metric, list[Sample]] = {}
        self._backend = settings.name
        self._own = own is not None
        self._database = results if own is None else Database(own)
        self._reader = Reader(self._database.dialect, settings.beat_schema)
        self._due = 0.0  # monotonic
        self._known: dict[str, _Known] = {}
        self._told: set[Fault] = set()
        self._told_forbidden = self._told_ephem = False

    def carry_on(self, old: Beat) -> None:
        """Go on counting where another stands."""
        self._known = old._known

    def look(self, *, answering: bool) -> bool:
        """Look if it is time to; say whether that was done.

        `answering`: whether the database of the results does.
        """
        now = time.monotonic()
        if now < self._due or not (answering or self._own):
            return False
        self._due = now + LOOK_INTERVAL
        look = self.now()
        self._tell(look)
        self.last, self.samples = look, _samples(look) if look else {}
        return True

    def now(self) -> Look | None:
        """Look at once, and tell nobody; None: there are no tables."""
        try:
            found = self._read()
            return self._understood(found, time.time()) if found else self._nothing()
        except BackendError as error:
            return self._unread(str(error))
        except Exception as error:  # noqa: BLE001  # our own: results are to be counted
            return self._unread(str(unexpected(error, Reason.QUERY)))

    def _read(self) -> Found | None:
        with self._database.connected() as connection:
            found = self._reader.read(connection)
        if self._own:
            self._database.close()  # until the next minute
        return found

    def close(self) -> None:
        """Discard a connection of its own."""
        if self._own:
            self._database.close()

    def _nothing(self) -> Look | None:
        """Say what it means that nothing is there, or may be read: much, if it was asked for."""
        self._known.clear()
        if not self._own:
            return None
        return Look(up=False, message=NO_RIGHT if self._reader.forbidden else NO_TABLES)

    def _unread(self, message: str) -> Look | None:
        """Keep what was seen last. What may not be there, and was not asked for, is not missed."""
        if not self._own and not self._reader.there:
            log.debug(message, extra={"backend": self._backend})
            return None
        return replace(self.last or Look(up=False), up=False, message=message)

    def _understood(self, found: Found, now: float) -> Look:
        if found.count > MOST_ENTRIES:
            message = f"there are {found.count:,} entries, and at most {MOST_ENTRIES:,} are read"
            return Look(up=False, message=message, package=found.package, count=found.count)
        entries, faults = understood(found.rows)
        before, self._known = self._known, {}
        written = synced(entries, now)
        seen = []
        for entry in entries:
            known = _known(entry, before, now)
            self._known[entry.name] = known
            changed = max(entry.changed or 0.0, known.since) or None
            try:
                when = due(replace(entry, changed=changed), written, now)
            except Unreadable as error:
                faults.append(Fault(entry.name, str(error)))
                continue
            seen.append(Seen(entry, when, known.runs))
        return Look(
            up=True,
            package=found.package,
            count=found.count,
            seen=tuple(seen),
            faults=tuple(faults),
        )

    # -- for people --------------------------------------------------------------------------

    def _tell(self, look: Look | None) -> None:
        """Log what has changed."""
        fields = {"backend": self._backend}
        before = self.last
        if look is None:
            if self._reader.forbidden and not self._told_forbidden:
                log.info(NO_RIGHT, extra=fields)
            self._told_forbidden = self._reader.forbidden
            return
        if not look.up:
            if before is None or before.message != look.message:
                more = {"error": look.message}
                log.warning("schedules of celery beat are not read", extra={**fields, **more})
            return
        if before is None or not before.up:
            found = {"package": look.package, "entries": look.count}
            log.info("schedules of celery beat are read", extra={**fields, **found})
        self._tell_faults(look.faults, fields)
        solar = any(isinstance(each.entry.schedule, Solar) for each in look.seen)
        if solar and not self._told_ephem and not has_ephem():
            self._told_ephem = True
            log.warning(
                "solar schedules need the package ephem: pip install ephem; until then nobody "
                "knows when their entries are due",
                extra=fields,
            )

    def _tell_faults(self, faults: Iterable[Fault], fields: dict[str, str]) -> None:
        before, self._told = self._told, set(faults)
        new = [fault for fault in faults if fault not in before]
        for fault in new[:MOST_LOGGED]:
            log.warning(
                "an entry of celery beat cannot be read",
                extra={**fields, "entry": fault.name, "error": fault.why},
            )
        if (more := len(new) - MOST_LOGGED) > 0:
            log.warning("and %d more entries", more, extra=fields)


def _known(entry: Entry, before: Mapping[str, _Known], now: float) -> _Known:
    """Return what is to be remembered of an entry: a number that falls began again at 0."""
    old = before.get(entry.name)
    if old is None:
        return _Known(entry.schedule, 0.0, entry.runs, entry.runs)
    since = old.since if old.schedule == entry.schedule else now
    more = entry.runs - old.number if entry.runs >= old.number else entry.runs
    return _Known(entry.schedule, since, entry.runs, old.runs + more)


# -- metrics -------------------------------------------------------------------------------------


def _samples(look: Look) -> dict[Metric, list[Sample]]:
    made: dict[Metric, list[Sample]] = {catalogue.BEAT_UP: [Sample((), float(look.up))]}
    if look.package:
        made[catalogue.BEAT_ENTRIES] = [Sample((), look.count)]
        made[catalogue.BEAT_UNREADABLE] = [Sample((), len(look.faults))]
    for metric, labels, value in _of_entries(look.seen):
        made.setdefault(metric, []).append(Sample(labels, value))
    return made


def _of_entries(seen: Iterable[Seen]) -> Iterator[tuple[Metric, tuple[str, str], float]]:
    for each in seen:
        entry, when = each.entry, each.due
        labels = (entry.name, entry.task)
        yield catalogue.ENTRY_ENABLED, labels, float(entry.enabled)
        yield catalogue.ENTRY_RUNS, labels, each.runs
        if entry.last_run is not None:
            yield catalogue.ENTRY_LAST_RUN, labels, entry.last_run
        if when is not None:
            yield catalogue.ENTRY_NEXT_RUN, labels, when.next_run
            yield catalogue.ENTRY_OVERDUE, labels, when.overdue
            if when.period is not None:
                yield catalogue.ENTRY_PERIOD, labels, when.period
