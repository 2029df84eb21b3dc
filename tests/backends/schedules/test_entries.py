"""What rows of beat's tables mean, and what is said of those that mean nothing."""

from __future__ import annotations

from typing import Any
from zoneinfo import ZoneInfo

import pytest

from exporter.backends.schedules.due import Clocked, Crontab, Interval, Schedule, Solar
from exporter.backends.schedules.entries import understood
from exporter.backends.schedules.reader import NOTHING

CRONTAB = dict.fromkeys(("minute", "hour", "day_of_week", "day_of_month", "month_of_year"), "*")


def row(name: str = "e", **columns: Any) -> dict[str, Any]:
    given = {"name": name, "task": "t", "enabled": 1, "total_run_count": 0}
    return {**NOTHING, **given, **columns}


@pytest.mark.parametrize(
    ("columns", "schedule"),
    [
        ({"every": 2, "period": "days"}, Interval(172_800.0)),
        ({"every": 1500, "period": "microseconds"}, Interval(0.0015)),
        (CRONTAB, Crontab(*"*****", zone=ZoneInfo("UTC"))),
        (CRONTAB | {"timezone": "Asia/Tokyo"}, Crontab(*"*****", zone=ZoneInfo("Asia/Tokyo"))),
        ({"event": "sunset", "latitude": 1, "longitude": 2}, Solar("sunset", 1.0, 2.0)),
        ({"clocked_time": 5.0}, Clocked(5.0)),
    ],
)
def test_schedules(columns: dict[str, Any], schedule: Schedule) -> None:
    (entry,), faults = understood([row(**columns)])
    assert repr(entry.schedule) == repr(schedule)  # zones of one name may be two objects
    assert not faults


@pytest.mark.parametrize(
    ("columns", "why"),
    [
        ({}, "it has no schedule"),
        ({"every": 1, "period": "weeks"}, "its period 'weeks' is no unit"),
        ({"every": 0, "period": "days"}, "it is due every 0 s"),
        ({"every": "often", "period": "days"}, "a column holds what it cannot"),
        (CRONTAB | {"minute": "61"}, "its crontab is none: "),
        (CRONTAB | {"minute": "*/0"}, "its crontab is none: "),
        (CRONTAB | {"day_of_week": ""}, "its crontab is none: "),
        (CRONTAB | {"day_of_month": "30", "month_of_year": "2"}, "its crontab is none: "),
        (CRONTAB | {"timezone": "Mars/Olympus"}, "its time zone 'Mars/Olympus' is not known"),
        (CRONTAB | {"timezone": "../etc/passwd"}, "its time zone '../etc/passwd' is not known"),
        ({"event": "eclipse", "latitude": 1, "longitude": 2}, "its solar schedule is none: "),
        ({"event": "sunset", "latitude": 91, "longitude": 2}, "its solar schedule is none: "),
        ({"every": 1, "period": "days", "total_run_count": "x"}, "a column holds what it cannot"),
    ],
)
def test_what_cannot_be_read_is_told_and_disturbs_nothing(
    columns: dict[str, Any], why: str
) -> None:
    well = row("well", every=1, period="days")
    entries, (fault,) = understood([row("bad", **columns), well])
    assert [entry.name for entry in entries] == ["well"]
    assert fault.name == "bad"
    assert fault.why.startswith(why)


def test_runs_are_what_a_sample_can_hold() -> None:
    counts = (-1, None, 5, "9" * 400)
    rows = [
        row(str(n), every=1, period="days", total_run_count=count) for n, count in enumerate(counts)
    ]
    assert [entry.runs for entry in understood(rows)[0]] == [0, 0, 5, 2**53]


def test_two_of_one_name() -> None:
    entries, (fault,) = understood([row(every=1, period="days"), row(every=2, period="days")])
    assert [entry.schedule for entry in entries] == [Interval(86_400.0)]
    assert fault == ("e", "another entry has the same name")
