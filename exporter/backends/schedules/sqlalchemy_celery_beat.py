"""The tables of sqlalchemy-celery-beat. Source: its models.py and session.py, 0.5 to 0.9."""

from __future__ import annotations

from exporter.backends.schedules import package
from exporter.backends.schedules.package import Package, Schedules

_KEY = "schedule_id"

PACKAGE = Package(
    name="sqlalchemy-celery-beat",
    entries="celery_periodictask",
    schedules=(
        Schedules("celery_intervalschedule", package.INTERVAL, _KEY, "intervalschedule"),
        Schedules("celery_crontabschedule", package.CRONTAB, _KEY, "crontabschedule"),
        Schedules("celery_solarschedule", package.SOLAR, _KEY, "solarschedule"),
        Schedules("celery_clockedschedule", package.CLOCKED, _KEY, "clockedschedule"),
    ),
    # Its models say the one, and its setting beat_schema, which is None by default, another.
    schemas=(None, "celery_schema"),
)
