"""Groups as Celery saves them, followed until their tasks have finished."""

from __future__ import annotations

import contextlib
import logging
from collections import Counter
from typing import TYPE_CHECKING

import pytest
from celery import Celery
from sqlalchemy import delete, text

from exporter.checkpoint.checkpoint import open_file
from exporter.commands.check import check
from exporter.config.loading import from_url
from exporter.counting import groups
from tests.backends.test_work import follow, work
from tests.follow import GROUPS, TASKS, Follower, insert, update

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from sqlalchemy import Connection, Engine

    from tests.servers.database import Database

#: How groups are stored by each: JSON, and as every version up to 5.6 does.
ON_ANY = pytest.mark.parametrize(
    ("database", "serializer"),
    [("sqlite", "json"), ("postgresql", "pickle"), ("mariadb-pymysql", "json")],
    indirect=["database"],
)
ON_SQLITE = pytest.mark.parametrize("database", ["sqlite"], indirect=True)
OPEN = "celery_group_open"
COMPLETED = "celery_group_completed_total"
UNTOLD = "celery_group_untold_total"


@contextlib.contextmanager
def app(database: Database, serializer: str = "json") -> Iterator[Celery]:
    """Give an app that stores results."""
    made = Celery(broker="memory://", backend=database.celery_url, set_as_current=False)
    made.conf.update(result_serializer=serializer, accept_content=["json", "pickle"])
    yield made
    made.close()


def save(database: Database, serializer: str = "json", **tasks: list[str]) -> None:
    """Save groups of these tasks as an app does."""
    with app(database, serializer) as made:
        for name, own in tasks.items():
            made.GroupResult(name, [made.AsyncResult(task) for task in own]).save()


def store(connection: Connection, name: str, result: bytes | None) -> None:
    """Store whatever bytes as a group."""
    connection.execute(GROUPS.insert().values(taskset_id=name, result=result))


def outcomes(follower: Follower) -> Counter[str]:
    """Count groups by what became of them, and those that are open."""
    counts: Counter[str] = Counter()
    for labels, value in follower.samples(COMPLETED):
        counts[labels["state"]] += int(value)
    for labels, value in follower.samples(UNTOLD):
        counts[labels["reason"]] += int(value)
    counts["open"] = int(follower.value(OPEN) or 0)
    return +counts


@pytest.fixture
def followed(database: Database, engine: Engine) -> Iterator[Follower]:
    """Give a follower that has polled the empty tables, so that what comes is news."""
    assert engine
    follower = follow(database).poll()
    yield follower
    follower.close()


@ON_ANY
def test_a_group_is_open_until_its_last_task_has_finished(
    database: Database, followed: Follower, engine: Engine, serializer: str
) -> None:
    """Tasks finish before it is saved, in rows that come later, and in rows that change."""
    with engine.begin() as connection:
        insert(connection, task_id="a1")
        started = insert(connection, "STARTED", task_id="a2")
        insert(connection, "FAILURE", task_id="b1")
    save(database, serializer, a=["a1", "a2", "a3"], b=["b1", "b2"], c=["a1"])
    assert outcomes(followed.poll()) == {"open": 2, "SUCCESS": 1}
    since = followed.value("celery_group_oldest_open_timestamp_seconds")
    assert since == pytest.approx(followed.poller.follower.last_read, abs=60)
    with engine.begin() as connection:
        update(connection, started, "SUCCESS")
        insert(connection, task_id="b2")
    assert outcomes(followed.poll()) == {"open": 1, "SUCCESS": 1, "FAILURE": 1}
    with engine.begin() as connection:
        insert(connection, task_id="a3")
    assert outcomes(followed.poll()) == {"SUCCESS": 2, "FAILURE": 1}
    assert outcomes(followed.poll()) == {"SUCCESS": 2, "FAILURE": 1}
    assert followed.samples("celery_group_oldest_open_timestamp_seconds") == []
    sizes = {labels["le"]: n for labels, n in followed.samples("celery_group_tasks_bucket")}
    assert (sizes["1.0"], sizes["2.0"], sizes["5.0"], sizes["+Inf"]) == (1, 2, 3, 3)
    name = "celery_group_observed_duration_seconds"
    assert followed.value(f"{name}_count") == 3
    took = followed.value(f"{name}_sum")
    assert took is not None
    assert 0.1 < took < 60


