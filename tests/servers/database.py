"""One result database as a test sees it, on whatever server."""

from __future__ import annotations

import contextlib
import functools
import itertools
import time
from abc import abstractmethod
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Self

import pytest
from sqlalchemy import URL, NullPool, create_engine, make_url, text

from tests.servers.process import HOST, Server

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from sqlalchemy import Engine

#: With what passwords in URLs trip over.
OWNER_PASSWORD = "own@er:p/w%41#?&+ 1"  # noqa: S105 - of a private server
READER_PASSWORD = "p@ss:w/rd%1#"  # noqa: S105 - likewise


@dataclass(frozen=True)
class Database:
    """A new database with two accounts: the owner writes, the reader may only SELECT."""

    owner: URL
    reader: URL
    server: Server | None = None  # None where there is none to stop: SQLite, TEST_MSSQL_URL

    @property
    def celery_url(self) -> str:
        """Celery's ``result_backend``."""
        return "db+" + self.owner.render_as_string(hide_password=False)

    @property
    def reader_url(self) -> str:
        """What the exporter is given."""
        return self.reader.render_as_string(hide_password=False)

    def engine(self) -> Engine:
        """Return an engine for the owner; it keeps no connection open."""
        return _engine(self.owner)

    def reader_engine(self) -> Engine:
        """Return an engine for the reader; it keeps no connection open."""
        return _engine(self.reader)

    def states(self, table: str = "celery_taskmeta") -> Counter[str]:
        """Count the rows by state: the truth that metrics are compared with."""
        query = text(f"SELECT status, count(*) FROM {table} GROUP BY status")
        with self.engine().connect() as connection:
            return Counter(dict(connection.execute(query).all()))

    def wait_for(
        self, states: dict[str, int], table: str = "celery_taskmeta", timeout: float = 30.0
    ) -> set[str]:
        """Wait until the rows have exactly these states; return all states seen on the way."""
        seen: set[str] = set()
        deadline = time.monotonic() + timeout
        while (present := self.states(table)) != states:
            seen |= present.keys()
            if time.monotonic() > deadline:
                pytest.fail(f"waited {timeout:g} s for {states}; there is {dict(present)}")
            time.sleep(0.05)
        return seen


@functools.lru_cache(maxsize=20)
def _engine(url: URL) -> Engine:
    """Return an engine that has asked the server about itself before, where there is one."""
    return create_engine(url, poolclass=NullPool)


_numbers = itertools.count(1)


def fresh_name() -> str:
    """Return a name that no database of this session had before."""
    return f"results{next(_numbers)}"


class SQLite:
    """Files in a folder. There are no accounts: the reader's URL is the owner's."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @contextlib.contextmanager
    def fresh_database(self) -> Iterator[Database]:
        """Name a file that is not there yet: Celery makes it."""
        url = make_url(f"sqlite:///{self.folder}/{fresh_name()}.sqlite")
        yield Database(url, url)


OWN_TABLES = """SELECT table_name FROM information_schema.tables
    WHERE table_type = 'BASE TABLE' AND table_schema = SCHEMA_NAME()"""


class MSSQL:
    """The server named by TEST_MSSQL_URL: one database, emptied for each test, one account."""

    def __init__(self, url: str) -> None:
        self.url = make_url(url)
        if "test" not in (self.url.database or ""):
            raise ValueError("TEST_MSSQL_URL: all tables are dropped, so name a database '…test…'")

    @contextlib.contextmanager
    def fresh_database(self) -> Iterator[Database]:
        """Empty the database, also of what a broken run left."""
        database = Database(self.url, self.url)
        with database.engine().begin() as connection:
            names = connection.execute(text(OWN_TABLES)).scalars().all()  # no more is reflected
            for name in names:
                connection.exec_driver_sql(f"DROP TABLE [{name}]")
            for sequence in ("task_id_sequence", "taskset_id_sequence"):
                connection.execute(text(f"DROP SEQUENCE IF EXISTS {sequence}"))
        yield database


@functools.lru_cache(maxsize=20)
def _administering(url: URL) -> Engine:
    return create_engine(
        url,
        poolclass=NullPool,
        isolation_level="AUTOCOMMIT",
        execution_options={"no_parameters": True},  # the passwords contain %
    )


class DatabaseServer(Server):
    """A private server with an administrator and the two accounts of a Database."""

    driver: ClassVar[str]
    administrator: ClassVar[str]
    administration: ClassVar[str]  # the database that is always there
    accounts: ClassVar[tuple[str, ...]]  # the statements that create them
    options: ClassVar[dict[str, str]] = {}  # of the administrator's connections

    def set_up(self) -> None:
        """Create what all databases share."""
        self.execute(*self.accounts)

    @abstractmethod
    def create(self, database: str) -> None:
        """Create the database and let the reader read whatever Celery will create in it."""

    @abstractmethod
    def drop(self, database: str) -> None:
        """Drop the database."""

    def url(self, database: str, user: str, password: str, driver: str = "") -> URL:
        """Return the URL of a database for an account."""
        return URL.create(driver or self.driver, user, password, HOST, self.port, database)

    def execute(self, *statements: str, database: str = "") -> None:
        """Run statements as the administrator, each by itself."""
        url = self.url(database or self.administration, self.administrator, OWNER_PASSWORD)
        with _administering(url.update_query_dict(self.options)).connect() as connection:
            for statement in statements:
                connection.exec_driver_sql(statement)

    def __enter__(self) -> Self:
        super().__enter__()
        try:
            self.set_up()
        except BaseException:
            self.__exit__()
            raise
        return self

    @contextlib.contextmanager
    def fresh_database(self, driver: str = "") -> Iterator[Database]:
        """Make an empty database; drop it afterwards, starting the server if a test stopped it."""
        name = fresh_name()
        self.create(name)
        try:
            yield Database(
                self.url(name, "celery", OWNER_PASSWORD, driver),
                self.url(name, "reader", READER_PASSWORD, driver),
                self,
            )
        finally:
            self.start()
            self.drop(name)
