"""The checkpoint as an operator meets it: moved results, a wrong path, a file that is deleted."""

from __future__ import annotations

import shutil
import signal
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.acceptance.process import FAST, run, running, write
from tests.follow import create_tables, insert
from tests.servers.database import SQLite

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from tests.servers.database import Database

RESULTS = "celery_task_results_total"


@pytest.fixture
def results(tmp_path: Path) -> Iterator[Database]:
    with SQLite(tmp_path).fresh_database() as database:
        with create_tables(database).begin() as connection:
            insert(connection)
        yield database


def config(checkpoint: Path, **backends: str) -> dict[str, Any]:
    """Return a configuration of backends by name; they begin at the end of what is there."""
    entries = [{"name": k, "result_backend": url} | FAST for k, url in backends.items()]
    return {"checkpoint": {"path": str(checkpoint)}, "backends": entries}


def file(database: Database) -> Path:
    return Path(str(database.reader.database))


def test_backend_that_has_moved(results: Database, tmp_path: Path) -> None:
    """It is down, and says what is what; its counts are served, and the other goes on."""
    with SQLite(tmp_path).fresh_database() as other:
        with create_tables(other).begin() as connection:
            insert(connection, "FAILURE")
        path = tmp_path / "checkpoint.sqlite"
        settings = config(path, shop=results.reader_url, mail=other.reader_url)
        flag = f"--config.file={write(tmp_path, settings)}"
        assert run("once", flag).returncode == 0

        moved = tmp_path / "moved.sqlite"
        shutil.copy(file(results), moved)
        settings = config(path, shop=f"sqlite:///{moved}", mail=other.reader_url)
        refusal = (
            f"the checkpoint holds counts of celery_taskmeta of sqlite {file(results)}, and this "
            f"is celery_taskmeta of sqlite {moved}: if the results have moved there, say so once "
            "with --checkpoint.adopt=shop; if these are others, give the backend another name"
        )
        with running(tmp_path, settings) as exporter:
            assert refusal in exporter.wait_for_log("poll failed", "reason=checkpoint")
            exporter.wait_for("celery_backend_up", 0, backend="shop")
            with other.engine().begin() as connection:
                insert(connection, "FAILURE")
            exporter.wait_for(RESULTS, 2, backend="mail", state="FAILURE")
            assert exporter.scrape().value(RESULTS, backend="shop", state="SUCCESS") == 1
            for command in ("check", "verify"):
                said = run(command, flag)
                assert refusal in said.stdout
                assert said.returncode == 1
        with running(tmp_path, settings, "--checkpoint.adopt=shop") as exporter:
            line = exporter.wait_for_log("adopted", "backend=shop")
            assert str(moved) in line
            exporter.wait_for("celery_backend_up", 1, backend="shop")
        verified = run("verify", flag)
        assert (verified.returncode, verified.stdout.count("0 missing")) == (0, 2)


@pytest.mark.parametrize("command", ["run", "once", "check", "verify"])
def test_adopting_nobody_is_refused(results: Database, tmp_path: Path, command: str) -> None:
    settings = config(tmp_path / "checkpoint.sqlite", shop=results.reader_url)
    flag = f"--config.file={write(tmp_path, settings)}"
    refused = run(command, flag, CELERY_RESULTS_EXPORTER_CHECKPOINT_ADOPT="shop,mail")
    assert refused.returncode == 2
    assert "CELERY_RESULTS_EXPORTER_CHECKPOINT_ADOPT: there is no backend 'mail'" in refused.stderr


@pytest.mark.parametrize("command", ["run", "once", "check", "verify"])
def test_path_of_the_results_is_refused(results: Database, tmp_path: Path, command: str) -> None:
    """By another name, too: a symbolic link, a URL."""
    link = tmp_path / "link.sqlite"
    link.symlink_to(file(results))
    before = file(results).read_bytes()
    for place in ({"path": str(file(results))}, {"path": str(link)}, {"url": results.reader_url}):
        settings = config(link, shop=results.reader_url) | {"checkpoint": place}
        refused = run(command, f"--config.file={write(tmp_path, settings)}")
        assert refused.returncode == 2
        assert "checkpoint: is the file that backends[0] reads" in refused.stderr
    assert file(results).read_bytes() == before


@pytest.mark.parametrize("command", ["run", "once", "check", "verify"])
def test_path_of_another_database_is_refused(
    results: Database, tmp_path: Path, command: str
) -> None:
    path = tmp_path / "other.sqlite"
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE accounts (id INTEGER)")
    before = path.read_bytes()
    settings = config(path, shop=results.reader_url)
    refused = run(command, f"--config.file={write(tmp_path, settings)}")
    assert refused.returncode == 1
    assert f"checkpoint {path}: is a file of something else" in refused.stdout + refused.stderr
    assert "Traceback" not in refused.stderr
    assert path.read_bytes() == before


@pytest.mark.parametrize("overwritten", [False, True])
def test_lost_checkpoint_is_written_anew(
    results: Database, tmp_path: Path, *, overwritten: bool
) -> None:
    """Deleted, or an older one copied over it: said in log, metric and page; a kill loses none."""
    path = tmp_path / "kept" / "checkpoint.sqlite"
    path.parent.mkdir()
    settings = config(path, shop=results.reader_url)
    assert run("once", f"--config.file={write(tmp_path, settings)}").returncode == 0
    older = shutil.copy(path, tmp_path / "older.sqlite")
    with running(tmp_path, settings) as exporter:
        with results.engine().begin() as connection:
            for number in range(200):
                insert(connection, name=f"task{number}")
        exporter.wait_until(lambda: exporter.scrape().sums(RESULTS)[()] == 201, "201 results")
        if overwritten:
            shutil.copyfile(older, path)
        else:
            for found in path.parent.iterdir():
                found.unlink()
        exporter.wait_for("celery_results_exporter_checkpoint_rewrites_total", 1)
        exporter.wait_for_log("deleted or replaced while in use", "backend=shop")
        assert "written anew from memory" in exporter.get("/").body
        if overwritten:
            kept = exporter.logged("what was there is kept").partition("kept_as=")[2]
            with closing(sqlite3.connect(kept)) as now, closing(sqlite3.connect(older)) as then:
                assert list(now.iterdump()) == list(then.iterdump())
        exporter.kill()
    with results.engine().begin() as connection:
        connection.exec_driver_sql("DELETE FROM celery_taskmeta")
    with running(tmp_path, settings) as exporter:
        exporter.wait_for("celery_backend_up", 1)
        assert exporter.scrape().sums(RESULTS)[()] == 201
        exporter.stop(signal.SIGTERM)