@ON_SQLITE
def test_groups_and_chords_within_groups_count_with_their_tasks(
    database: Database, followed: Follower, engine: Engine
) -> None:
    """The header of a chord is the parent of its body: it is over when the body is."""
    with app(database) as made:
        header = made.GroupResult("header", [made.AsyncResult("header-1")])
        inner = made.GroupResult("inner", [*map(made.AsyncResult, ("inner-1", "inner-2"))])
        body = made.AsyncResult("body", parent=header)
        made.GroupResult("outer", [made.AsyncResult("plain"), inner, body]).save()
    assert outcomes(followed.poll()) == {"open": 1}
    assert followed.value("celery_group_tasks_sum") == 4
    with engine.begin() as connection:
        for task in ("plain", "inner-1", "inner-2", "inner", "outer", "header"):
            insert(connection, task_id=task)
    assert outcomes(followed.poll()) == {"open": 1}
    with engine.begin() as connection:
        insert(connection, task_id="body")
    assert outcomes(followed.poll()) == {"SUCCESS": 1}


@ON_SQLITE
def test_a_task_may_be_in_several_groups(
    database: Database, followed: Follower, engine: Engine
) -> None:
    save(database, one=["shared", "own"], other=["shared"])
    assert outcomes(followed.poll()) == {"open": 2}
    with engine.begin() as connection:
        insert(connection, "REVOKED", task_id="shared")
    assert outcomes(followed.poll()) == {"open": 1, "FAILURE": 1}
    with engine.begin() as connection:
        insert(connection, task_id="own")
    assert outcomes(followed.poll()) == {"FAILURE": 2}


@ON_ANY
def test_each_completion_counts_once_whatever_happens_to_the_process(
    database: Database, engine: Engine, serializer: str, tmp_path: Path
) -> None:
    """It ends, and groups are saved, complete, and vanish before it comes back."""
    store = open_file(tmp_path / "checkpoint.sqlite")
    follower = Follower(database.reader_url, store).poll()
    names = ("done", "failed", "left", "gone")
    save(database, serializer, **{name: [f"{name}-1", f"{name}-2"] for name in names})
    with engine.begin() as connection:
        insert(connection, "FAILURE", task_id="failed-1")
    assert outcomes(follower.poll()) == {"open": 4}
    since = follower.value("celery_group_oldest_open_timestamp_seconds")
    follower.close()
    store.close()

    with engine.begin() as connection:
        for task in ("done-1", "done-2", "failed-2", "left-1", "missed"):
            insert(connection, task_id=task)
        connection.execute(delete(GROUPS).where(GROUPS.c.taskset_id == "gone"))
    save(database, serializer, missed=["missed"])
    store = open_file(tmp_path / "checkpoint.sqlite")
    follower = Follower(database.reader_url, store)
    assert follower.value(OPEN) == 4, "as the checkpoint has it"
    assert follower.value("celery_group_oldest_open_timestamp_seconds") == since
    expected = {"open": 1, "SUCCESS": 2, "FAILURE": 1, "vanished": 1}
    assert outcomes(follower.poll()) == expected
    assert outcomes(follower.poll()) == expected
    assert follower.value("celery_group_observed_duration_seconds_count") == 2
    with engine.begin() as connection:
        insert(connection, task_id="left-2")
    assert outcomes(follower.poll()) == {"SUCCESS": 3, "FAILURE": 1, "vanished": 1}
    follower.close()
    store.close()


@ON_SQLITE
def test_a_reload_goes_on_with_the_open_groups(
    database: Database, followed: Follower, engine: Engine
) -> None:
    """And where they are followed no longer, and then again, too."""
    save(database, both=["t1", "t2"])
    with engine.begin() as connection:
        insert(connection, "FAILURE", task_id="t1")
    assert outcomes(followed.poll()) == {"open": 1}
    before = followed
    for groups_followed in (True, False, True):
        after = follow(database, groups=groups_followed)
        after.poller.succeed(before.poller)
        after.poll()
        assert after.samples(OPEN) == ([({"backend": "celery"}, 1)] if groups_followed else [])
        before.close()
        before = after
    with engine.begin() as connection:
        insert(connection, task_id="t2")
    assert outcomes(after.poll()) == {"FAILURE": 1}
    after.close()


