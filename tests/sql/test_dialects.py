"""Another dialect is one file and its name in one list: all else follows."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from sqlalchemy import URL, make_url, text
from sqlalchemy.dialects import registry
from sqlalchemy.dialects.sqlite.pysqlite import SQLiteDialect_pysqlite
from sqlalchemy.schema import CreateTable

from exporter.checkpoint.checkpoint import Checkpoint
from exporter.checkpoint.lease import Leases
from exporter.checkpoint.schema import SAVES, TABLES
from exporter.checkpoint.store import Store
from exporter.config import loading, urls
from exporter.config.file import CheckpointPlace
from exporter.errors import ConfigError
from exporter.sql import dialects
from exporter.sql.dialects import Limits
from tests.follow import Follower, create_tables, insert
from tests.servers.database import SQLite

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import ModuleType

    from tests.servers.database import Database
    from tests.servers.mariadb import MariaDB

HERE = Path(__file__).parent


class ByThreex(SQLiteDialect_pysqlite):
    """What somebody's package would bring to SQLAlchemy."""

    name = "sqlite3x"
    driver = "threex"
    supports_statement_cache = True


class ByAnother(ByThreex):
    driver = "fourx"


class NotInstalled(ByThreex):
    @classmethod
    def import_dbapi(cls) -> ModuleType:
        raise ModuleNotFoundError(name="threex")


