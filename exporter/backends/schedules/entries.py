"""PURE: rows of beat's tables -> its entries, each with its schedule; what is wrong with others."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple
from zoneinfo import ZoneInfo

from exporter.backends.schedules.due import (
    Clocked,
    Crontab,
    Entry,
    Interval,
    Schedule,
    Solar,
    Unreadable,
    celery_crontab,
    celery_solar,
)
from exporter.durations import parse_zone
from exporter.metrics.samples import LARGEST_COUNT
from exporter.printable import LONGEST_NAME, printable

Row = Mapping[str, Any]  # by column; None: NULL, or there is no such column

UNITS = {"days": 86_400.0, "hours": 3600.0, "minutes": 60.0, "seconds": 1.0, "microseconds": 1e-6}


class Fault(NamedTuple):
    """Why an entry cannot be read."""

    name: str
    why: str


def understood(rows: Iterable[Row]) -> tuple[list[Entry], list[Fault]]:
    """Return the entries, and what is wrong with those that cannot be read."""
    entries: dict[str, Entry] = {}
    faults = []
    for row in rows:
        name = row["name"] or ""
        if name in entries:
            faults.append(Fault(name, "another entry has the same name"))
            continue
        try:
            entries[name] = _entry(name, row)
        except Unreadable as error:
            faults.append(Fault(name, str(error)))
        except (TypeError, ValueError, OverflowError) as error:
            faults.append(Fault(name, f"a column holds what it cannot: {error}"))
    return [*entries.values()], faults


def _entry(name: str, row: Row) -> Entry:
    return Entry(
        name=name,
        task=row["task"] or "",
        schedule=_schedule(row),
        enabled=bool(row["enabled"]),
        last_run=row["last_run_at"],
        runs=min(max(int(row["total_run_count"] or 0), 0), LARGEST_COUNT),
        changed=row["date_changed"],
        one_off=bool(row["one_off"]),
        start=row["start_time"],
        expires=row["expires"],
    )


def _schedule(row: Row) -> Schedule:
    """Return the first that there is, as beat does."""
    if row["every"] is not None:
        return _interval(row)
    if row["minute"] is not None:
        crontab = Crontab(
            minute=row["minute"],
            hour=row["hour"] or "",
            day_of_week=row["day_of_week"] or "",
            day_of_month=row["day_of_month"] or "",
            month_of_year=row["month_of_year"] or "",
            zone=_zone(row["timezone"] or "UTC"),
        )
        celery_crontab(crontab)
        return crontab
    if row["event"] is not None:
        solar = Solar(row["event"], float(row["latitude"]), float(row["longitude"]))
        celery_solar(solar)
        return solar
    if row["clocked_time"] is not None:
        return Clocked(row["clocked_time"])
    raise Unreadable("it has no schedule")


def _interval(row: Row) -> Interval:
    unit = UNITS.get(row["period"] or "")
    if unit is None:
        raise Unreadable(f"its period {printable(row['period'] or '', LONGEST_NAME)!r} is no unit")
    seconds = float(row["every"]) * unit
    if not 0 < seconds < float("inf"):
        raise Unreadable(f"it is due every {seconds:g} s")
    return Interval(seconds)


def _zone(name: str) -> ZoneInfo:
    try:
        return parse_zone(name)
    except ValueError:
        raise Unreadable(f"its time zone {printable(name, LONGEST_NAME)!r} is not known") from None