@ON_SQLITE
def test_groups_that_were_there_before_count_when_they_complete(
    database: Database, engine: Engine
) -> None:
    save(database, old=["old-1"], open=["open-1"])
    with engine.begin() as connection:
        insert(connection, task_id="old-1")
    follower = Follower(database.reader_url, start="end").poll()
    assert outcomes(follower) == {"open": 1}
    with engine.begin() as connection:
        insert(connection, task_id="open-1")
    assert outcomes(follower.poll()) == {"SUCCESS": 1}
    assert follower.value("celery_group_observed_duration_seconds_count") is None
    follower.close()


HOSTILE = {
    b"x" * 10_000_000: "too_large",
    b'[["g", null], [[["' + b"1" * 10_000_000 + b'", null], null]]]': "too_large",
    b'[["g", null], [[["' + b"1" * 10_000 + b'", null], null]]]': "not_understood",
    b'[["g", null], [[["a\\u0000b", null], null]]]': "not_understood",
    b'[["g", null], [[["\\ud800", null], null]]]': "not_understood",
    b'[["g", null], [[[7, null], null]]]': "not_understood",
    b'[["g", null], ' * 10_000: "not_understood",
    b"\x80\x04" + b"N" * 900_000 + b".": "too_large",
    b"\x80\x04cos\nsystem\n\x8c\x0atouch /tmp\x85R.": "not_understood",
    b"\xff\xfe": "not_understood",
}


@pytest.mark.parametrize(
    "database", ["sqlite", "postgresql", "mariadb-pymysql"], indirect=["database"]
)
def test_hostile_groups_count_as_untold(followed: Follower, engine: Engine) -> None:
    """And disturb no other."""
    # A BLOB of MySQL's has 64 KB.
    stored = [each for each in HOSTILE if engine.name == "sqlite" or len(each) < 65_000]
    if engine.name == "postgresql":
        stored = list(HOSTILE)
    with engine.begin() as connection:
        for number, result in enumerate(stored):
            store(connection, f"hostile-{number}", result)
        store(connection, "null", None)
        store(connection, "good", b'[["good", null], [[["t", null], null]]]')
        insert(connection, task_id="t")
    expected = Counter(HOSTILE[result] for result in stored)
    expected += Counter({"SUCCESS": 1, "not_understood": 1})
    assert outcomes(followed.poll()) == expected
    assert followed.value("celery_group_tasks_count") == 1


