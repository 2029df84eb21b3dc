"""Fixtures that every test may use; tests/servers/ has what they start."""

from __future__ import annotations

import contextlib
import gc
import importlib.util
import os
import shutil
import tempfile
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, settings

from tests.follow import Follower, create_tables
from tests.servers.database import MSSQL, Database, SQLite
from tests.servers.mariadb import MariaDB
from tests.servers.postgresql import PostgreSQL
from tests.servers.process import missing
from tests.servers.prometheus import Prometheus
from tests.servers.redis import Redis
from tests.servers.worker import celery_worker as run_celery_worker
from tests.soak.sizes import LONG

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager

    from sqlalchemy import Engine

    from tests.servers.worker import Workers

# Hundreds of databases are made, each of hundreds of files: in memory where there is room.
MEMORY = Path("/dev/shm")  # noqa: S108 - what is made there has random names
if "TMPDIR" not in os.environ and MEMORY.is_dir() and shutil.disk_usage(MEMORY).free >= 4 << 30:
    os.environ["TMPDIR"] = tempfile.tempdir = str(MEMORY)

# Nobody's certificate is checked against those of the system, yet PyMySQL reads them all for each
# connection: more than the rest of it costs.
os.environ["SSL_CERT_FILE"] = os.devnull

# No test fails because a machine is slow.
settings.register_profile("ours", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("ours")

MARIADB_DRIVERS = {"mariadb-pymysql": "mysql+pymysql", "mariadb-mysqlclient": "mysql+mysqldb"}
DATABASES = ["sqlite", "postgresql", *MARIADB_DRIVERS]
if os.environ.get("TEST_MSSQL_URL"):
    DATABASES.append("mssql")
#: Where real workers write: in the soak through each driver, as the readers' tests read.
WORKED = [name for name in DATABASES if LONG or name != "mariadb-mysqlclient"]


def pytest_collection_finish() -> None:
    """Leave what stays, modules and tests, out of all garbage collections to come."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def postgresql() -> Iterator[PostgreSQL]:
    """Give a PostgreSQL server."""
    with PostgreSQL() as server:
        yield server


@pytest.fixture(scope="session")
def mariadb() -> Iterator[MariaDB]:
    """Give a MariaDB server."""
    with MariaDB() as server:
        yield server


@pytest.fixture(scope="session")
def redis() -> Iterator[Redis]:
    """Give a Redis server."""
    with Redis() as server:
        yield server


@pytest.fixture
def prometheus() -> Iterator[Callable[[str], Prometheus]]:
    """Start Prometheus servers: one for each configuration given."""
    with contextlib.ExitStack() as stack:
        yield lambda config: stack.enter_context(Prometheus(config))


@pytest.fixture(params=DATABASES)
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Database]:
    """Give a new, empty database, once on each kind of server."""
    with fresh_database(request, tmp_path) as database:
        yield database


@pytest.fixture
def engine(database: Database) -> Engine:
    """Give the owner's engine, with Celery's tables in the database."""
    return create_tables(database)


@pytest.fixture
def follower(database: Database, engine: Engine) -> Iterator[Follower]:
    """Give a poller of these tables without its thread."""
    assert engine, "the tables are there"
    follower = Follower(database.reader_url)
    yield follower
    follower.close()


def fresh_database(
    request: pytest.FixtureRequest, folder: Path
) -> AbstractContextManager[Database]:
    match request.param:
        case "sqlite":
            return SQLite(folder).fresh_database()
        case "postgresql":
            postgresql: PostgreSQL = request.getfixturevalue("postgresql")
            return postgresql.fresh_database()
        case "mariadb-pymysql" | "mariadb-mysqlclient" as kind:
            if kind == "mariadb-mysqlclient" and importlib.util.find_spec("MySQLdb") is None:
                missing("mysqlclient is not installed")
            mariadb: MariaDB = request.getfixturevalue("mariadb")
            return mariadb.fresh_database(MARIADB_DRIVERS[kind])
        case kind:
            assert kind == "mssql"
            return MSSQL(os.environ["TEST_MSSQL_URL"]).fresh_database()


@pytest.fixture
def broker(redis: Redis) -> str:
    """Give the URL of an empty broker."""
    return redis.fresh_url()


@pytest.fixture
def celery_worker(broker: str, tmp_path: Path) -> Workers:
    """Run real Celery workers: ``with celery_worker(database, processes=4) as worker``."""
    return partial(run_celery_worker, broker=broker, folder=tmp_path)
