"""What a scheduler package is: the tables that it keeps beat's entries and their schedules in.

All that are known descend from django-celery, and so do the names of their columns.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from exporter.sql.kinds import Kind

Columns = Mapping[str, Kind]  # numbers and truths are read as the driver gives them

ENTRY: Columns = {
    "name": Kind.LABEL,
    "task": Kind.LABEL,
    "enabled": Kind.NUMBER,
    "last_run_at": Kind.MOMENT,
    "total_run_count": Kind.NUMBER,
    "date_changed": Kind.MOMENT,
    "one_off": Kind.NUMBER,
    "start_time": Kind.MOMENT,
    "expires": Kind.MOMENT,
}
REQUIRED = ("id", "name", "task", "enabled", "last_run_at", "total_run_count")

INTERVAL: Columns = {"every": Kind.NUMBER, "period": Kind.LABEL}
CRONTAB: Columns = dict.fromkeys(
    ("minute", "hour", "day_of_week", "day_of_month", "month_of_year", "timezone"), Kind.LABEL
)
SOLAR: Columns = {"event": Kind.LABEL, "latitude": Kind.NUMBER, "longitude": Kind.NUMBER}
CLOCKED: Columns = {"clocked_time": Kind.MOMENT}


class Schedules(NamedTuple):
    """One table of schedules."""

    table: str
    columns: Columns
    key: str  # the entries' column that has its id
    kind: str = ""  # what the entries' column `discriminator` says where `key` is of this table


class Package(NamedTuple):
    """One scheduler package."""

    name: str
    entries: str  # the table
    schedules: tuple[Schedules, ...]
    schemas: tuple[str | None, ...] = (None,)  # where its tables may be; None: the connection's own

    @property
    def tables(self) -> tuple[str, ...]:
        """All of them."""
        return (self.entries, *(each.table for each in self.schedules))
