"""`verify`: what the tables hold against what was counted."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from sqlalchemy import delete

from exporter.checkpoint.checkpoint import Checkpoint, open_file
from exporter.checkpoint.store import IN_A_DATABASE, Store
from exporter.commands.verify import verify
from exporter.config.settings import Config
from exporter.counting.lifecycle import Rules
from tests.follow import TASKS, Follower, insert, update

if TYPE_CHECKING:
    from pathlib import Path

    from sqlalchemy import Engine

    from tests.servers.database import Database


def verified(follower: Follower, path: Path, capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    code = verify(Config((follower.poller.settings,), path, 0.0))
    return code, capsys.readouterr().out


@pytest.mark.parametrize("start", ["beginning", "end"])
def test_counts_that_hold(
    database: Database,
    engine: Engine,
    tmp_path: Path,
    start: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Beside a running exporter; what changed since its last poll is no difference."""
    path = tmp_path / "checkpoint.sqlite"
    with engine.begin() as connection:
        insert(connection, id=1)
        old = insert(connection, "STARTED", id=2)
    checkpoint = open_file(path)
    follower = Follower(database.reader_url, checkpoint, start=start).poll()
    with engine.begin() as connection:
        update(connection, old, "SUCCESS")
        gone = insert(connection, "FAILURE", id=4)
        running = insert(connection, "STARTED", id=6)
        for row in range(7, 10):
            insert(connection, id=row, name="app.other")
    follower.poll()
    with engine.begin() as connection:
        connection.execute(delete(TASKS).where(TASKS.c.id == gone))
        update(connection, running, "SUCCESS")  # ended, came late, new: not yet polled
        insert(connection, id=5)
        insert(connection, id=20)
    code, out = verified(follower, path, capsys)
    counted, present = (6, 5) if start == "beginning" else (5, 4 - 1)
    assert f"{present} present, {counted} counted, 0 missing" in out
    assert code == 0
    assert "app.other  SUCCESS  w1@host  celery  3        3        0" in out
    follower.close()
    checkpoint.close()


