"""What is served when the exporter's clock is set: what was shown stays shown."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from exporter.checkpoint.checkpoint import Checkpoint, open_file
from tests.follow import Follower, insert

if TYPE_CHECKING:
    from sqlalchemy import Engine

    from tests.servers.database import Database

pytestmark = pytest.mark.parametrize("database", ["sqlite"], indirect=True)


class Clock:
    """The time of day, which a test may set."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.set_by = 0.0
        real = time.time
        monkeypatch.setattr(time, "time", lambda: real() + self.set_by)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


def fail(engine: Engine) -> None:
    with engine.begin() as connection:
        insert(connection, "FAILURE")


def failures(follower: Follower) -> float | None:
    return follower.value("celery_task_results_total", state="FAILURE")


@pytest.mark.parametrize("kept", ["in memory", "in a checkpoint", "over a restart"])
def test_what_was_shown_stays_shown(
    database: Database, engine: Engine, clock: Clock, tmp_path: Path, kept: str
) -> None:
    """1, then 0, then 2 would be an increase by two."""
    checkpoint: Checkpoint | None = None
    if kept != "in memory":
        checkpoint = open_file(tmp_path / "checkpoint.sqlite")
    follower = Follower(database.reader_url, checkpoint, first_zero=60.0).poll()
    fail(engine)
    assert failures(follower.poll()) == 0
    clock.set_by = 61.0
    assert failures(follower.poll()) == 1
    clock.set_by = 20.0
    if kept == "over a restart":
        follower.close()
        follower = Follower(database.reader_url, checkpoint, first_zero=60.0)
        follower.poller.publish()
        assert failures(follower) == 1
    fail(engine)
    assert failures(follower.poll()) == 2
    follower.close()
    if checkpoint is not None:
        checkpoint.close()


def test_first_zero_does_not_wait_for_the_clock_to_return(
    database: Database, engine: Engine, clock: Clock
) -> None:
    follower = Follower(database.reader_url, first_zero=60.0).poll()
    fail(engine)
    assert failures(follower.poll()) == 0
    clock.set_by = -36_000.0
    assert failures(follower.poll()) == 0
    clock.set_by += 61.0
    assert failures(follower.poll()) == 1
    follower.close()


@pytest.mark.parametrize("restart", [False, True])
def test_first_zero_ends_while_the_database_is_down(
    database: Database, engine: Engine, clock: Clock, tmp_path: Path, *, restart: bool
) -> None:
    """The failure is counted and kept: whoever waits for it need not wait for the database."""
    checkpoint = open_file(tmp_path / "checkpoint.sqlite")
    follower = Follower(database.reader_url, checkpoint, first_zero=60.0).poll()
    fail(engine)
    assert failures(follower.poll()) == 0
    engine.dispose()
    Path(str(database.owner.database)).unlink()
    follower.poller.follower.database.close()
    if restart:
        follower.close()
        follower = Follower(database.reader_url, checkpoint, first_zero=60.0)
        assert failures(follower) == 0
    clock.set_by = 61.0
    assert not follower.poller.try_poll()
    assert failures(follower) == 1
    follower.close()
    again = Follower(database.reader_url, checkpoint, first_zero=60.0)
    clock.set_by = 0.0
    again.poller.publish()
    assert failures(again) == 1
    checkpoint.close()
