"""PURE: when beat is to send what, by Celery's own schedules.

Those are imported where there is one, and not before: with them comes most of Celery.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from importlib.util import find_spec
from math import ceil
from typing import Any, Protocol
from zoneinfo import ZoneInfo

# Beat writes what it has sent every 180 seconds (Scheduler.sync_every in celery/beat.py), between
# two looks at what is due, which are 5 seconds apart. The rest is for a beat that has much to send
# and to write, or looks less often.
HIDDEN = 240.0  # seconds
MOMENTS_KEPT = 20_000  # that are computed once
CRONTABS_KEPT = 2_000  # Celery's take 3 KiB each

_EPOCH = datetime.fromtimestamp(0, UTC)
# By Celery, of schedules that make no sense, and of moments that no calendar has.
_RAISED = (ValueError, TypeError, LookupError, ArithmeticError, RuntimeError)


class Unreadable(Exception):  # noqa: N818  # says why, to the one who knows the name
    """An entry, or its schedule, cannot be understood."""


class Schedule(Protocol):
    """When something is due. All times are Unix times in seconds."""

    def after(self, run: float) -> float | None:
        """Return when it is due after it was sent; None: that cannot be computed here."""

    def since(self, due: float, moment: float) -> float | None:
        """Return when it is due at `moment` or next, where it is due at `due` and on time."""


@dataclass(frozen=True, slots=True)
class Interval:
    """Every so many seconds."""

    seconds: float

    def after(self, run: float) -> float:
        """Add them."""
        return run + self.seconds

    def since(self, due: float, moment: float) -> float:
        """Go on in steps."""
        return due + ceil((moment - due) / self.seconds) * self.seconds


@dataclass(frozen=True, slots=True)
class Crontab:
    """By the clock of a zone."""

    minute: str
    hour: str
    day_of_week: str
    day_of_month: str
    month_of_year: str
    zone: ZoneInfo

    def after(self, run: float) -> float:
        """Ask Celery."""
        return _after(self, run)

    def since(self, due: float, moment: float) -> float:
        """Ask Celery, too: it does not matter when it was sent."""
        del due
        return _after(self, moment)


@dataclass(frozen=True, slots=True)
class Solar:
    """By the sun, which needs the package ephem."""

    event: str
    latitude: float
    longitude: float

    def after(self, run: float) -> float | None:
        """Ask Celery, if ephem is there."""
        solar = celery_solar(self)
        if solar is None:
            return None
        return float(solar.remaining_estimate(datetime.fromtimestamp(run, UTC)).total_seconds())

    def since(self, due: float, moment: float) -> float | None:
        """Ask Celery, too: it does not matter when it was sent."""
        del due
        return self.after(moment)


@dataclass(frozen=True, slots=True)
class Clocked:
    """Once, at this time."""

    moment: float

    def after(self, run: float) -> float:
        """Return it, whenever that was."""
        del run
        return self.moment

    def since(self, due: float, moment: float) -> None:
        """Never again."""


@lru_cache(MOMENTS_KEPT)
def _after(crontab: Crontab, run: float) -> float:
    # What remains at the epoch is the Unix time.
    last = datetime.fromtimestamp(run, crontab.zone)
    return float(celery_crontab(crontab).remaining_estimate(last).total_seconds())


@lru_cache(CRONTABS_KEPT)
def celery_crontab(crontab: Crontab) -> Any:
    """Return Celery's; raise Unreadable where it takes this for none."""
    from celery.schedules import ParseException  # noqa: PLC0415
    from celery.schedules import crontab as celerys  # noqa: PLC0415

    try:
        made = celerys(
            minute=crontab.minute,
            hour=crontab.hour,
            day_of_week=crontab.day_of_week,
            day_of_month=crontab.day_of_month,
            month_of_year=crontab.month_of_year,
            nowfun=lambda: _EPOCH,
        )
        made.tz = crontab.zone
        made.remaining_estimate(_EPOCH.astimezone(crontab.zone))  # some never come
    except (ParseException, *_RAISED) as error:
        raise Unreadable(f"its crontab is none: {error}") from None
    return made


def celery_solar(solar: Solar) -> Any:
    """Return Celery's, None without ephem; raise Unreadable where it takes this for none."""
    from celery.exceptions import ImproperlyConfigured  # noqa: PLC0415
    from celery.schedules import solar as celerys  # noqa: PLC0415

    try:
        made = celerys(solar.event, solar.latitude, solar.longitude, nowfun=lambda: _EPOCH)
    except ImproperlyConfigured:
        return None
    except _RAISED as error:
        raise Unreadable(f"its solar schedule is none: {error}") from None
    made.tz = UTC
    return made


def has_ephem() -> bool:
    """Whether it can be known when a solar schedule is due."""
    return find_spec("ephem") is not None


@dataclass(frozen=True, slots=True)
class Entry:
    """One entry of beat's, as its tables have it. Times are Unix times in seconds."""

    name: str
    task: str
    schedule: Schedule
    enabled: bool
    last_run: float | None  # when it was sent last, as far as beat has written it
    runs: int  # how often it was sent, likewise
    changed: float | None = None  # when its row was written last
    one_off: bool = False
    start: float | None = None
    expires: float | None = None

    @property
    def once(self) -> bool:
        """Whether it is sent one time only."""
        return self.one_off or isinstance(self.schedule, Clocked)


@dataclass(frozen=True, slots=True)
class Due:
    """When an entry is to be sent next; None: nobody can tell."""

    next_run: float | None  # Unix time, seconds; in the past where it is overdue
    period: float | None  # seconds from then to the run after it; None as well: there is none
    overdue: float | None  # seconds


def due(entry: Entry, now: float) -> Due | None:
    """Return when an entry is due; None: never, or nobody can tell. Raise Unreadable.

    It is not overdue as long as it may have been sent, and not been written yet.
    """
    try:
        return _due(entry, now)
    except _RAISED as error:
        raise Unreadable(f"when it is due cannot be computed: {error}") from None


def planned(schedule: Schedule, now: float) -> Due:
    """Return when what has this schedule is due next, where nobody tells when it was sent.

    Raise Unreadable.
    """
    if isinstance(schedule, Interval):  # since when?
        return Due(None, schedule.seconds, None)
    try:
        moment = schedule.after(now)
        later = None if moment is None else schedule.after(moment)
    except _RAISED as error:
        raise Unreadable(f"when it is due cannot be computed: {error}") from None
    period = later - moment if moment is not None and later is not None else None
    return Due(moment, period, None)


def _due(entry: Entry, now: float) -> Due | None:
    if not entry.enabled or (entry.once and entry.runs):
        return None
    moment = _first(entry, now)
    if moment is not None and now - HIDDEN <= moment < now:
        following = None if entry.once else entry.schedule.since(moment, now)
        moment = None if following is None else max(following, now)
    if moment is None or (entry.expires is not None and moment >= entry.expires):
        return None
    later = None if entry.once else entry.schedule.after(moment)
    return Due(moment, None if later is None else later - moment, max(now - moment, 0.0))


def _first(entry: Entry, now: float) -> float | None:
    """Return when it is due after what is known of it, as beat sees that.

    Not before its row was changed: what is due then was not due under the schedule before.
    """
    # Django writes it in local time where USE_TZ is off.
    changed = entry.changed if entry.changed and entry.changed <= now else None
    known = changed if entry.last_run is None else entry.last_run
    first = None if known is None else entry.schedule.after(known)
    if entry.last_run is None and entry.start is not None:
        first = entry.start  # it is sent then, whatever its schedule says
    return first and max(first, changed or first, entry.start or first)