def test_names_that_make_one_label(
    database: Database, engine: Engine, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "checkpoint.sqlite"
    with engine.begin() as connection:
        for name in (None, ""):
            insert(connection, name=name)
    checkpoint = open_file(path)
    follower = Follower(database.reader_url, checkpoint).poll()
    code, out = verified(follower, path, capsys)
    assert "2 present, 2 counted, 0 missing" in out
    assert code == 0
    follower.close()
    checkpoint.close()


@pytest.mark.parametrize("database", ["sqlite"], indirect=True)
def test_row_that_was_not_counted(
    database: Database, engine: Engine, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Celery <= 5.6 may overwrite SUCCESS, which nobody watches."""
    path = tmp_path / "checkpoint.sqlite"
    with engine.begin() as connection:
        row = insert(connection)
    checkpoint = open_file(path)
    follower = Follower(database.reader_url, checkpoint).poll()
    with engine.begin() as connection:
        update(connection, row, "REVOKED")
    code, out = verified(follower, path, capsys)
    assert "1 present, 1 counted, 1 missing" in out
    assert code == 1
    follower.close()
    checkpoint.close()


@pytest.mark.parametrize("polled", [False, True])
def test_name_that_came_after_the_count(
    database: Database,
    engine: Engine,
    tmp_path: Path,
    polled: bool,  # noqa: FBT001
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A revoked row counts without a name, then with it; also where the last poll was before."""
    path = tmp_path / "checkpoint.sqlite"
    nameless = {"name": None, "worker": None, "queue": None}
    with engine.begin() as connection:
        insert(connection)
        row = insert(connection, "REVOKED", **nameless)
    checkpoint = open_file(path)
    follower = Follower(database.reader_url, checkpoint, late_commit_grace=0.05).poll().poll()
    assert follower.states() == {"SUCCESS": 1, "REVOKED": 1}
    with engine.begin() as connection:
        update(connection, row, "REVOKED", name="app.add", worker="w1@host", queue="celery")
    if polled:
        follower.poll()
    code, out = verified(follower, path, capsys)
    assert "0 missing" in out
    assert code == 0
    follower.close()
    checkpoint.close()


@pytest.mark.parametrize("database", ["sqlite"], indirect=True)
def test_revision_hides_no_row_that_was_not_counted(
    database: Database, engine: Engine, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of each state there is no more than what was counted less what was revised, as R4 has it."""
    path = tmp_path / "checkpoint.sqlite"
    with engine.begin() as connection:
        failed, lost = insert(connection, "FAILURE"), insert(connection)
    checkpoint = open_file(path)
    follower = Follower(database.reader_url, checkpoint).poll()
    with engine.begin() as connection:
        update(connection, failed, "SUCCESS")
    follower.poll()
    code, out = verified(follower, path, capsys)
    assert "2 present, 3 counted, 1 of them revised, 0 missing" in out
    assert code == 0
    with engine.begin() as connection:
        update(connection, lost, "FAILURE")
    code, out = verified(follower, path, capsys)
    assert "2 present, 3 counted, 1 of them revised, 1 missing" in out
    assert "FAILURE: 1 more missing, hidden by revisions" in out
    assert code == 1
    follower.close()
    checkpoint.close()


def test_checkpoint_in_a_database(
    database: Database, engine: Engine, capsys: pytest.CaptureFixture[str]
) -> None:
    """Beside the process that writes it."""
    with engine.begin() as connection:
        insert(connection)
        insert(connection, "FAILURE")
    checkpoint = Checkpoint(Store(database.owner, IN_A_DATABASE))
    checkpoint.open()
    follower = Follower(database.reader_url, checkpoint).poll()
    config = Config((follower.poller.settings,), database.owner, 0.0)
    assert verify(config) == 0
    assert "2 present, 2 counted, 0 missing" in capsys.readouterr().out
    follower.close()
    checkpoint.close()


@pytest.mark.parametrize("database", ["sqlite"], indirect=True)
def test_hostile_text_is_only_text(
    database: Database, engine: Engine, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A row is a line, of bounded width, and nothing in it is obeyed by a terminal."""
    path = tmp_path / "checkpoint.sqlite"
    with engine.begin() as connection:
        for name in ("a\x1b]0;owned\x07\nb\u202e", "x" * 255):
            insert(connection, name=name, worker="w" * 255, queue="q" * 255)
    checkpoint = open_file(path)
    follower = Follower(database.reader_url, checkpoint).poll()
    code, out = verified(follower, path, capsys)
    assert code == 0
    total, _, *rows = out.splitlines()
    assert total.endswith("2 present, 2 counted, 0 missing")
    assert out.replace("\n", "").isprintable()
    assert r"a\x1b]0;owned\x07\nb\u202e " in out
    assert len(rows) == 2
    assert max(map(len, rows)) < 200
    follower.close()
    checkpoint.close()


def test_reader_that_errs_is_found(
    database: Database,
    engine: Engine,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What is present is counted without an expression of the reader's, portion by portion."""
    path = tmp_path / "checkpoint.sqlite"
    with engine.begin() as connection:
        for name in ("mail.send", "Mail.send", "mail.send ", None, "메일"):
            insert(connection, name=name)
            insert(connection, "FAILURE", name=name)
    checkpoint = open_file(path)
    # No other test has this zone, so the reader is made here, and errs nowhere else.
    follower = Follower(database.reader_url, checkpoint, timezone="Pacific/Chatham")
    monkeypatch.setattr("exporter.backends.present.PORTION", 3)
    monkeypatch.setattr("exporter.backends.probe.ask", lambda *_: None)
    with monkeypatch.context() as patch:
        patch.setattr(
            type(follower.poller.follower.database.dialect), "text", lambda _, value: str(value)[:3]
        )
        follower.poll()
        code, out = verified(follower, path, capsys)
        assert "10 present" in out
        assert code == 1
    follower.close()
    checkpoint.close()
    other = tmp_path / "other.sqlite"
    checkpoint = open_file(other)
    follower = Follower(database.reader_url, checkpoint).poll()
    code, out = verified(follower, other, capsys)
    assert "9 present, 9 counted, 0 missing" in out  # a failure waits for its name
    assert code == 0
    follower.close()
    checkpoint.close()


@pytest.mark.parametrize("database", ["sqlite"], indirect=True)
def test_watched_rows_beyond_the_limit_are_compared_too(
    database: Database, engine: Engine, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """More combinations of labels than `verify` keeps of the rows that may still change."""
    path = tmp_path / "checkpoint.sqlite"
    rows = Rules().label_sets // 2 + 500
    with engine.begin() as connection:
        failed = [{"task_id": f"{n}", "status": "FAILURE", "worker": f"w{n}"} for n in range(rows)]
        connection.execute(TASKS.insert(), failed)
    checkpoint = open_file(path)
    follower = Follower(database.reader_url, checkpoint, series_limit=200).poll()
    code, out = verified(follower, path, capsys)
    assert f"{rows} present, {rows} counted, 0 missing" in out
    assert code == 0
    follower.close()
    checkpoint.close()
