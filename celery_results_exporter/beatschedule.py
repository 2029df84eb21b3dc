"""What celery beat would send of an app: its schedule, as plain data."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from celery import schedules
from celery.beat import ScheduleEntry, Scheduler

from celery_results_exporter.answers import Answer, UnusableError, answered

if TYPE_CHECKING:
    from celery import Celery

_CRONTAB = ("minute", "hour", "day_of_week", "day_of_month", "month_of_year")
_OTHERWISE = "beat fails likewise; correct it"


def of_app(app: Celery, room: int) -> Answer:
    """Return the entries, or why there are none, in so many bytes of JSON; {}: none are set."""
    found = answered(lambda: _schedule(app), _OTHERWISE)
    if len(json.dumps(found)) <= room:
        return found
    if "fault" in found:
        return {"fault": found["fault"]}
    return {"fault": f"has {len(found['entries']):,} entries, too many to be handed over"}


def _schedule(app: Celery) -> Answer:
    """Import what beat imports, since that may add to the schedule, and read each entry."""
    app.loader.init_worker()
    app.finalize()
    planned = dict(app.conf.beat_schedule or {})
    if not planned:
        return {}
    beat = Scheduler(app, lazy=True)
    beat.install_default_entries(planned)
    entries: list[dict[str, Any]] = []
    faults: list[tuple[str, str]] = []
    for name, said in {**planned, **beat.schedule}.items():
        shown = str(name)
        try:
            entry = said if isinstance(said, ScheduleEntry) else _entry(app, name, said)
            shown = _without_arguments(shown, str(entry.task), {row["name"] for row in entries})
            entries.append({"name": shown, "task": str(entry.task), **dict(_when(entry.schedule))})
        except UnusableError as error:
            faults.append((shown, str(error)))
    return {"entries": entries, "faults": faults}


def _entry(app: Celery, name: str, said: Mapping[str, Any]) -> ScheduleEntry:
    try:
        return ScheduleEntry(**dict(said, name=name, app=app))
    except (TypeError, ValueError, AttributeError) as error:
        raise UnusableError(f"it is no entry of a beat_schedule: {error}") from None


def _without_arguments(name: str, task: str, taken: set[str]) -> str:
    """Return the name of an entry; one without a name has its task's call, with all arguments.

    That of a chain, which is a task of Celery's own, has those of its links.
    """
    is_call = name.startswith(f"{task}(") or (task.startswith("celery.") and "(" in name)
    if not is_call:
        return name
    plain = f"{task}(…)"
    names = (plain, *(f"{plain} {number}" for number in range(2, len(taken) + 2)))
    return next(one for one in names if one not in taken)


def _when(schedule: Any) -> Iterator[tuple[str, Any]]:
    """Yield what schedules have for columns; only Celery's own are known to be what they seem."""
    kind = type(schedule)
    if getattr(schedule, "nowfun", None) is not None:
        raise UnusableError("its schedule has a clock of its own (nowfun)")
    if kind is schedules.schedule:
        yield "every", schedule.run_every.total_seconds()
        yield "period", "seconds"
    elif kind is schedules.crontab:
        _, fields, *_ = schedule.__reduce__()
        yield from zip(_CRONTAB, map(_field, fields), strict=True)
        yield "timezone", str(schedule.tz)
    elif kind is schedules.solar:
        yield "event", schedule.event
        yield "latitude", schedule.lat
        yield "longitude", schedule.lon
    else:
        raise UnusableError(f"its schedule is a {kind.__name__}, which is not known here")


def _field(said: Any) -> str:
    """Return a field of a crontab as text: Celery takes numbers and collections of them, too."""
    return str(said) if isinstance(said, (str, int)) else ",".join(map(str, sorted(said)))