@ON_SQLITE
def test_the_oldest_open_groups_are_dropped(
    database: Database,
    followed: Follower,
    engine: Engine,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(groups, "MOST_OPEN", 3)
    monkeypatch.setattr("exporter.backends.groups.MOST_WAITED_FOR", 6)
    monkeypatch.setattr(groups, "MOST_WAITED_FOR", 6)
    save(database, **{f"g{number}": [f"t{number}"] for number in range(5)})
    assert outcomes(followed.poll()) == {"open": 3, "no_room": 2}
    save(database, large=[f"large-{n}" for n in range(5)])
    assert outcomes(followed.poll()) == {"open": 2, "no_room": 4}
    save(database, larger=[f"larger-{n}" for n in range(7)])
    assert outcomes(followed.poll()) == {"open": 2, "no_room": 5}
    with engine.begin() as connection:
        insert(connection, task_id="t4")
        for n in range(5):
            insert(connection, task_id=f"large-{n}")
    assert outcomes(followed.poll()) == {"SUCCESS": 2, "no_room": 5}
    assert followed.value("celery_group_tasks_count") == 7


@ON_SQLITE
def test_what_a_poll_has_missed_is_found_by_and_by(
    database: Database, followed: Follower, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A group that is deleted, and a result that comes where no row is waited for any more."""
    with engine.begin() as connection:
        lost = insert(connection, task_id="lost")
        connection.execute(delete(TASKS).where(TASKS.c.id == lost))
        insert(connection)
    save(database, deleted=["never"], late=["lost"])
    assert outcomes(followed.poll()) == {"open": 2}
    followed.poller.follower.main.gaps = ()
    with engine.begin() as connection:
        insert(connection, task_id="lost", id=lost)
        connection.execute(delete(GROUPS).where(GROUPS.c.taskset_id == "deleted"))
    assert outcomes(followed.poll()) == {"open": 2}
    monkeypatch.setattr(groups, "TURN", 0.0)
    assert outcomes(followed.poll()) == {"SUCCESS": 1, "vanished": 1}


@ON_SQLITE
def test_ids_that_begin_again_are_other_groups(
    database: Database, followed: Follower, engine: Engine
) -> None:
    save(database, before_1=["never"], before_2=["never"], before_3=["never"])
    assert outcomes(followed.poll()) == {"open": 3}
    with engine.begin() as connection:
        connection.execute(delete(GROUPS))
        connection.execute(text("DELETE FROM sqlite_sequence WHERE name = 'celery_tasksetmeta'"))
    save(database, after=["task"])
    for _ in range(3):
        followed.poll()
    assert outcomes(followed) == {"open": 1, "vanished": 3}
    with engine.begin() as connection:
        insert(connection, task_id="task")
    assert outcomes(followed.poll()) == {"SUCCESS": 1, "vanished": 3}


@ON_ANY
def test_a_poll_costs_what_has_changed(database: Database, engine: Engine, serializer: str) -> None:
    """In statements and rows, beside one that does not follow groups; no gap is waited for."""
    plain = follow(database, late_commit_grace=0.0, groups=False).poll()
    followed = follow(database, late_commit_grace=0.0).poll()

    def more() -> tuple[int, int]:
        with work() as less:
            plain.poll()
        with work() as done:
            followed.poll()
        return len(done.statements) - len(less.statements), done.rows - less.rows

    assert more() == (0, 0)
    save(database, serializer, **{f"g{n}": [f"t{n}-1", f"t{n}-2"] for n in range(30)})
    assert more() == (2, 30), "who is in them, and which of these have finished"
    assert more() == (0, 0)
    with engine.begin() as connection:
        for number in range(20):
            insert(connection, task_id=f"t{number}-1")
    assert more() == (1, 20), "the new results"
    with engine.begin() as connection:
        for number in range(100):
            insert(connection, task_id=f"t{number}-2")
    assert more() == (1, 30), "there are fewer that are waited for than are new"
    assert more() == (0, 0)
    assert outcomes(followed) == {"open": 10, "SUCCESS": 20}
    followed.close()
    plain.close()


@pytest.mark.parametrize("database", ["postgresql"], indirect=True)
def test_without_a_right_to_results_groups_only_count(
    database: Database,
    engine: Engine,
    caplog: pytest.LogCaptureFixture,
    capsys: pytest.CaptureFixture[str],
) -> None:
    reader = database.reader.username
    with engine.begin() as connection:
        connection.exec_driver_sql(f'REVOKE ALL ON celery_tasksetmeta FROM "{reader}"')
        columns = "id, taskset_id, date_done"
        connection.exec_driver_sql(f'GRANT SELECT ({columns}) ON celery_tasksetmeta TO "{reader}"')
    save(database, g=["t"])
    with caplog.at_level(logging.INFO):
        follower = Follower(database.reader_url).poll()
    (said,) = [r for r in caplog.records if "groups are not followed" in r.message]
    assert "may not read column result" in said.error  # type: ignore[attr-defined]
    assert follower.value("celery_group_results_total") == 1
    assert follower.value("celery_backend_capability", capability="groups") == 0
    assert outcomes(follower) == {}
    assert follower.samples(OPEN) == []
    follower.close()
    assert check(from_url(database.reader_url)) == 0
    assert "only counted: this account may not read column result" in capsys.readouterr().out


@ON_SQLITE
def test_groups_need_not_be_followed(database: Database, engine: Engine) -> None:
    assert engine
    save(database, g=["t"])
    follower = Follower(database.reader_url, groups=False)
    follower.poll()
    assert follower.value("celery_group_results_total") == 1
    assert follower.value("celery_backend_capability", capability="groups") is None
    assert follower.samples(OPEN) == []
    follower.close()
