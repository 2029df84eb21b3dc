"""Another family of tables is one file and its name in one list: all else follows."""

from __future__ import annotations

import time
import uuid
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pytest

from exporter.backends import tables
from exporter.checkpoint.checkpoint import open_file
from exporter.commands.check import check
from exporter.commands.verify import verify
from exporter.config.settings import Config
from tests.backends import jobs
from tests.follow import Follower, create_tables, insert

if TYPE_CHECKING:
    from pathlib import Path

    from sqlalchemy import Engine

    from tests.servers.database import Database


@pytest.fixture(autouse=True)
def _known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables, "FAMILIES", (*tables.FAMILIES, jobs.FAMILY))


@pytest.fixture
def engine(database: Database) -> Engine:
    engine = database.engine()
    jobs.METADATA.create_all(engine)
    return engine


def run(engine: Engine, outcome: str = "SUCCESS", **values: Any) -> int:
    row = {
        "key": str(uuid.uuid4()),
        "outcome": outcome,
        "function": "stock.count",
        "host": "till-1",
        "ended": datetime.now(UTC).replace(tzinfo=None),
    } | values
    with engine.begin() as connection:
        return connection.execute(jobs.JOBS.insert().values(row)).inserted_primary_key[0]


def test_it_is_followed_from_the_first_row_to_verify(
    database: Database, engine: Engine, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "checkpoint.sqlite"
    checkpoint = open_file(path)
    follower = Follower(database.reader_url, checkpoint, timezone="Asia/Seoul")
    run(engine)
    failed = run(engine, "FAILURE")
    running = run(engine, "STARTED", ended=None)
    with engine.begin() as connection:
        connection.execute(
            jobs.BATCHES.insert().values(ended=datetime.now(UTC).replace(tzinfo=None))
        )
    follower.poll()
    assert follower.states() == {"SUCCESS": 1, "FAILURE": 1}
    assert follower.total("celery_task_unfinished", task="stock.count", worker="till-1") == 1
    assert follower.total("celery_group_results_total") == 1
    last = follower.value("celery_task_last_finished_timestamp_seconds", state="SUCCESS")
    assert last == pytest.approx(time.time(), abs=60)  # its own zone, not the configured one
    assert follower.total("celery_backend_info", schema_family="shop-2") == 1
    assert follower.value("celery_backend_capability", capability="table_batch") == 1
    with engine.begin() as connection:
        for number in (failed, running):
            here = jobs.JOBS.c.number == number
            connection.execute(jobs.JOBS.update().where(here).values(outcome="SUCCESS"))
    follower.poll()
    assert follower.states() == {"SUCCESS": 3, "FAILURE": 1}
    config = Config((follower.poller.settings,), path, 0.0)
    assert verify(config) == 0
    assert "3 present, 4 counted, 1 of them revised, 0 missing" in capsys.readouterr().out
    assert check(config) == 0
    assert "job table" in capsys.readouterr().out
    follower.close()
    checkpoint.close()

    checkpoint = open_file(path)
    again = Follower(database.reader_url, checkpoint, timezone="Asia/Seoul")
    assert again.states() == {"SUCCESS": 3, "FAILURE": 1}
    run(engine)
    assert again.poll().states() == {"SUCCESS": 4, "FAILURE": 1}
    again.close()
    checkpoint.close()


def test_the_first_whose_table_is_there_is_read(database: Database, engine: Engine) -> None:
    run(engine)
    with create_tables(database).begin() as connection:
        insert(connection, name="mail.send")
    follower = Follower(database.reader_url).poll()
    assert follower.total("celery_task_results_total", task="mail.send") == 1
    assert follower.total("celery_task_results_total", task="stock.count") == 0
    follower.close()


def test_one_that_is_read_stays(database: Database, engine: Engine) -> None:
    """A table that comes later would count what this one has counted, perhaps."""
    run(engine)
    follower = Follower(database.reader_url).poll()
    with create_tables(database).begin() as connection:
        insert(connection, name="mail.send")
    follower.poller.follower.database.look_again()
    follower.poll()
    assert follower.total("celery_task_results_total") == 1
    follower.close()
