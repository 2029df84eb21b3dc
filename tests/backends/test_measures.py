"""What is measured of results, where it is asked for: how often retried, how many bytes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import text

from tests.backends.test_django import Shop
from tests.backends.test_work import work
from tests.djangoshop import migrate
from tests.follow import TASKS, Follower, create_tables, insert, update

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sqlalchemy import Engine

    from tests.servers.database import Database

DATABASES = pytest.mark.parametrize(
    "database", ["sqlite", "postgresql", "mariadb-pymysql"], indirect=True
)
ON_POSTGRESQL = pytest.mark.parametrize("database", ["postgresql"], indirect=True)
RETRIES = "celery_task_result_retries"
BYTES = "celery_task_payload_bytes_total"
PARTS = ["result", "args", "kwargs"]
ASKED: dict[str, Any] = {"retries_buckets": [0, 1, 3], "payload_bytes": PARTS}
LARGE = bytes(range(256)) * 200  # elsewhere than its row, on each database


def spread(follower: Follower, **labels: str) -> tuple[list[float], float]:
    """Return the cumulated buckets, and the sum."""
    buckets = [
        v for have, v in follower.samples(f"{RETRIES}_bucket") if labels.items() <= have.items()
    ]
    return buckets, follower.total(f"{RETRIES}_sum", **labels)


def sizes(follower: Follower, **labels: str) -> list[float | None]:
    return [follower.value(BYTES, part=part, **labels) for part in PARTS]


@DATABASES
def test_each_result_that_counts_is_measured(database: Database, engine: Engine) -> None:
    """Also those that finish later, and those that are replaced."""
    with engine.begin() as connection:
        for retries, result in ((0, LARGE), (0, b"12"), (1, b""), (2, None), (9, b"\0\xff\0")):
            insert(connection, retries=retries, result=result, args=b"[1]", kwargs=b"{}")
        insert(connection, retries=None)  # does not tell
        insert(connection, name="other", retries=1, result=b"1234", args=None)
        failed = insert(connection, "FAILURE", retries=3, result=b"{}", args=b"[12]")
        running = insert(connection, "STARTED", retries=1, result=b"{...}", args=b"[]")
    follower = Follower(database.reader_url, **ASKED).poll()
    assert spread(follower, task="app.add") == ([2, 3, 5, 6], 0 + 0 + 1 + 2 + 9 + 3)
    assert spread(follower, task="other") == ([0, 1, 1, 1], 1)
    assert sizes(follower, task="app.add") == [len(LARGE) + 2 + 3 + 2, 5 * 3 + 4, 5 * 2]
    assert sizes(follower, task="other") == [4, 0, 0]
    with engine.begin() as connection:
        update(connection, running, "SUCCESS", retries=2, result=b"123")
        update(connection, failed, "SUCCESS", retries=4, result=b"1")
    follower.poll().poll()
    retried = follower.total("celery_task_retries_total", task="app.add")
    assert spread(follower, task="app.add") == ([2, 3, 6, 8], retried)
    assert retried == 15 + 2 + 4  # as with results, a revision is one more
    assert sizes(follower, task="app.add")[:2] == [len(LARGE) + 7 + 3 + 1, 19 + 2 + 4]
    follower.close()


@DATABASES
def test_what_nobody_asks_for_is_not_asked(database: Database, engine: Engine) -> None:
    with engine.begin() as connection:
        insert(connection, retries=2, result=LARGE)
        insert(connection, "STARTED")
    measured, plain = Follower(database.reader_url, **ASKED), Follower(database.reader_url)
    with work() as asked:
        measured.poll()
    with work() as unasked:
        plain.poll()
    assert len(asked.statements) == len(unasked.statements) + 1  # sums of bytes, by task
    assert "kwargs" not in "".join(unasked.statements)
    assert spread(plain) == ([], 0)
    assert sizes(plain) == [None, None, None]
    measured.close()
    plain.close()


@pytest.fixture
def granted(database: Database, engine: Engine) -> Iterator[Engine]:
    """Give an account that may not read arguments."""
    account = database.reader.username
    names = ", ".join(c.name for c in TASKS.c if c.name not in {"args", "kwargs"})
    with engine.begin() as connection:
        connection.execute(text(f"REVOKE SELECT ON celery_taskmeta FROM {account}"))
        connection.execute(text(f"GRANT SELECT ({names}) ON celery_taskmeta TO {account}"))
    return engine


@ON_POSTGRESQL
def test_columns_that_may_not_be_read_are_absent(database: Database, granted: Engine) -> None:
    with granted.begin() as connection:
        insert(connection, result=b"12")
    follower = Follower(database.reader_url, **ASKED).poll()
    assert sizes(follower) == [2, None, None]
    assert follower.value("celery_backend_capability", capability="payload") == 0
    assert "payload" in follower.poller.status.missing
    follower.close()


@DATABASES
def test_texts_of_django_are_measured_in_bytes(database: Database) -> None:
    migrate(database.owner)
    shop = Shop(database)
    shop.insert(result='"é"', task_args='"()"')
    shop.insert("FAILURE", result="메", task_args=None)
    follower = Follower(database.reader_url, **ASKED).poll()
    assert sizes(follower) == [4 + 3, 4, 0]
    assert spread(follower) == ([], 0)  # there is no column for them
    assert follower.value("celery_backend_capability", capability="payload") == 1
    follower.close()


@pytest.mark.parametrize("database", ["sqlite"], indirect=True)
def test_what_is_no_longer_asked_for_waits(database: Database) -> None:
    """It is not served, and goes on from where it was when it is asked for again."""
    engine = create_tables(database)
    with engine.begin() as connection:
        insert(connection, retries=1, result=b"1")
    follower = Follower(database.reader_url, **ASKED).poll()
    for asked, expected in (({}, []), (ASKED | {"retries_buckets": [2]}, [2, 2])):
        again = Follower(database.reader_url, **asked)
        again.poller.succeed(follower.poller)
        follower.close()
        with engine.begin() as connection:
            insert(connection, retries=1, result=b"1")
        assert spread(again.poll())[0] == expected
        follower = again
    assert sizes(follower)[0] == 2
    follower.close()