@pytest.fixture(autouse=True)
def _known(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Put the file beside the others, and its name in the list."""
    own = {
        "sqlite3x": "ByThreex",
        "sqlite3x.threex": "ByThreex",
        "sqlite3x.fourx": "ByAnother",
    }
    monkeypatch.setattr(registry, "impls", dict(registry.impls))
    for name, class_name in own.items():
        registry.register(name, __name__, class_name)
    monkeypatch.setattr(dialects, "__path__", [*dialects.__path__, str(HERE / "dialects")])
    monkeypatch.setattr(dialects, "NAMES", (*dialects.NAMES, "sqlite3x"))
    yield
    sys.modules.pop("exporter.sql.dialects.sqlite3x", None)


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    with SQLite(tmp_path).fresh_database() as database:
        yield database


def test_its_url_is_read_as_its_file_says(tmp_path: Path) -> None:
    url = urls.parse("db+sqlite3x:///file:x.db?uri=true&mode=ro&nolock=1")
    assert (url.database, dict(url.query)) == ("x.db", {"nolock": "1"})
    with pytest.raises(ValueError, match="in memory"):
        urls.parse("sqlite3x://")
    place = CheckpointPlace.model_validate({"url": "sqlite3x:///x.db"}, context=tmp_path).place
    assert place == tmp_path / "x.db"


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("xlite:///x.db", "unknown dialect 'xlite'; did you mean 'sqlite3x'?"),
        ("sqlite4x:///x.db", "did you mean 'sqlite3x' or 'sqlite'?"),
        ("firebird://h/d", "mssql, oracle, sqlite3x"),
        ("sqlite3x+foo:///x.db", "unknown driver 'foo' for sqlite3x; write sqlite3x+threex://"),
        ("sqlite3x+fourx:///x.db", "'fourx' was never tried with this exporter; write sqlite3x+t"),
    ],
)
def test_advice_is_as_its_file_says(given: str, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        urls.parse(given)


def test_a_missing_driver_is_installed_as_its_file_says() -> None:
    registry.register("sqlite3x", __name__, "NotInstalled")
    with pytest.raises(ValueError, match=r"'threex' is not installed: pip install threex$"):
        urls.parse("sqlite3x:///x.db")


def test_what_its_driver_says_is_understood() -> None:
    dialect = dialects.of("sqlite3x", Limits(1.0, 1.0))
    assert dialect.mistake("what is color?", "threex").startswith(
        "driver 'threex' takes no argument 'color'; check connect_args"
    )


def test_it_is_followed_into_a_checkpoint(database: Database, tmp_path: Path) -> None:
    """The checkpoint is in such a database, too."""
    url = database.owner.set(drivername="sqlite3x").render_as_string()
    with create_tables(database).begin() as connection:
        insert(connection)
    where = URL.create("sqlite3x+threex", database=str(tmp_path / "checkpoint.db"))
    for stored in (1, 2):
        checkpoint = Checkpoint(Store(where, "checkpoint database"))
        checkpoint.open()
        follower = Follower(url, checkpoint).poll()
        assert follower.states() == {"SUCCESS": stored}
        assert follower.poller.status.server.startswith("SQLite3X")
        assert follower.value("celery_backend_info", dialect="sqlite3x", driver="threex") == 1
        follower.close()
        checkpoint.close()
        with database.engine().begin() as connection:
            insert(connection)


def test_a_checkpoint_in_the_file_of_a_result_backend_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    file.write_text(
        "checkpoint: {path: x.db}\nbackends: [{name: shop, result_backend: 'sqlite3x:///./x.db'}]"
    )
    with pytest.raises(ConfigError, match="is the file that backends"):
        loading.load(file, {})


@pytest.mark.parametrize(
    ("scheme", "declared"),
    [
        ("sqlite3x", 'VARCHAR(190) COLLATE "BINARY"'),
        ("sqlite", "VARCHAR(190)"),
        ("postgresql+psycopg", "VARCHAR(190)"),
        ("mysql+pymysql", "VARCHAR(190) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin"),
        ("mariadb+pymysql", "VARCHAR(190) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin"),
        ("mssql+pyodbc", "NVARCHAR(190) COLLATE Latin1_General_100_BIN2"),
        ("oracle", "VARCHAR2(190 CHAR)"),
    ],
)
def test_names_in_a_checkpoint_are_of_the_type_that_its_file_says(
    scheme: str, declared: str
) -> None:
    table = CreateTable(SAVES).compile(dialect=make_url(f"{scheme}://").get_dialect()())
    assert re.findall(r"\bbackend ([^,]+) NOT NULL", str(table)) == [declared]


@pytest.mark.parametrize("scheme", ["mysql+pymysql", "mariadb+pymysql"])
def test_a_checkpoint_has_transactions_whatever_engine_is_usual(
    mariadb: MariaDB, scheme: str
) -> None:
    with mariadb.fresh_database(scheme) as database:
        mariadb.execute("SET GLOBAL default_storage_engine = MyISAM")
        try:
            store = Store(database.owner, "checkpoint database")
            Checkpoint(store).open()
            Leases(store).look()
            store.retire()
        finally:
            mariadb.execute("SET GLOBAL default_storage_engine = InnoDB")
        engines = text(
            "SELECT table_name, engine FROM information_schema.tables"
            " WHERE table_schema = DATABASE()"
        )
        with database.engine().connect() as connection:
            made = {str(name): engine for name, engine in connection.execute(engines)}
    assert len(made) == len(TABLES.tables)
    assert set(made.values()) == {"InnoDB"}


@pytest.mark.parametrize("flag", ["--version", "--hlep"])
def test_answers_that_need_no_database_load_none(flag: str) -> None:
    script = (
        "import contextlib, sys; from exporter.cli import main\n"
        f"with contextlib.suppress(SystemExit): main([{flag!r}])\n"
        "heavy = [m for m in sys.modules if m.startswith(('sqlalchemy', 'exporter.sql'))]\n"
        "sys.exit(', '.join(heavy) or 0)"
    )
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)  # noqa: PLW1510
    assert run.returncode == 0, run.stderr


def test_only_the_dialects_in_use_are_loaded() -> None:
    """Nor for a checkpoint."""
    script = (
        "import sys; from exporter.config import loading; from exporter.checkpoint import lease,"
        " schema; loading.from_url('sqlite:////x');"
        "print([m for m in sys.modules if m.startswith('exporter.sql.dialects.')])"
    )
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert run.stdout == "['exporter.sql.dialects.sqlite']\n"
