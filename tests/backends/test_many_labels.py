"""More label sets among watched rows than there is room for: counted all the same."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from exporter.backends import chunks
from exporter.backends.reader import Reader
from exporter.checkpoint.checkpoint import open_file
from exporter.counting.results import OTHER
from tests.follow import TASKS, Follower, insert

if TYPE_CHECKING:
    from pathlib import Path

    from sqlalchemy import Connection, Engine

    from exporter.counting.step import Batch, Plan
    from tests.servers.database import Database

ROWS = 2_500  # two cohorts, and some


def test_rows_beyond_the_limit_count_when_they_finish(
    database: Database, engine: Engine, tmp_path: Path
) -> None:
    with engine.begin() as connection:
        insert(connection, "STARTED", name="first")
        rows = [
            {"task_id": f"{n}", "status": "STARTED", "name": f"task {n}"} for n in range(1, ROWS)
        ]
        connection.execute(TASKS.insert(), rows)
    checkpoint = open_file(tmp_path / "checkpoint.sqlite")
    follower = Follower(database.reader_url, checkpoint, series_limit=100).poll()
    for _ in range(2):
        assert follower.value("celery_backend_watched_rows", table="task") == ROWS
        assert follower.value("celery_backend_watched_folded_rows", table="task") == ROWS - 50
        assert follower.total("celery_task_unfinished") == ROWS
        assert follower.total("celery_task_unfinished", task=OTHER) > 0
        follower.close()
        follower = Follower(database.reader_url, checkpoint, series_limit=100).poll()
    with engine.begin() as connection:
        connection.execute(TASKS.update().where(TASKS.c.id % 5 == 0).values(status="FAILURE"))
        connection.execute(TASKS.update().where(TASKS.c.id % 5 == 1).values(status="SUCCESS"))
    follower.poll().poll()
    assert follower.states() == {"FAILURE": ROWS / 5, "SUCCESS": ROWS / 5}
    assert follower.total("celery_task_unfinished") == ROWS * 3 / 5
    with engine.begin() as connection:
        connection.execute(TASKS.update().where(TASKS.c.id % 5 == 0).values(status="SUCCESS"))
    follower.poll().poll()
    assert follower.states() == {"FAILURE": ROWS / 5, "SUCCESS": ROWS * 2 / 5}
    assert follower.total("celery_task_results_revised_total", from_state="FAILURE") == ROWS / 5
    follower.close()
    checkpoint.close()


@pytest.mark.parametrize("common", [0, ROWS - 500], ids=["rare", "rare after common"])
def test_groups_that_are_read_at_once_are_bounded(
    database: Database, engine: Engine, monkeypatch: pytest.MonkeyPatch, common: int
) -> None:
    """However many names somebody makes up, and however large a chunk was before."""
    monkeypatch.setattr(chunks, "MOST_GROUPS", 100)
    groups: list[int] = []
    read = Reader.read

    def noted(self: Reader, connection: Connection, plan: Plan) -> Batch:
        batch = read(self, connection, plan)
        groups.append(len(batch.groups))
        return batch

    monkeypatch.setattr(Reader, "read", noted)
    with engine.begin() as connection:
        rows = [
            {"task_id": f"{n}", "status": "SUCCESS", "name": f"task {0 if n < common else n}"}
            for n in range(ROWS)
        ]
        connection.execute(TASKS.insert(), rows)
        insert(connection, "FAILURE")
    follower = Follower(database.reader_url, series_limit=1000).poll()
    assert follower.states() == {"SUCCESS": ROWS, "FAILURE": 1}
    assert max(groups) == 100
    first = follower.value("celery_task_results_total", task="task 0", state="SUCCESS")
    assert first == max(common, 1)
    follower.close()
