"""The tables of django-celery-beat. Source: its models.py, 1.1 to 2.9."""

from __future__ import annotations

from exporter.backends.schedules import package
from exporter.backends.schedules.package import Package, Schedules

_OURS = "django_celery_beat_"

PACKAGE = Package(
    name="django-celery-beat",
    entries=f"{_OURS}periodictask",
    schedules=(
        Schedules(f"{_OURS}intervalschedule", package.INTERVAL, "interval_id"),
        Schedules(f"{_OURS}crontabschedule", package.CRONTAB, "crontab_id"),
        Schedules(f"{_OURS}solarschedule", package.SOLAR, "solar_id"),
        Schedules(f"{_OURS}clockedschedule", package.CLOCKED, "clocked_id"),
    ),
)
