"""Real servers and filled tables, started and filled when a benchmark first asks for them."""

from __future__ import annotations

import tempfile
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from bench import tables
from bench.tables import Shape
from exporter.config.loading import from_url
from exporter.exposition.exposition import Exposition
from exporter.runtime.poller import Poller
from exporter.sql import dialects
from tests.servers.database import Database, DatabaseServer, SQLite
from tests.servers.mariadb import MariaDB
from tests.servers.postgresql import PostgreSQL

KINDS = {"postgresql": "PostgreSQL", "mariadb": "MariaDB", "sqlite": "SQLite"}


@dataclass(frozen=True)
class Sizes:
    """How much of everything."""

    tables: tuple[int, ...] = (10_000, 100_000, 1_000_000, 10_000_000)
    backlogs: tuple[int, ...] = (1_000, 10_000, 100_000, 1_000_000)
    rounds: int = 5  # of what takes long
    polls: int = 100
    scrapes: int = 1_000
    unfinished: int = 100_000
    seconds: float = 60.0  # of what is watched for a time
    backends: tuple[int, ...] = (1, 10, 50, 200)

    @property
    def backlog(self) -> int:
        """The largest."""
        return self.backlogs[-1]


QUICK = Sizes(
    tables=(10_000, 100_000),
    backlogs=(1_000, 10_000, 100_000),
    rounds=2,
    polls=25,
    scrapes=150,
    unfinished=5_000,
    seconds=6.0,
    backends=(1, 10, 25),
)


class RoomyMariaDB(MariaDB):
    """As a server is set up that has to hold such tables; the default is 128 MiB."""

    def command(self) -> list[str]:
        return [*super().command(), "--innodb-buffer-pool-size=2G"]


class RoomyPostgreSQL(PostgreSQL):
    """As a server is set up that many connect to."""

    def command(self) -> list[str]:
        return [*super().command(), "--max_connections=300"]


SERVERS: dict[str, type[DatabaseServer]] = {"postgresql": RoomyPostgreSQL, "mariadb": RoomyMariaDB}


class Lab:
    """A context manager; at its end all is gone."""

    def __init__(self, sizes: Sizes) -> None:
        self.sizes = sizes
        self.versions: set[str] = set()  # of what was run
        self._stack = ExitStack()
        self._servers: dict[str, DatabaseServer | SQLite] = {}
        self._databases: dict[tuple[str, Shape], Database] = {}

    def __enter__(self) -> Self:
        self.folder = Path(self._stack.enter_context(tempfile.TemporaryDirectory()))
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def database(self, kind: str, shape: Shape) -> Database:
        """Return a database with such a table: the same one to all that ask."""
        if (kind, shape) not in self._databases:
            self._databases[kind, shape] = self.fresh_database(kind, shape)
        return self._databases[kind, shape]

    def fresh_database(self, kind: str, shape: Shape) -> Database:
        """Return a database with such a table, to be written to."""
        database = self._stack.enter_context(self._server(kind).fresh_database())
        engine = database.engine()
        tables.fill(engine, shape)
        with engine.connect() as connection:
            dialect = dialects.of(engine.dialect.name, dialects.Limits(5.0, 10.0))
            self.versions.add(dialect.server(connection))
        return database

    def _server(self, kind: str) -> DatabaseServer | SQLite:
        if kind not in self._servers:
            self._servers[kind] = self._start(kind)
        return self._servers[kind]

    def _start(self, kind: str) -> DatabaseServer | SQLite:
        if kind == "sqlite":
            return SQLite(self.folder)
        return self._stack.enter_context(SERVERS[kind]())

    def new_folder(self) -> Path:
        """Return an empty folder."""
        return Path(tempfile.mkdtemp(dir=self.folder))


def poller(database: Database, **settings: Any) -> Poller:
    """Return a poller without its thread."""
    return Poller(from_url(database.reader_url, **settings).backends[0], Exposition())


def poll(poller: Poller) -> None:
    """Poll to the end of what there is, and insist that it worked."""
    if not poller.try_poll():
        raise RuntimeError(poller.status.message)
