"""URLs of result backends."""

from __future__ import annotations

import re
import subprocess
import sys
from importlib.metadata import packages_distributions, requires

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from exporter.config import urls


@pytest.mark.parametrize(
    ("text", "drivername", "database"),
    [
        ("db+sqlite:////a/b.db", "sqlite", "/a/b.db"),
        ("database+sqlite:///b.db", "sqlite", "b.db"),
        ("sqlite+pysqlite:///b.db", "sqlite+pysqlite", "b.db"),
        ("sqlite:///file:/a/b%20c.db?mode=ro&uri=true", "sqlite", "/a/b c.db"),
        ("sqlite:///file:///a/b.db?uri=true", "sqlite", "/a/b.db"),
        ("sqlite:///file:b.db?uri=true&nolock=1", "sqlite", "b.db"),
        ("  postgresql://u:p@h/d\n", "postgresql", "d"),
        ("postgresql+psycopg:///d?host=/run/postgresql", "postgresql+psycopg", "d"),
        ("db+mysql+pymysql://u:p@[::1]:3306/d", "mysql+pymysql", "d"),
        ("mariadb+pymysql://u:p@h/d", "mariadb+pymysql", "d"),
        ("mysql+mysqldb://u:p@h/d", "mysql+mysqldb", "d"),
        ("mssql+pyodbc://u:p@datasource", "mssql+pyodbc", None),
    ],
)
def test_good(text: str, drivername: str, database: str | None) -> None:
    url = urls.parse(text)
    assert (drivername, database) == (url.drivername, url.database)


def test_postgresql_alone_means_psycopg() -> None:
    assert urls.parse("postgresql://h/d").get_dialect().driver == "psycopg"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "not a URL"),
        ("hunter2", "not a URL"),
        ("django-db", "'django-db' is a database in the settings of a Django project"),
        ("rpc://", "'rpc' is no SQL result backend"),
        ("cache+memcached://h:1/", "'cache' is no SQL result backend"),
        ("mongodb://u:hunter2@h/d", "'mongodb' is no SQL result backend"),
        ("postgres://u:hunter2@h/d", "unknown dialect 'postgres'; did you mean 'postgresql'?"),
        ("my-sql://u:hunter2@h/d", "unknown dialect 'my-sql'; did you mean 'mysql'?"),
        ("pgsql://u:hunter2@h/d", "unknown dialect 'pgsql'; did you mean 'postgresql'?"),
        ("msql://u:hunter2@h/d", "did you mean 'mysql' or 'mssql'?"),
        ("sqlserver://u:hunter2@h/d", "did you mean 'mssql'?"),
        ("sqla+sqlite:///x", "'sqla+' begins the URL of a broker; that of a result backend"),
        ("firebird://h/d", "unknown dialect 'firebird'; known: sqlite, postgresql"),
        ("mysql+foo://u:hunter2@h/d", "unknown driver 'foo' for mysql; write mysql+pymysql://"),
        ("postgresql+asyncpg://h/d", "is asynchronous; write postgresql+psycopg://"),
        ("sqlite+aiosqlite:///d", "is asynchronous; write sqlite://"),
        ("mssql+aioodbc://h/d", "is asynchronous; write mssql+pyodbc://"),
        ("mariadb+aiomysql://h/d", "is asynchronous; write mariadb+pymysql://"),
        ("oracle+oracledb_async://h/d", "is asynchronous; write oracle://"),
        ("mysql+cymysql://h/d", "driver 'cymysql' was never tried with this exporter; write mysql"),
        ("mssql+pymssql://h/d", "was never tried with this exporter; write mssql+pyodbc://"),
        ("postgresql+psycopg2cffi://h/d", "was never tried with this exporter; write postgresql+p"),
        ("sqlite+pysqlcipher:///x", "was never tried with this exporter; write sqlite://"),
        ("mysql+pymysql://u:hunter2/h/d", "the port is not a number"),
        ("mysql+pymysql://u:x@hunter2@h/d", "the host cannot be told from the password"),
        ("mysql+pymysql://dom/u:hunter2@h/d", "the host cannot be told from the password"),
        ("mysql+pymysql://u:12345678901/d", "the port is not between 1 and 65535"),
        ("mysql+pymysql://u:hunter2@h", "the database is missing"),
        ("sqlite://", "in memory"),
        ("sqlite:///:memory:", "in memory"),
        ("sqlite:///file:x?mode=memory&uri=true", "in memory"),
        ("sqlite:///file::memory:?cache=shared&uri=true", "in memory"),
        ("sqlite:///file:/x?vfs=memdb&uri=true", "in memory"),
        ("sqlite:///file:?uri=true", "in memory"),
        ("sqlite://results.db", "begins after the third slash"),
        ("sqlite:///file:/x.db?mode=ro", "only where uri=true stands after the '?'; add it"),
        ("sqlite:///file:/x.db?uri=maybe", "uri= is neither true nor false"),
        ("sqlite:///file://h/x.db?uri=true", "a SQLite URI names no host"),
        ("sqlite:///file:/x%23.db?uri=true", "has a '#', '?' or '%' in it"),
        ("sqlite:///file:/x%2520.db?uri=true", "has a '#', '?' or '%' in it"),
        (
            "sqlite:///file:/x.db?uri=true&mode=hunter2",
            "mode= after the '?' is none of ro, rw, rwc",
        ),
        ("sqlite:///file:/x.db?uri=true&immutable=1", "new results would never be seen"),
        ("sqlite:///file:/x.db?uri=true&mod=ro", "'mod' after the '?' is no parameter of SQLite"),
        ("sqlite:///x.db?mod=ro", "'mod' after the '?' is no parameter of SQLite"),
        ("sqlite:///file:/x.db?uri=true&mode=ro&mode=rw", "'mode' stands more than once"),
    ],
)
def test_bad(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)) as caught:
        urls.parse(text)
    assert "hunter2" not in str(caught.value)
    assert "12345678901" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "module", "message"),
    [
        (
            "postgresql://h/d",
            "psycopg",
            "driver 'psycopg' is not installed: pip install 'celery-results-exporter[postgresql]'",
        ),
        (
            "mysql://h/d",
            "MySQLdb",
            (
                "driver 'mysqldb' is not installed: "
                "pip install 'celery-results-exporter[mysqlclient]', or write mysql+pymysql://"
            ),
        ),
        (
            "postgresql+psycopg2://h/d",
            "psycopg2",
            (
                "driver 'psycopg2' is not installed: pip install psycopg2-binary, or write "
                "postgresql+psycopg://"
            ),
        ),
        (
            "mariadb+mysqlconnector://h/d",
            "mysql",
            (
                "driver 'mysqlconnector' is not installed: pip install mysql-connector-python, or "
                "write mariadb+pymysql://"
            ),
        ),
        (
            "oracle://h/d",
            "oracledb",
            "driver 'oracledb' is not installed: pip install oracledb",
        ),
    ],
)
def test_missing_driver(
    monkeypatch: pytest.MonkeyPatch, text: str, module: str, message: str
) -> None:
    monkeypatch.setitem(sys.modules, module, None)  # Python's own way to make an import fail
    with pytest.raises(ValueError, match=re.escape(message)) as caught:
        urls.parse(text)
    assert message == str(caught.value)


