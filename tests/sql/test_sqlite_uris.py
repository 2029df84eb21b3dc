"""SQLite's own URIs, which Celery takes: the exporter reads the file that Celery writes."""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import quote

import pytest
from celery.backends.database.session import ResultModelBase
from sqlalchemy import NullPool, create_engine

from exporter.backends.database import Database
from exporter.config import loading
from exporter.errors import BackendError
from tests.acceptance.process import run, write
from tests.follow import Follower, insert
from tests.scrape import Scrape

if TYPE_CHECKING:
    from pathlib import Path


def store(url: str, rows: int = 1) -> None:
    """Store results as Celery does, by SQLAlchemy's reading of the URL."""
    engine = create_engine(url, poolclass=NullPool)
    ResultModelBase.metadata.create_all(engine)
    with engine.begin() as connection:
        for _ in range(rows):
            insert(connection)


@pytest.mark.parametrize(
    "form",
    [
        "file:{path}?uri=true",
        "file:{path}?mode=rwc&uri=true",
        "file:{path}?mode=rwc&nolock=1&uri=true",
        "file:{path}?vfs=unix-excl&uri=true",
        "file:{path}?cache=shared&psow=1&immutable=0&uri=1",
        "file://{path}?uri=true",
        "file://localhost{path}?uri=True",
        "file:{path}?uri=true&timeout=10&check_same_thread=false",
        "{path}?timeout=10",
    ],
)
@pytest.mark.parametrize("name", ["x.db", "odd & é.db"])
def test_same_file_as_celery(form: str, name: str, tmp_path: Path) -> None:
    url = "sqlite:///" + form.format(path=quote(f"{tmp_path}/{name}"))
    store(url)
    assert [file.name for file in tmp_path.iterdir()] == [name]
    follower = Follower(url).poll()
    assert follower.states() == {"SUCCESS": 1}
    store(url, 2)
    assert follower.poll().states() == {"SUCCESS": 3}
    follower.close()


def test_always_read_only(tmp_path: Path) -> None:
    """Whatever the mode, the file is waited for, not made."""
    url = f"sqlite:///file:{tmp_path}/x.db?mode=rwc&uri=true"
    follower = Follower(url)
    assert not follower.poller.try_poll()
    assert "does not exist yet" in follower.poller.status.message
    assert not list(tmp_path.iterdir())
    store(url)
    assert follower.poll().states() == {"SUCCESS": 1}
    database = follower.poller.follower.database
    with database.session() as session, pytest.raises(Exception, match="readonly"):
        session.connection.exec_driver_sql("DELETE FROM celery_taskmeta")
    follower.close()


def test_relative_to_the_configuration(tmp_path: Path) -> None:
    """A relative path begins at the file's folder, as a URI too."""
    store(f"sqlite:////{tmp_path}/x.db")
    uri = "sqlite:///file:x.db?mode=ro&uri=true"
    backends = [{"name": "shop", "result_backend": uri, "start": "beginning"}]
    ended = run("once", f"--config.file={write(tmp_path, {'backends': backends})}")
    assert ended.returncode == 0, ended.stderr
    assert Scrape(ended.stdout).sums("celery_task_results_total") == {(): 1}


def test_vfs_that_is_not_there(tmp_path: Path) -> None:
    (tmp_path / "x.db").touch()
    url = f"sqlite:///file:{tmp_path}/x.db?vfs=nonsense&uri=true"
    database = Database(loading.from_url(url).backends[0])
    with pytest.raises(BackendError, match="no such vfs: nonsense"), database.session():
        pass
