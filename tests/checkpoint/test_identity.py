"""Which table counts belong to: many spellings of one, and two that look like one."""

from __future__ import annotations

import contextlib
import logging
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from celery.backends.database.session import ResultModelBase
from sqlalchemy import URL, make_url, text

from exporter.checkpoint.checkpoint import open_file
from exporter.sql import dialects
from exporter.sql.identity import Identity
from tests.follow import Follower, create_tables, insert
from tests.servers.database import OWNER_PASSWORD, READER_PASSWORD, Database, SQLite
from tests.servers.postgresql import PostgreSQL

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.servers.mariadb import MariaDB

#: Each line is one place.
SPELLINGS: list[tuple[str, ...]] = [
    (
        "postgresql://h/db",
        "postgresql+psycopg://user:secret@H:5432/db",
        "postgresql+psycopg2:///db?host=h",
        "postgresql://user:secret@/db?host=h&port=5432",
        "postgresql:///?host=h&dbname=db",
        "postgresql:///db?host=h:5432",
    ),
    ("postgresql://h:5433/db", "postgresql:///db?host=h&port=5433", "postgresql:///db?host=h:5433"),
    ("postgresql:///db?host=a&host=b", "postgresql:///db?host=a:5432&host=b:5432"),
    ("postgresql:///db?host=/run/postgresql",),
    ("postgresql:///?service=orders", "postgresql://user:secret@/?service=orders"),
    (
        "mysql://h/db",
        "mariadb+pymysql://user:secret@h:3306/db",
        "mysql+mysqldb://h/db?charset=utf8",
    ),
    ("mysql:///db?unix_socket=/run/s", "mysql://localhost:3307/db?unix_socket=/run/s"),
    ("mysql:///?read_default_file=/etc/my.cnf",),
    (
        "mssql+pyodbc://h/db?driver=ODBC+Driver+18",
        "mssql+pyodbc://user:secret@h:1433/db",
        "mssql+pyodbc:///?odbc_connect=Driver%3D{x};Server%3Dtcp:h,1433;Database%3Ddb;UID%3Du;PWD%3D{secret;Server%3Dx}",
    ),
    ("mssql+pyodbc://dsn", "mssql+pyodbc://user:secret@dsn"),
    ("sqlite:////x/y.db", "sqlite:////x/../x/y.db", "sqlite:///file:/x/y.db?mode=ro&uri=true"),
]


def _url(text: str) -> URL:
    """Return it as the configuration has it."""
    url = make_url(text)
    return dialects.named(url.get_backend_name()).plain(url)


def place(url: URL, connect_args: dict[str, object]) -> str:
    return dialects.named(url.get_backend_name()).place(url, connect_args)


def test_spellings_of_one_place_are_one() -> None:
    found = [{place(_url(url), {}) for url in urls} for urls in SPELLINGS]
    assert [len(places) for places in found] == [1] * len(SPELLINGS)
    assert len(set().union(*found)) == len(SPELLINGS)
    assert "secret" not in str(found)


@pytest.mark.parametrize(
    ("url", "arguments"),
    [
        ("postgresql:///db", {"host": "h", "password": "secret"}),
        ("postgresql:///", {"host": "h", "port": 5432, "dbname": "db"}),
    ],
)
def test_connect_args_are_part_of_the_place(url: str, arguments: dict[str, object]) -> None:
    assert place(make_url(url), arguments) == "postgresql h db"


