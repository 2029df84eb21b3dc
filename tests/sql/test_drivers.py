"""Drivers that URLs name beside those that every test runs with: they count and fail alike."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from sqlalchemy import URL

from exporter.backends.database import Database as Reading
from exporter.config.loading import from_url
from exporter.errors import BackendError, Reason
from tests.follow import Follower, create_tables, insert
from tests.servers import caching_sha2
from tests.servers.database import READER_PASSWORD, Database, DatabaseServer
from tests.servers.process import HOST

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.servers.mariadb import MariaDB
    from tests.servers.postgresql import PostgreSQL

DRIVERS = (
    "postgresql+psycopg2",
    "postgresql+pg8000",
    "mysql+mysqlconnector",
    "mariadb+pymysql",
    "mariadb+mysqlconnector",
)


@pytest.fixture(params=DRIVERS)
def results(
    request: pytest.FixtureRequest, postgresql: PostgreSQL, mariadb: MariaDB
) -> Iterator[Database]:
    """Give a database whose reader has the driver's URL; it has one result."""
    server = postgresql if request.param.startswith("postgresql") else mariadb
    with server.fresh_database() as database:
        with create_tables(database).begin() as connection:
            insert(connection, name="메일 é ")
        name = str(database.owner.database)
        reader = server.url(name, "reader", READER_PASSWORD, request.param)
        yield Database(database.owner, reader, server)


def why(url: str) -> BackendError:
    """Return why this cannot be read."""
    database = Reading(from_url(url).backends[0])
    with pytest.raises(BackendError) as caught, database.session():
        pass
    assert not caught.value.unexpected
    return caught.value


def test_counts(results: Database) -> None:
    """Also after the server was away: a connection that has died is replaced."""
    follower = Follower(results.reader_url).poll()
    assert follower.value("celery_task_results_total", task="메일 é ", state="SUCCESS") == 1
    assert follower.poller.status.server.endswith(results.reader.get_driver_name())
    assert results.server is not None
    results.server.stop()
    results.server.start()
    with results.engine().begin() as connection:
        insert(connection, "FAILURE", result=b"", traceback="x\nValueError: y")
    assert follower.poll().states() == {"SUCCESS": 1, "FAILURE": 1}
    follower.close()


def test_wrong_password(results: Database) -> None:
    url = results.reader.set(password="hunter2")  # noqa: S106 - it is wrong
    error = why(url.render_as_string(hide_password=False))
    assert error.reason is Reason.CONNECT
    assert "reader" in str(error)
    assert "{" not in str(error)


def test_no_right(results: Database) -> None:
    server, name = results.server, str(results.owner.database)
    assert isinstance(server, DatabaseServer)
    if results.owner.get_backend_name() == "postgresql":
        server.execute("REVOKE SELECT ON celery_taskmeta FROM reader", database=name)
    else:
        server.execute(
            f"REVOKE SELECT ON {name}.* FROM reader@'%'",
            f"GRANT SELECT ON {name}.celery_tasksetmeta TO reader@'%'",
        )
    try:
        assert why(results.reader_url).reason is Reason.PERMISSION
    finally:
        if results.owner.get_backend_name() == "mysql":  # the fixture takes back what it gave
            server.execute(f"GRANT SELECT ON {name}.* TO reader@'%'")


def test_locked_table(results: Database) -> None:
    lock = {
        "postgresql": "LOCK TABLE celery_taskmeta IN ACCESS EXCLUSIVE MODE",
        "mysql": "LOCK TABLES celery_taskmeta WRITE",
    }[results.owner.get_backend_name()]
    database = Reading(from_url(results.reader_url, query_timeout=2.0).backends[0])
    with database.session():
        pass
    with results.engine().connect() as connection:
        connection.exec_driver_sql(lock)
        with pytest.raises(BackendError) as caught, database.session() as session:
            session.connection.exec_driver_sql("SELECT * FROM celery_taskmeta")
    assert caught.value.reason is Reason.TIMEOUT


def test_reader_gives_up_before_a_deadlock_is_looked_for(postgresql: PostgreSQL) -> None:
    """Or the server ends who drops both tables, seen once, where we read one and wait for one."""
    names = "'deadlock_timeout', 'lock_timeout'"
    asked = f"SELECT setting::int FROM pg_settings WHERE name IN ({names}) ORDER BY name"
    with postgresql.fresh_database() as results:
        create_tables(results)
        database = Reading(from_url(results.reader_url).backends[0])
        with database.session() as session:
            deadlock, lock = session.connection.exec_driver_sql(asked).scalars()
        database.close()
    assert 0 < lock < deadlock / 2


def test_misspelt_argument(results: Database) -> None:
    """Each driver has its own error for it."""
    options = {"connect_args": {"conect_timeout": 5}}
    settings = from_url(results.reader_url, database_engine_options=options).backends[0]
    with pytest.raises(BackendError, match="takes no argument 'conect_timeout'") as caught:
        Reading(settings).session().__enter__()
    assert caught.value.reason is Reason.CONNECT


def test_account_by_ed25519(mariadb: MariaDB) -> None:
    with mariadb.fresh_database() as database:
        with create_tables(database).begin() as connection:
            insert(connection)
        name = str(database.owner.database)
        mariadb.execute(
            "INSTALL SONAME 'auth_ed25519'",
            "CREATE OR REPLACE USER signer@'%' IDENTIFIED VIA ed25519 "
            f"USING PASSWORD('{READER_PASSWORD}')",
            f"GRANT SELECT ON {name}.* TO signer@'%'",
        )
        url = mariadb.url(name, "signer", READER_PASSWORD)
        follower = Follower(url.render_as_string(hide_password=False)).poll()
        assert follower.states() == {"SUCCESS": 1}
        follower.close()


def test_account_by_caching_sha2_password(monkeypatch: pytest.MonkeyPatch) -> None:
    """As MySQL 8 has them: of a real one these are the first packets only."""
    with caching_sha2.server(READER_PASSWORD) as port:
        url = URL.create("mysql+pymysql", "reader", READER_PASSWORD, HOST, port, "shop")
        text = url.render_as_string(hide_password=False)
        assert "Unknown database" in str(why(text))  # so it has let us in
        wrong = url.set(password="hunter2").render_as_string(hide_password=False)  # noqa: S106
        assert "Access denied" in str(why(wrong))
        monkeypatch.setattr("pymysql._auth._have_cryptography", False)
        assert str(why(text)).endswith("pip install 'pymysql[rsa]'")