#: By SQLAlchemy's name for a driver, the module that it is.
MODULES = {
    "postgresql+psycopg": "psycopg",
    "postgresql+psycopg2": "psycopg2",
    "postgresql+pg8000": "pg8000",
    "mysql+pymysql": "pymysql",
    "mysql+mysqldb": "MySQLdb",
    "mysql+mysqlconnector": "mysql",
}


@pytest.mark.parametrize("scheme", MODULES)
def test_advice_is_followed(monkeypatch: pytest.MonkeyPatch, scheme: str) -> None:
    """What it says to install brings the module, as whoever packed that module says."""
    module = MODULES[scheme]
    assert urls.parse(f"{scheme}://h/d").drivername == scheme
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, module, None)
        with pytest.raises(ValueError, match="pip install") as caught:
            urls.parse(f"{scheme}://h/d")
    advised = re.search(r"pip install '?([^', ]+)", str(caught.value))
    assert advised
    wanted = Requirement(advised[1])
    if wanted.name == "celery-results-exporter":
        (extra,) = wanted.extras
        needs = [Requirement(line) for line in requires(wanted.name) or ()]
        (wanted,) = [
            need
            for need in needs
            if need.marker
            and need.marker.evaluate({"extra": extra})
            and not need.marker.evaluate({"extra": ""})
        ]
    assert canonicalize_name(wanted.name) in map(
        canonicalize_name, packages_distributions()[module]
    )


def test_only_the_driver_in_use_is_loaded() -> None:
    """A machine with SQLite alone needs no other driver, and pays for none."""
    script = (
        "import sys; from exporter.config import loading; loading.from_url('sqlite:////x');"
        "print([m for m in ('pymysql', 'MySQLdb', 'psycopg', 'pyodbc') if m in sys.modules])"
    )
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert run.stdout == "[]\n"
