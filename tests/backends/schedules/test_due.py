"""When an entry is due, and overdue, by what beat has written."""

from __future__ import annotations

import heapq
import itertools
from dataclasses import replace
from datetime import datetime
from typing import TYPE_CHECKING, Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from exporter.backends.schedules.due import (
    SLACK,
    SYNC_EVERY,
    Clocked,
    Crontab,
    Due,
    Entry,
    Interval,
    Schedule,
    Solar,
    due,
    synced,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

UTC, PARIS, KATHMANDU = ZoneInfo("UTC"), ZoneInfo("Europe/Paris"), ZoneInfo("Asia/Kathmandu")
HOUR = 3600.0
HIDDEN = SYNC_EVERY + SLACK


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
        (entry(HOURLY), 61, Due(NOON + HOUR, HOUR, 60.0)),  # it would show
        (entry(HOURLY, enabled=False), 61, None),
        (entry(HOURLY, one_off=True), 61, None),  # it was sent
        (entry(HOURLY, None, changed=NOON), 61, Due(NOON + HOUR, HOUR, 60.0)),
        (entry(HOURLY, None, changed=NOON, one_off=True), 61, Due(NOON + HOUR, None, 60.0)),
        (entry(HOURLY, None), 61, None),  # nobody knows since when
        (entry(HOURLY, expires=NOON + HOUR), 30, None),
        (entry(HOURLY, start=NOON + 2 * HOUR), 61, Due(NOON + 2 * HOUR, HOUR, 0.0)),
        (entry(crontab("3"), None, changed=NOON, start=NOON + HOUR), 30,
         Due(NOON + HOUR, 14 * HOUR, 0.0)),  # beat sends it then, whatever the hour
        (entry(Clocked(NOON + HOUR), None, changed=NOON, one_off=True), 30,
         Due(NOON + HOUR, None, 0.0)),
        # Edited half an hour ago, from daily to hourly: beat has sent it then.
        (entry(HOURLY, NOON - 20 * HOUR, changed=NOON + 1800.0), 31,
         Due(NOON + 1800.0, HOUR, 60.0)),
    ],
)  # fmt: skip
def test_due(given_entry: Entry, minutes: float, expected: Due | None) -> None:
    assert due(given_entry, NOON, NOON + minutes * 60) == expected


def test_what_does_not_show_is_taken_for_sent() -> None:
    """Beat has written at noon; another entry is due a minute after that, and every hour."""
    other = entry(HOURLY, NOON - HOUR + 60)
    at_one = due(other, NOON, NOON + HOUR)
    assert at_one == Due(NOON + HOUR + 60, HOUR, 0.0)
    assert due(other, NOON, NOON + HOUR + 90) == Due(NOON + HOUR + 60, HOUR, 30.0)
    once = replace(other, one_off=True, runs=0)
    assert due(once, NOON, NOON + HOUR) is None  # nobody can tell


def test_short_periods_are_overdue_once_they_would_show() -> None:
    often = entry(Interval(5.0))
    assert due(often, NOON, NOON + HIDDEN - 10) == Due(NOON + HIDDEN - 10, 5.0, 0.0)
    assert due(often, NOON, NOON + HIDDEN + 60) == Due(NOON + HIDDEN, 5.0, 60.0)


def test_a_clock_that_runs_ahead_is_not_when_beat_wrote() -> None:
    assert synced([entry(HOURLY), entry(HOURLY, NOON + 1e9)], NOON + 5) == NOON
    assert synced([entry(HOURLY, None, changed=NOON - 1)], NOON) == NOON - 1
    assert synced([], NOON) == NOON


# -- a beat --------------------------------------------------------------------------------------


def beat(schedules: Sequence[Schedule], until: float) -> Iterator[tuple[float, list[Entry]]]:
    """Do what celery/beat.py does; yield after each moment what is in the table by then."""
    inside = [
        entry(schedule, None, name=str(number), changed=NOON)
        for number, schedule in enumerate(schedules)
    ]
    table = list(inside)
    heap = [(schedule.after(NOON) or 0.0, number) for number, schedule in enumerate(schedules)]
    heapq.heapify(heap)
    wrote = float("-inf")
    while heap[0][0] < until:
        now, number = heapq.heappop(heap)
        sent = inside[number]
        inside[number] = replace(sent, last_run=now, runs=sent.runs + 1, changed=now)
        heapq.heappush(heap, (sent.schedule.after(now) or 0.0, number))
        if now - wrote > SYNC_EVERY:
            wrote, table = now, list(inside)
        yield now, table


intervals = st.integers(1, 7200).map(lambda seconds: Interval(float(seconds)))
crontabs = st.builds(
    crontab,
    hour=st.sampled_from(["*", "*/2", "12,13"]),
    zone=st.sampled_from([UTC, KATHMANDU]),
    minute=st.sampled_from(["*", "*/7", "0", "1,59"]),
)


@settings(max_examples=40)
@given(st.lists(intervals | crontabs, min_size=1, max_size=6))
def test_nothing_is_overdue_while_beat_runs_and_all_is_when_it_has_stopped(
    schedules: list[Schedule],
) -> None:
    moments = itertools.islice(beat(schedules, NOON + 6 * HOUR), 400)
    table: list[Entry] = []
    before, last = NOON, NOON
    for now, after in moments:
        for moment in (before, (before + now) / 2, now - 0.001):
            if table and moment >= last:
                for each in table:
                    found = due(each, synced(table, moment), moment)
                    assert found is not None
                    assert found.overdue == 0.0
                    assert moment <= found.next_run
        table, before, last = after, now, now
    for each in table:
        period = max(each.schedule.after(last) or 0.0, last) - last
        late = due(each, synced(table, last), last + 2 * 86_400 + period)
        assert late is not None
        assert late.period is not None
        assert late.overdue > late.period
