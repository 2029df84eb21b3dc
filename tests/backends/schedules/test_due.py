"""When an entry is due, and overdue, by what beat has written."""

from __future__ import annotations

import heapq
from dataclasses import replace
from datetime import datetime
from typing import TYPE_CHECKING, Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from exporter.backends.schedules.due import (
    HIDDEN,
    Clocked,
    Crontab,
    Due,
    Entry,
    Interval,
    Schedule,
    Solar,
    due,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

UTC, PARIS, KATHMANDU = ZoneInfo("UTC"), ZoneInfo("Europe/Paris"), ZoneInfo("Asia/Kathmandu")
HOUR = 3600.0


def at(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()


NOON = at("2026-03-10T12:00:00+00:00")


def crontab(hour: str = "*", zone: ZoneInfo = UTC, **fields: str) -> Crontab:
    every = dict.fromkeys(("day_of_week", "day_of_month", "month_of_year"), "*")
    return Crontab(**({"minute": "0", **every} | fields), hour=hour, zone=zone)


def entry(schedule: Schedule, last_run: float | None = NOON, **fields: Any) -> Entry:
    runs = 0 if last_run is None else 1
    return Entry(**({"name": "e", "task": "t", "enabled": True, "runs": runs} | fields),
                 schedule=schedule, last_run=last_run)  # fmt: skip


# -- schedules -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("schedule", "run", "expected"),
    [
        (crontab("3"), "2026-03-10T12:00:00+00:00", "2026-03-11T03:00:00+00:00"),
        (crontab("3", KATHMANDU), "2026-03-10T12:00:00+00:00", "2026-03-10T21:15:00+00:00"),
        # The clock goes from 2 to 3 on the 29th, and from 3 to 2 on 25 October.
        (crontab("4", PARIS), "2026-03-28T04:00:00+01:00", "2026-03-29T04:00:00+02:00"),
        (crontab("4", PARIS), "2026-10-24T04:00:00+02:00", "2026-10-25T04:00:00+01:00"),
        (crontab("9", day_of_week="mon-fri"), "2026-03-13T09:00:01+00:00",
         "2026-03-16T09:00:00+00:00"),
        (crontab("0", day_of_month="29", month_of_year="2"), "2026-03-10T12:00:00+00:00",
         "2028-02-29T00:00:00+00:00"),
        (crontab("*/6", minute="30"), "2026-03-10T06:30:00+00:00", "2026-03-10T12:30:00+00:00"),
        (Interval(90.0), "2026-03-10T12:00:00+00:00", "2026-03-10T12:01:30+00:00"),
        (Clocked(NOON), "2026-03-11T12:00:00+00:00", "2026-03-10T12:00:00+00:00"),
        (Solar("solar_noon", 48.85, 2.35), "2026-03-10T12:30:00+00:00",
         "2026-03-11T12:00:39+00:00"),
    ],
)  # fmt: skip
def test_due_after_a_run(schedule: Schedule, run: str, expected: str) -> None:
    after = schedule.after(at(run))
    assert after == pytest.approx(at(expected), abs=60 if isinstance(schedule, Solar) else 0)


# -- entries -------------------------------------------------------------------------------------

HOURLY = Interval(HOUR)


@pytest.mark.parametrize(
    ("given_entry", "minutes", "expected"),
    [
        (entry(HOURLY), 59, Due(NOON + HOUR, HOUR, 0.0)),
        (entry(HOURLY), 63, Due(NOON + 2 * HOUR, HOUR, 0.0)),  # it may have been sent
        (entry(HOURLY), 65, Due(NOON + HOUR, HOUR, 300.0)),  # it would show
        (entry(Interval(5.0)), 4, Due(NOON + 240, 5.0, 0.0)),
        (entry(Interval(5.0)), 5, Due(NOON + 5, 5.0, 295.0)),
        (entry(HOURLY, enabled=False), 65, None),
        (entry(HOURLY, one_off=True), 65, None),  # it was sent
        (entry(HOURLY, None, changed=NOON), 65, Due(NOON + HOUR, HOUR, 300.0)),
        (entry(HOURLY, None, changed=NOON, one_off=True), 63, None),  # nobody can tell
        (entry(HOURLY, None, changed=NOON, one_off=True), 65, Due(NOON + HOUR, None, 300.0)),
        (entry(HOURLY, None), 65, None),  # nobody knows since when
        (entry(HOURLY, expires=NOON + HOUR), 30, None),
        (entry(HOURLY, start=NOON + 2 * HOUR), 65, Due(NOON + 2 * HOUR, HOUR, 0.0)),
        (entry(crontab("3"), None, changed=NOON, start=NOON + HOUR), 30,
         Due(NOON + HOUR, 14 * HOUR, 0.0)),  # beat sends it then, whatever the hour
        (entry(crontab("13")), 65, Due(NOON + HOUR, 24 * HOUR, 300.0)),
        (entry(Clocked(NOON + HOUR), None, changed=NOON, one_off=True), 30,
         Due(NOON + HOUR, None, 0.0)),
        (entry(HOURLY, changed=NOON + 9 * HOUR), 65, Due(NOON + HOUR, HOUR, 300.0)),
        # Edited at half past twelve, from daily to hourly: beat has sent it then.
        (entry(HOURLY, NOON - 20 * HOUR, changed=NOON + 1800.0), 33,
         Due(NOON + 1800.0 + HOUR, HOUR, 0.0)),
        (entry(HOURLY, NOON - 20 * HOUR, changed=NOON + 1800.0), 35,
         Due(NOON + 1800.0, HOUR, 300.0)),
    ],
)  # fmt: skip
def test_due(given_entry: Entry, minutes: float, expected: Due | None) -> None:
    assert due(given_entry, NOON + minutes * 60) == expected


# -- a beat --------------------------------------------------------------------------------------

LOOP = 5.0  # seconds between two looks of beat's at what is due
SYNC_EVERY = 180.0


def beat(schedules: Sequence[Schedule], until: float) -> Iterator[tuple[float, list[Entry]]]:
    """Do what celery/beat.py does; yield each time that it writes, with what it has written."""
    entries = [entry(each, None, name=str(n), changed=NOON) for n, each in enumerate(schedules)]
    heap = [(schedule.after(NOON) or 0.0, number) for number, schedule in enumerate(schedules)]
    heapq.heapify(heap)
    now = NOON + LOOP
    while now < until:
        while heap[0][0] <= now:
            moment, number = heapq.heappop(heap)
            sent = entries[number]
            entries[number] = replace(sent, last_run=moment, runs=sent.runs + 1)
            heapq.heappush(heap, (sent.schedule.after(moment) or 0.0, number))
        yield now, list(entries)
        now += SYNC_EVERY + LOOP


intervals = st.integers(1, 7200).map(lambda seconds: Interval(float(seconds)))
crontabs = st.builds(
    crontab,
    hour=st.sampled_from(["*", "*/2", "12,13"]),
    zone=st.sampled_from([UTC, KATHMANDU]),
    minute=st.sampled_from(["*", "*/7", "0", "1,59"]),
)


@settings(max_examples=30)
@given(st.lists(intervals | crontabs, min_size=1, max_size=6))
def test_nothing_is_overdue_while_beat_runs_and_all_is_when_it_has_stopped(
    schedules: list[Schedule],
) -> None:
    table: list[Entry] = []
    for now, table in beat(schedules, NOON + 3 * HOUR):
        for moment in (now, now + 60, now + SYNC_EVERY + LOOP):  # as long as it stays like that
            for each in table:
                found = due(each, moment)
                assert found is not None
                assert found.overdue == 0.0
                assert moment <= found.next_run
                assert found.period is not None
    for each in table:
        expected = each.schedule.after(NOON if each.last_run is None else each.last_run)
        assert expected is not None
        late = due(each, expected + HIDDEN + 1)
        assert late is not None
        assert (late.next_run, late.overdue) == (expected, pytest.approx(HIDDEN + 1))
