"""A person learns whether all is well; if not, what is wrong, since when, why, and what to do."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from exporter.errors import Reason
from exporter.runtime.polls import ABSENT
from exporter.web import troubles
from exporter.web.status import (
    BackendStatus,
    BeatStatus,
    CatchUpStatus,
    OverdueStatus,
    ServiceStatus,
    TableStatus,
    TaskStatus,
)
from exporter.web.troubles import TODO, Level, Trouble
from exporter.web.verdict import Verdict, verdict
from tests.web.statuses import NOW, backend, down, hour, lately, service

ALERTS = Path(__file__).parents[2] / "deploy" / "prometheus" / "alerts.yml"


def judge(*backends: BackendStatus, **changes: object) -> Verdict:
    return verdict(service(*backends, **changes), NOW)


def only(found: Verdict) -> Trouble:
    (trouble,) = found.troubles
    return trouble


def task(**changes: Any) -> TaskStatus:
    return replace(lately("app.pay", 100), **changes)


def test_all_is_well() -> None:
    one = judge(backend("Orders", tasks=(lately("a", 5),)))
    assert one == Verdict("All is well: Orders is up; newest result 30 s ago", (), {})
    assert one.level is Level.WELL
    assert judge(backend("a"), backend("b")).headline == "All is well: all 2 backends are up"


def test_all_is_well_with_what_this_replica_follows() -> None:
    followers = {"a": "x/1", "b": "x/1", "c": "y/2"}
    both = judge(backend("a"), backend("b"), followers=followers)
    assert both.headline == "All is well: all 2 backends that this replica follows are up"
    one = judge(backend("c"), followers=followers)
    assert one.headline == "All is well: c, which this replica follows, is up"
    alone = judge(backend("c"), followers={"c": "y/2"})
    assert alone.headline == "All is well: c is up"


def test_one_is_down() -> None:
    tables = (TableStatus("task", "t", present=True, oldest_result=NOW - 90_000),)
    found = judge(backend("mail"), down(tables=tables))
    assert found.headline == (
        "Not well, 1 of 2 backends: orders has been down since 2027-01-15 07:17:07 UTC, 42 min ago"
    )
    trouble = only(found)
    assert (trouble.level, trouble.backend) == (Level.DOWN, "orders")
    assert trouble.since == NOW - 2573
    assert trouble.why == "connection refused"
    assert "whether the database server runs" in trouble.todo
    assert "celery-results-exporter check" in trouble.todo
    assert "Nothing is lost as long as results stay in their table (the oldest were 24 h old)" in (
        trouble.todo
    )
    assert found.levels == {"orders": Level.DOWN}


def test_overdue_tasks() -> None:
    late = tuple(
        OverdueStatus(name, NOW - age, within)
        for name, age, within in (
            ("sync.a", 1_000, 900.0),
            ("reports.nightly", 2 * 86_400, 93_600.0),
            ("sync.b", 1_200, 900.0),
            ("sync.c", 1_000, 900.0),
        )
    )
    trouble = only(judge(backend(overdue=late)))
    assert trouble.level is Level.LOOK
    assert trouble.what == (
        "has overdue tasks, without a success: reports.nightly for 2 d (26 h expected), "
        "sync.b for 20 min (15 min expected), sync.a for 16 min (15 min expected) and 1 more"
    )
    assert trouble.since == NOW - 2 * 86_400 + 93_600


def test_many_are_down() -> None:
    many = [down(f"b{number}", since=NOW - 60 * number) for number in range(3, 9)]
    odd = backend("odd", doubts=("the newest date_done lies 9 h ahead",))
    found = judge(backend("well"), odd, *many)
    assert found.headline == (
        "Not well: 6 of 8 backends are not read, the first of them for 8 min; "
        "and one thing more to look at"
    )
    assert [trouble.backend for trouble in found.troubles] == [
        *(f"b{n}" for n in range(3, 9)),
        "odd",
    ]


def test_every_reason_has_its_advice() -> None:
    assert TODO.keys() == {*(reason.value for reason in Reason), ABSENT}
    for reason, advice in TODO.items():
        assert advice in only(judge(down(reason=reason))).todo


def test_a_poll_that_hangs() -> None:
    found = judge(backend(stuck=True), unhealthy="polling is stuck: orders")
    assert (
        found.headline == "Not well: orders has been stuck since 2027-01-15 07:59:56 UTC, 4 s ago"
    )
    assert only(found).todo.startswith("Restart the exporter.")
    first = judge(backend(stuck=True, up=None, last_poll=None))
    assert first.headline == "Not well: orders is stuck"


def test_a_thread_of_the_exporter_hangs() -> None:
    found = judge(backend(), unhealthy="replica thread is stuck")
    assert found.headline == "Not well: the exporter is not healthy"
    assert only(found).why == "replica thread is stuck"


def test_polls_that_come_no_more() -> None:
    """As in the alert; a poll that takes its time reads on."""
    found = judge(backend(last_poll=NOW - 106))
    assert (
        found.headline
        == "Not well: orders has been without a poll since 2027-01-15 07:58:14 UTC, 106 s ago"
    )
    assert judge(backend(last_poll=NOW - 104)).troubles == ()


BEHIND = [
    (backend(up=None, message="not tried yet", last_poll=None), "orders was not tried yet"),
    (backend(message="celery_taskmeta: table does not exist yet"), "orders waits"),
    (backend(catching_up=CatchUpStatus(500_000, 0.62, 180.0)), "orders is catching up"),
]


@pytest.mark.parametrize(("waiting", "said"), BEHIND, ids=[said for _, said in BEHIND])
def test_numbers_that_are_yet_to_come_are_nothing_wrong(waiting: BackendStatus, said: str) -> None:
    found = judge(waiting, backend("mail"))
    assert found.headline == f"Nothing is wrong, but not all numbers are here yet: {said}"
    assert found.level is Level.BEHIND


def test_how_long_catching_up_takes() -> None:
    found = judge(backend(catching_up=CatchUpStatus(500_000, 0.62, 180.0)))
    assert only(found).why == "62% are read, 500,000 ids are left: about 3 min"
    unknown = judge(backend(up=None, catching_up=CatchUpStatus(5, 0.0, None)))
    assert only(unknown).why == "0% are read, 5 ids are left: how long that takes is not known yet"


def test_standing_by_is_nothing_wrong() -> None:
    found = judge(unready="standing by: other replicas follow all backends", standby=True)
    assert found.headline.startswith("Nothing is wrong")
    assert found.headline.endswith("the exporter stands by")


@pytest.mark.parametrize(("seconds", "level"), [(5.0, Level.BEHIND), (61.0, Level.DOWN)])
def test_no_replica_follows_a_backend(seconds: float, level: Level) -> None:
    """For a moment while it changes hands; an alert comes after longer."""
    followers = {"orders": "a/1", "mail": ""}
    found = judge(backend(), followers=followers, unfollowed={"mail": NOW - seconds})
    trouble = only(found)
    assert (trouble.level, trouble.backend) == (level, "mail")
    assert found.headline.endswith("mail is followed by no replica")
    assert ("1 of 2 backends" in found.headline) == (level is Level.DOWN)


def test_nothing_is_read() -> None:
    found = judge(unready="checkpoint database: connection refused")
    assert found.headline == "Not well: the exporter does not read anything yet"
    assert only(found).why == "checkpoint database: connection refused"


def test_a_refused_configuration() -> None:
    found = judge(backend(), refused=("the configuration file", "the web configuration"))
    assert found.headline == (
        "Worth a look: the exporter has not taken the configuration file; and one thing more"
    )


def test_a_lost_checkpoint_is_news_for_an_hour() -> None:
    assert judge(backend(rewritten=NOW - 300)).headline == (
        "Worth a look: orders lost its checkpoint 5 min ago"
    )
    assert judge(backend(rewritten=NOW - 4000)).troubles == ()


def test_odd_dates() -> None:
    assert only(judge(backend(doubts=("compare clocks",)))).why == "compare clocks"


@pytest.mark.parametrize(
    ("used", "end", "said"),
    [
        (0.79, None, None),
        (0.81, None, ""),
        (
            0.81,
            NOW + 86400 * 365,
            "at the present rate it runs out of them on 2028-01-15, in 365 d",
        ),
        (0.5, NOW + 86400 * 29, "at the present rate it runs out of them on 2027-02-13, in 29 d"),
        (0.5, NOW + 86400 * 31, None),
        (0.81, NOW + 1e13, "at the present rate it runs out of them in more than 100 years"),
    ],
)
def test_ids_that_run_out(used: float, end: float | None, said: str | None) -> None:
    table = TableStatus(
        "task", "celery_taskmeta", present=True, id_used_ratio=used, ids_run_out=end
    )
    found = judge(backend(tables=(table,)))
    assert [trouble.why for trouble in found.troubles] == ([] if said is None else [said])


def test_tasks_that_fail() -> None:
    """As in the alert: more than a tenth of the last 15 minutes, and not of a handful."""
    failing = tuple(lately(f"t{number}", 100, 11 + number, KeyError=5) for number in range(5))
    found = judge(backend(hour=hour(5), tasks=(lately("fine", 100, 10), *failing)))
    assert found.headline == (
        "Worth a look: orders has failing tasks: 15% of t4 (225 of 1,500), 14% of t3 "
        "(210 of 1,500), 13% of t2 (195 of 1,500) and 2 more in the last 15 min"
    )
    assert only(found).why == (
        "classes of the last hour: t4: KeyError 5; t3: KeyError 5; t2: KeyError 5"
    )
    few = task(results=(0,) * 59 + (19,), failures=(0,) * 59 + (19,))
    past = task(results=(9,) * 60, failures=(9,) * 45 + (0,) * 15)
    assert judge(backend(tasks=(few, past))).troubles == ()


def test_tasks_that_run_long() -> None:
    long = task(unfinished={"STARTED": 2}, oldest={"STARTED": NOW - 7300, "RETRY": NOW - 9000})
    short = task(oldest={"STARTED": NOW - 3500, "RETRY": NOW - 9000})
    found = judge(backend(tasks=(short, long)))
    assert found.headline == "Worth a look: orders has tasks that run long: app.pay for 2 h"
    assert only(found).since == NOW - 7300


def test_schedules() -> None:
    beat = BeatStatus("django-celery-beat", up=True, message="", entries=9, overdue=5, unreadable=1)
    assert judge(backend(beat=replace(beat, overdue=0, unreadable=0))).level is Level.WELL
    late = {f"e{n}": NOW - 7200 for n in range(4)}
    overdue, unreadable = judge(
        backend(beat=replace(beat, late=late, faults=("e5: it has no schedule",)))
    ).troubles
    assert overdue.what == "has 5 overdue of 9 schedules"
    assert (
        overdue.why == "to be sent e0 2 h ago, e1 2 h ago, e2 2 h ago and 2 more, and again since"
    )
    assert overdue.since == NOW - 7200
    assert unreadable.what == "has schedules that cannot be read: 1 of 9"
    assert unreadable.why == "e5: it has no schedule"
    unread = only(judge(backend(beat=replace(beat, up=False, message="gone", late=late))))
    assert (unread.level, unread.why) == (Level.LOOK, "gone")


def test_thresholds_are_those_of_the_alerts() -> None:
    """Who is woken by an alert finds the same here."""
    rules = yaml.safe_load(ALERTS.read_text())["groups"][0]["rules"]
    said = {rule["alert"]: " ".join(rule["expr"].split()) for rule in rules}
    failing = said["CeleryTaskFailureRatioHigh"]
    assert f"> {troubles.FAILED:g} " in failing
    assert f">= {troubles.ENOUGH}" in failing
    assert set(re.findall(r"\[(\w+)\]", failing)) == {f"{troubles.MOMENT}m"}
    assert said["CeleryTaskStuck"].endswith(f"> {troubles.RUNNING:g}")
    assert said["CeleryResultIdSpaceUsed"].endswith(f"> {troubles.IDS_USED:g}")
    assert "> 60 + 3 * celery_backend_poll_interval_seconds" in said["CeleryResultBackendDown"]


def test_names_are_cut_in_sentences() -> None:
    found = judge(backend(tasks=(lately("x" * 10_000, 100, 50, **{"y" * 10_000: 3}),)))
    assert len(found.headline) < 200
    assert len(only(found).why) < 200


def test_no_advice_is_cut() -> None:
    """`escaped` shows 500 characters of a text."""
    table = TableStatus("task", "t", present=True, id_used_ratio=1.0, oldest_result=NOW - 90_000)
    ill = [down(str(n), reason=reason, tables=(table,)) for n, reason in enumerate(TODO)]
    stuck = backend("stuck", stuck=True, rewritten=NOW, doubts=("odd",), tables=(table,))
    every = judge(*ill, stuck, refused=("the configuration file",), unhealthy="ill")
    assert max(len(trouble.todo) for trouble in every.troubles) < 500


def test_who_stands_by_has_no_backend_and_is_not_down() -> None:
    assert ServiceStatus("1", NOW, ()).standby is False