@pytest.mark.parametrize(
    ("kept", "found", "same"),
    [
        ({}, {}, True),
        ({}, {"place": "elsewhere"}, False),
        ({}, {"table": "other"}, False),
        ({"server": "1"}, {"server": "1", "place": "elsewhere"}, True),  # renamed
        ({"server": "1"}, {"server": "2"}, True),  # a replica that took over
        ({"server": "1"}, {"server": "2", "lasting": True}, False),
        ({"server": "1"}, {"server": "2", "place": "elsewhere"}, False),
        ({"server": "1", "database": "a"}, {"server": "1", "database": "b"}, False),
        ({"server": "1"}, {"server": "1", "table": "other"}, False),
        ({"server": "1"}, {}, True),  # that does not say it any longer
        ({"server": "1"}, {"place": "elsewhere"}, False),
        ({}, {"server": "1"}, True),
        ({"full_name": "db.t"}, {"full_name": "db.t", "table": "db.t"}, True),
        ({"full_name": "db.t"}, {"full_name": "other.t", "table": "other.t"}, False),
        ({}, {"full_name": "db.t", "table": "db.t"}, False),
        ({"full_name": "db.t"}, {"table": "db.t"}, False),  # the server was not asked
        ({"full_name": "db.t"}, {"full_name": "other.t"}, True),  # it has another search path
    ],
)
def test_what_is_the_same(kept: dict[str, str], found: dict[str, str], *, same: bool) -> None:
    one = Identity("celery_taskmeta", "mysql h db")
    assert one._replace(**found).is_that(one._replace(**kept)) is same  # type: ignore[arg-type]


# -- on servers ----------------------------------------------------------------------------------


@contextlib.contextmanager
def following(url: URL, path: Path, *adopt: str, **settings: object) -> Iterator[Follower]:
    """Give a poller as a process has it that begins now."""
    checkpoint = open_file(path, adopt)
    follower = Follower(url.render_as_string(hide_password=False), checkpoint, **settings)
    try:
        yield follower
    finally:
        follower.close()
        checkpoint.close()


def fill(database: Database, results: int) -> None:
    with create_tables(database).begin() as connection:
        for _ in range(results):
            insert(connection)


def in_query(url: URL) -> URL:
    """Write host and port where libpq's users may write them."""
    bare = URL.create(url.drivername, url.username, url.password, database=url.database)
    return bare.update_query_dict({"host": str(url.host), "port": str(url.port)})


def refused(follower: Follower) -> str:
    assert not follower.poller.try_poll()
    assert follower.value("celery_backend_poll_errors_total", reason="checkpoint") == 1
    return follower.poller.status.message


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "checkpoint.sqlite"


@pytest.fixture
def second() -> Iterator[PostgreSQL]:
    with PostgreSQL() as server:
        yield server


