"""How what is polled changes while it is."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from exporter.checkpoint.checkpoint import Checkpoint
from exporter.checkpoint.ownfile import OwnFile
from exporter.config.loading import from_url
from exporter.errors import CheckpointError
from exporter.exposition.exposition import Exposition
from exporter.runtime.polling import Polling
from tests.follow import create_tables, insert
from tests.servers.database import SQLite
from tests.servers.process import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from sqlalchemy import Connection


class Failing(OwnFile):
    """A checkpoint that is out of reach for a while."""

    out_of_reach = False

    @contextmanager
    def transaction(self, seconds: float | None = None) -> Iterator[Connection]:
        if self.out_of_reach:
            raise CheckpointError("out of reach")
        with super().transaction(seconds) as connection:
            yield connection


def test_what_changes_while_the_checkpoint_is_out_of_reach_goes_on_later(tmp_path: Path) -> None:
    with SQLite(tmp_path).fresh_database() as database:
        with create_tables(database).begin() as connection:
            insert(connection)
        store = Failing(tmp_path / "kept.sqlite")
        checkpoint = Checkpoint(store)
        checkpoint.open()
        config = from_url(database.reader_url, poll_interval=0.1, start="beginning")
        polling = Polling(config.backends, Exposition(), checkpoint)

        def counted() -> dict[str, int]:
            (poller,) = polling.pollers
            return {state: count for _, state, count in poller.follower.tally.by_task() if count}

        polling.start()
        try:
            wait_until(lambda: counted() == {"SUCCESS": 1}, "the first")
            (old,) = polling.pollers
            store.out_of_reach = True
            polling.change([old.settings.model_copy(update={"poll_interval": 0.2})])
            (new,) = polling.pollers
            wait_until(lambda: polling.all() == [new], "the end of the old one")
            wait_until(new.tried.is_set, "a poll in vain")
            assert "out of reach" in new.polls.message
            with database.engine().begin() as connection:
                insert(connection)
            store.out_of_reach = False
            wait_until(lambda: counted() == {"SUCCESS": 2}, "both, each once")
        finally:
            polling.stop()
            polling.end(10.0)


def test_what_is_added_once_all_were_tried_is_not_waited_for(tmp_path: Path) -> None:
    with SQLite(tmp_path).fresh_database() as database:
        create_tables(database)
        (one,) = from_url(database.reader_url).backends
    two, three = (one.model_copy(update={"name": name}) for name in ("two", "three"))
    polling = Polling([], Exposition(), None)

    def try_all() -> None:
        for poller in polling.pollers:
            poller.try_once()

    polling.change([one])
    assert polling.untried() == [one.name]
    polling.change([one, two])
    assert polling.untried() == [one.name, "two"]
    polling.change([two])
    assert polling.untried() == ["two"]
    try_all()
    polling.change([two, three])  # nobody has asked in between
    assert polling.untried() == []
    polling.change([])
    polling.change([three])
    assert polling.untried() == ["three"]
    try_all()
    assert polling.untried() == []