def test_two_servers_with_the_host_in_the_query(
    postgresql: PostgreSQL, second: PostgreSQL, path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """40 results of one and 25 of the other are never 65, unless somebody says so."""
    with postgresql.fresh_database() as one, second.fresh_database() as spare:
        name = str(one.owner.database)
        if spare.owner.database != name:
            second.create(name)
        other = Database(one.owner.set(port=second.port), one.reader.set(port=second.port), second)
        fill(one, 40)
        fill(other, 25)
        with following(in_query(one.reader), path) as follower:
            assert follower.poll().states() == {"SUCCESS": 40}
        with following(one.reader.set(drivername="postgresql"), path) as follower:
            assert follower.poll().states() == {"SUCCESS": 40}  # another spelling
        with following(in_query(other.reader), path) as follower:
            message = refused(follower)
            assert f"of postgresql 127.0.0.1:{one.reader.port} {name} (system " in message
            assert f"of postgresql 127.0.0.1:{second.port} {name} (system " in message
            assert "--checkpoint.adopt=celery" in message
            assert follower.states() == {"SUCCESS": 40}
        with (
            caplog.at_level(logging.WARNING),
            following(in_query(other.reader), path, "celery") as follower,
        ):
            follower.poll()
            assert "adopted" in caplog.text
        with following(in_query(one.reader), path) as follower:
            assert "--checkpoint.adopt=celery" in refused(follower)


def orders(server: PostgreSQL) -> Database:
    return Database(
        server.url("orders", "celery", OWNER_PASSWORD),
        server.url("orders", "reader", READER_PASSWORD),
        server,
    )


def test_another_server_behind_the_same_address(path: Path) -> None:
    """Also while the exporter runs: nothing of it is counted."""
    with PostgreSQL() as first, PostgreSQL() as second:
        for server in (first, second):
            server.create("orders")
        one = orders(first)
        fill(one, 2)
        fill(Database(one.owner.set(port=second.port), one.reader.set(port=second.port)), 3)
        with following(one.reader, path) as follower:
            assert follower.poll().states() == {"SUCCESS": 2}
            first.stop()
            second.stop()
            first.port, second.port = second.port, first.port
            second.start()
            follower.poller.try_poll()
            assert "(system " in follower.poller.status.message
            assert follower.states() == {"SUCCESS": 2}
            second.stop()
            first.port, second.port = second.port, first.port
            first.start()
            assert follower.poll().states() == {"SUCCESS": 2}


def test_physical_copy_of_a_server_goes_on(path: Path) -> None:
    """Under another address: a replica that took over."""
    with PostgreSQL() as first:
        first.create("orders")
        one = orders(first)
        fill(one, 2)
        with following(one.reader, path) as follower:
            follower.poll()
        first.stop()
        copy = PostgreSQL()
        subprocess.run(
            ["cp", "--archive", f"{first.folder}/data", f"{copy.folder}/data"], check=True
        )
        shutil.copystat(first.folder, copy.folder)
        if copy.user:
            shutil.chown(copy.folder, copy.user)
        copy.start()
        try:
            moved = Database(one.owner.set(port=copy.port), one.reader.set(port=copy.port))
            with moved.engine().begin() as connection:
                insert(connection)
            with following(moved.reader, path) as follower:
                assert follower.poll().states() == {"SUCCESS": 3}
        finally:
            copy.stop()
            shutil.rmtree(copy.folder)


def test_server_that_may_not_say_who_it_is(postgresql: PostgreSQL, path: Path) -> None:
    """Then the URL tells."""
    with postgresql.fresh_database() as database:
        name = str(database.owner.database)
        hidden = "EXECUTE ON FUNCTION pg_control_system() {} PUBLIC"
        fill(database, 1)
        with following(database.reader, path) as follower:
            follower.poll()
        postgresql.execute(f"REVOKE {hidden.format('FROM')}", database=name)
        with following(in_query(database.reader), path) as follower:
            assert follower.poll().states() == {"SUCCESS": 1}
        postgresql.execute(f"GRANT {hidden.format('TO')}", database=name)
        with following(database.reader, path) as follower:
            assert follower.poll().states() == {"SUCCESS": 1}


def test_mariadb_by_socket_and_by_port_is_one(mariadb: MariaDB, path: Path) -> None:
    with mariadb.fresh_database() as database:
        fill(database, 2)
        by_socket = database.reader.set(host="localhost", port=None).update_query_dict(
            {"unix_socket": f"{mariadb.folder}/socket"}
        )
        spellings = [
            database.reader,
            by_socket,
            by_socket.set(drivername="mariadb+pymysql"),
            database.reader.set(drivername="mariadb+pymysql", host="localhost"),
        ]
        for url in spellings:
            with following(url, path) as follower:
                assert follower.poll().states() == {"SUCCESS": 2}


@pytest.mark.parametrize("database", ["postgresql", "mariadb-pymysql"], indirect=True)
def test_another_database_of_one_server_is_refused(database: Database, path: Path) -> None:
    server = database.server
    fill(database, 1)
    with server.fresh_database() as other:  # type: ignore[union-attr]
        driver = database.reader.drivername
        fill(other, 1)
        with following(database.reader, path) as follower:
            follower.poll()
        with following(other.reader.set(drivername=driver), path) as follower:
            assert str(other.reader.database) in refused(follower)


@pytest.mark.parametrize(
    "database", ["sqlite", "postgresql", "mariadb-pymysql", "mariadb-mysqlclient"], indirect=True
)
def test_table_is_one_with_its_schema_and_without(database: Database, path: Path) -> None:
    """That of groups, too, which is not there yet; another schema is another table."""
    default = {"sqlite": "main", "postgresql": "public"}
    schema = default.get(database.owner.get_backend_name(), str(database.owner.database))
    fill(database, 2)
    with database.engine().begin() as connection:
        connection.execute(text("DROP TABLE celery_tasksetmeta"))
    for named in (schema, None, schema):
        schemas = {"database_table_schemas": {"task": named, "group": named}}
        with following(database.reader, path, **schemas) as follower:
            assert follower.poll().states() == {"SUCCESS": 2}
    elsewhere = {"database_table_schemas": {"task": "elsewhere", "group": named}}
    with following(database.reader, path, **elsewhere) as follower:
        assert not follower.poller.try_poll()
        assert follower.states() == {"SUCCESS": 2}


@pytest.mark.parametrize("database", ["postgresql"], indirect=True)
def test_same_name_in_another_schema_is_refused(database: Database, path: Path) -> None:
    fill(database, 2)
    other = {"database_table_schemas": {"task": "other", "group": "other"}}
    with database.engine().begin() as connection:
        connection.execute(text("CREATE SCHEMA other"))
        connection.execute(text("GRANT USAGE ON SCHEMA other TO reader"))
        connection.execute(text("CREATE TABLE other.celery_taskmeta AS TABLE celery_taskmeta"))
        connection.execute(text("GRANT SELECT ON other.celery_taskmeta TO reader"))
    with following(database.reader, path) as follower:
        follower.poll()
    with following(database.reader, path, **other) as follower:
        assert "and this is other.celery_taskmeta of" in refused(follower)


def test_mysql_table_is_one_from_another_database(mariadb: MariaDB, path: Path) -> None:
    """A schema is a database there: the URL may lead to any."""
    with mariadb.fresh_database() as database, mariadb.fresh_database() as other:
        fill(database, 2)
        named = str(database.owner.database)
        schemas = {"database_table_schemas": {"task": named, "group": named}}
        with following(database.reader, path) as follower:
            follower.poll()
        with following(other.reader, path, **schemas) as follower:
            assert follower.poll().states() == {"SUCCESS": 2}


def test_table_made_anew_goes_on(database: Database, path: Path) -> None:
    """By Celery, or by hand; counts go on (R6)."""
    fill(database, 2)
    with following(database.reader, path) as follower:
        follower.poll()
    engine = database.engine()
    ResultModelBase.metadata.drop_all(engine)
    fill(database, 1)
    with following(database.reader, path) as follower:
        assert follower.poll().states() == {"SUCCESS": 3}


def test_sqlite_files(tmp_path: Path, path: Path) -> None:
    """One by its path: links lead there, a copy is another, a backup in its place is the same."""
    with SQLite(tmp_path).fresh_database() as database:
        fill(database, 2)
        file = Path(str(database.reader.database))
        link, copy = tmp_path / "link.sqlite", tmp_path / "copy.sqlite"
        link.symlink_to(file)
        shutil.copy(file, copy)
        for url in (database.reader, database.reader.set(database=str(link))):
            with following(url, path) as follower:
                assert follower.poll().states() == {"SUCCESS": 2}
        with following(database.reader.set(database=str(copy)), path) as follower:
            assert str(copy) in refused(follower)
        copy.replace(file)
        with following(database.reader, path) as follower:
            assert follower.poll().states() == {"SUCCESS": 2}


def test_file_that_is_not_there_yet_is_known_by_its_path(tmp_path: Path, path: Path) -> None:
    with SQLite(tmp_path).fresh_database() as database, SQLite(tmp_path).fresh_database() as other:
        with following(database.reader, path) as follower:
            assert not follower.poller.try_poll()
        fill(other, 1)
        with following(other.reader, path) as follower:
            assert str(other.reader.database) in refused(follower)


def test_server_that_is_down_at_the_start(postgresql: PostgreSQL, path: Path) -> None:
    """What was saved is served; who it is, is asked before anything new is counted."""
    with postgresql.fresh_database() as database:
        fill(database, 2)
        with following(database.reader, path) as follower:
            follower.poll()
        postgresql.stop()
        with following(database.reader, path) as follower:
            assert not follower.poller.try_poll()
            assert follower.states() == {"SUCCESS": 2}
            postgresql.start()
            with database.engine().begin() as connection:
                connection.execute(text("SELECT 1"))
                insert(connection)
            assert follower.poll().states() == {"SUCCESS": 3}
