"""`check` says what could be better, and its settings and statements do make it so."""

from __future__ import annotations

import contextlib
import inspect
import json
import re
import subprocess
import sys
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest
from celery import Celery
from celery.backends.database.models import TaskExtended
from sqlalchemy import Column, DateTime, Integer, MetaData, String, Table, text
from sqlalchemy.dialects import mssql
from sqlalchemy_celery_beat.models import PeriodicTask

from exporter.backends import findings as findings_of
from exporter.backends.findings import Seen, TableSeen, findings
from exporter.backends.tables import FAMILIES, celery
from exporter.cli import main
from exporter.commands.check import check
from exporter.config.loading import from_url
from exporter.sql import dialects
from exporter.sql.dialects import Limits
from tests.backends.test_django import NOW, Shop
from tests.commands.test_check import naive_utc
from tests.djangoshop import environment, migrate
from tests.docs.test_readme import ROOT, rows
from tests.follow import GROUPS, TASKS, create_tables, insert

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from exporter.backends.family import Family
    from tests.servers.database import Database

DATABASES = pytest.mark.parametrize(
    "database", ["sqlite", "postgresql", "mariadb-pymysql"], indirect=True
)
SERVERS, ON_SQLITE, ON_POSTGRESQL = (
    pytest.mark.parametrize("database", names, indirect=True)
    for names in (["postgresql", "mariadb-pymysql"], ["sqlite"], ["postgresql"])
)
MANY_IDS = 2_000_000_000
LONG_AGO = timedelta(days=40)
ALWAYS = {"task_track_started"}  # said where nothing runs


class Checked:
    """What `check` says of one backend, as data."""

    def __init__(
        self, capsys: pytest.CaptureFixture[str], url: str, code: int = 0, **settings: Any
    ) -> None:
        capsys.readouterr()
        assert check(from_url(url, **settings), output="json") == code
        (self.backend,) = json.loads(capsys.readouterr().out)["backends"]
        self.findings = {each["name"]: each for each in self.backend["findings"]}

    @property
    def names(self) -> set[str]:
        return self.findings.keys() - ALWAYS

    @property
    def sql(self) -> list[str]:
        return [statement for each in self.backend["findings"] for statement in each["sql"]]


def run(database: Database, statements: list[str]) -> None:
    """Run them as the administrator, or whoever may write the file."""
    if database.server is not None:
        database.server.execute(*statements, database=str(database.owner.database))
        return
    with database.engine().begin() as connection:
        for statement in statements:
            connection.exec_driver_sql(statement)


def without_default_grants(database: Database) -> None:
    """Leave the reader what a test grants."""
    name = database.owner.database
    if database.owner.get_backend_name() == "postgresql":
        tables = ", ".join(table.name for table in (TASKS, GROUPS))
        run(database, [f"REVOKE SELECT ON {tables} FROM reader"])
    else:
        keep = f"GRANT SHOW VIEW ON {name}.* TO reader@'%'"  # some right, for the fixture to revoke
        run(database, [f"REVOKE SELECT ON {name}.* FROM reader@'%'", keep])


@DATABASES
def test_old_table_is_brought_up_to_date(
    database: Database, capsys: pytest.CaptureFixture[str]
) -> None:
    """One of Celery 4.0, which nobody ever cleaned up; its statements leave nothing to do."""
    old = Table(
        "celery_taskmeta",
        MetaData(),
        Column("id", Integer, primary_key=True),
        Column("task_id", String(155), unique=True),
        Column("status", String(50)),
        Column("date_done", DateTime),
    )
    engine = database.engine()
    GROUPS.create(engine)
    with engine.begin() as connection:
        old.create(connection)
        long_ago = naive_utc() - LONG_AGO
        row = {"id": MANY_IDS, "status": "SUCCESS", "date_done": long_ago}
        connection.execute(old.insert().values(row))
    found = Checked(capsys, database.reader_url)
    ids = set() if database.server is None else {"ids"}
    assert found.names == {"name_columns", "date_done_index", "retention", *ids}
    assert "40 d ago" in found.findings["retention"]["what"]
    run(database, found.sql)
    found = Checked(capsys, database.reader_url)
    assert found.names == {"result_extended", "retention"}
    assert found.sql == []
    with engine.begin() as connection:
        insert(connection, "STARTED", id=MANY_IDS + 1)
        connection.execute(TASKS.delete().where(TASKS.c.id == MANY_IDS))
    assert Checked(capsys, database.reader_url).findings == {}


def test_columns_that_are_added_are_those_of_celery() -> None:
    for name, declared in celery.FAMILY.extended:
        for dialect in (mssql.dialect(), None):
            theirs = TaskExtended.__table__.c[name].type.compile(dialect=dialect)
            assert declared.compile(dialect=dialect) == theirs


@SERVERS
def test_rights_that_are_lacking(database: Database, capsys: pytest.CaptureFixture[str]) -> None:
    """Of the main table, then of columns and of the other table."""
    with create_tables(database).begin() as connection:
        insert(connection)
    without_default_grants(database)
    surely = database.owner.get_backend_name() == "postgresql"  # MariaDB hides what is there
    found = Checked(capsys, database.reader_url, code=1)
    assert found.findings.keys() == {"table_rights"}
    assert found.findings["table_rights"]["severity"] == "error"
    assert found.findings["table_rights"]["what"].endswith("celery_taskmeta") == surely
    run(database, [s.replace(", result, traceback", "") for s in found.sql])
    found = Checked(capsys, database.reader_url)
    assert found.names == {"table_rights", "column_rights"}
    assert "may not be read" in found.backend["facts"]["group table"]
    assert ("cannot be seen" not in found.findings["column_rights"]["what"]) == surely
    assert "private data" in found.findings["column_rights"]["why"]
    (task, _) = found.backend["tables"]
    assert task["hidden_columns"] == ["result", "traceback"]
    run(database, found.sql)
    found = Checked(capsys, database.reader_url)
    assert found.names == set()
    assert found.backend["warnings"] == []


@SERVERS
def test_rights_to_part_of_the_labels(
    database: Database, capsys: pytest.CaptureFixture[str]
) -> None:
    """Who may not read the name is not told to store it, nor of an index that cannot be seen."""
    with create_tables(database).begin() as connection:
        insert(connection)
    without_default_grants(database)
    postgresql = database.owner.get_backend_name() == "postgresql"
    where, whom = ("", "reader") if postgresql else (f"{database.owner.database}.", "reader@'%'")
    run(database, [f"GRANT SELECT (id, status) ON {where}celery_taskmeta TO {whom}"])
    found = Checked(capsys, database.reader_url)
    assert found.names == {"table_rights", "column_rights"}
    assert "this account may not read column name" in found.backend["facts"]["task extended"]
    assert found.backend["tables"][0]["date_done_index"] is (True if postgresql else None)
    run(database, found.sql)
    assert Checked(capsys, database.reader_url).names == set()


@ON_POSTGRESQL
def test_names_are_quoted(database: Database, capsys: pytest.CaptureFixture[str]) -> None:
    """Whatever they are; the schema may not be used either."""
    schema, name = 'Cel "100%" ery', "Task Meta"
    quoted = '"Cel ""100%"" ery"."Task Meta"'
    run(
        database,
        [
            'CREATE SCHEMA "Cel ""100%"" ery"',
            f"CREATE TABLE {quoted} (id int PRIMARY KEY, status varchar(50), date_done timestamp)",
            f"INSERT INTO {quoted} VALUES (1, 'SUCCESS', now())",
        ],
    )
    there: dict[str, Any] = {
        "database_table_names": {"task": name},
        "database_table_schemas": {"task": schema},
    }
    found = Checked(capsys, database.reader_url, code=1, **there)
    assert [sql.partition(" ON ")[0] for sql in found.sql] == [
        "GRANT USAGE",
        "GRANT SELECT (id, status, date_done)",
    ]
    run(database, found.sql)
    found = Checked(capsys, database.reader_url, **there)
    assert found.names == {"name_columns", "date_done_index"}
    assert found.findings["date_done_index"]["sql"] == [
        f'CREATE INDEX CONCURRENTLY "ix_Task Meta_date_done" ON {quoted} (date_done)'
    ]
    run(database, found.sql)
    run(database, [f"GRANT SELECT ON {quoted} TO reader"])
    assert Checked(capsys, database.reader_url, **there).names == {"result_extended"}


@ON_POSTGRESQL
def test_statements_are_not_all(database: Database, capsys: pytest.CaptureFixture[str]) -> None:
    """Where the server does not answer what only they need, the rest is said."""
    with create_tables(database).begin() as connection:
        insert(connection, name=None)
    run(database, ["REVOKE EXECUTE ON FUNCTION quote_ident(text) FROM PUBLIC"])
    found = Checked(capsys, database.celery_url)
    assert found.names == {"result_extended", "writable"}
    assert found.sql == []
    (warning,) = found.backend["warnings"]
    assert warning.startswith("which statements would help cannot be told: permission: ")


@contextlib.contextmanager
def removed(database: Database) -> Iterator[None]:
    """Remove the account that `check` advises."""
    try:
        yield
    finally:
        if database.owner.get_backend_name() == "postgresql":
            run(database, ["DROP OWNED BY celery_reader", "DROP ROLE celery_reader"])
        else:
            run(database, ["DROP USER celery_reader@'%'"])


@SERVERS
def test_account_that_only_reads(database: Database, capsys: pytest.CaptureFixture[str]) -> None:
    """Instead of one that may write: it may read all that the exporter does, and no more."""
    with create_tables(database).begin() as connection:
        insert(connection)
    found = Checked(capsys, database.celery_url)
    assert found.names == {"writable"}
    assert found.findings["writable"]["severity"] == "warning"
    assert [table["writable"] for table in found.backend["tables"]] == [True, True]
    with removed(database):
        run(database, found.sql)
        account = database.owner.set(username="celery_reader", password="change-me")  # noqa: S106
        found = Checked(capsys, account.render_as_string(hide_password=False))
        assert found.names == set()
        assert [table["hidden_columns"] for table in found.backend["tables"]] == [[], []]
        assert [table["writable"] for table in found.backend["tables"]] == [False, False]


@ON_POSTGRESQL
def test_schedules_that_may_not_be_read(
    database: Database, capsys: pytest.CaptureFixture[str]
) -> None:
    """Neither by an account that lacks the right, nor by one that takes the place of another."""
    engine = create_tables(database)
    with engine.begin() as connection:
        insert(connection)
        connection.exec_driver_sql("CREATE SCHEMA celery_schema")
        PeriodicTask.metadata.create_all(connection)
    run(
        database,
        [
            "REVOKE SELECT ON ALL TABLES IN SCHEMA celery_schema FROM reader",
            "REVOKE USAGE ON SCHEMA celery_schema FROM reader",
        ],
    )
    found = Checked(capsys, database.reader_url)
    assert found.names == {"schedule_rights"}
    assert "schedules" not in found.backend["facts"]
    run(database, found.sql)
    found = Checked(capsys, database.reader_url)
    assert found.names == set()
    assert "sqlalchemy-celery-beat" in found.backend["facts"]["schedules"]
    with removed(database):
        run(database, Checked(capsys, database.celery_url).findings["writable"]["sql"])
        account = database.owner.set(username="celery_reader", password="change-me")  # noqa: S106
        found = Checked(capsys, account.render_as_string(hide_password=False))
        assert found.names == set()
        assert "sqlalchemy-celery-beat" in found.backend["facts"]["schedules"]


STORE = """
import sys
from celery import Celery
app = Celery(backend=sys.argv[1])
app.conf.result_backend_max_retries = 0
{}
app.backend.store_result("a", 1, "SUCCESS")
"""


@ON_POSTGRESQL
def test_ids_beyond_32_bits_are_stored_by_celery(
    database: Database, capsys: pytest.CaptureFixture[str]
) -> None:
    """The column is not all: psycopg sends what the models say."""
    with create_tables(database).begin() as connection:
        insert(connection, id=MANY_IDS)
        connection.execute(text("SELECT setval('task_id_sequence', 3000000000)"))
    ids = Checked(capsys, database.reader_url).findings["ids"]
    assert ids["severity"] == "warning"
    run(database, ids["sql"])
    for lines, stored in ((), False), (ids["settings"], True):
        script = STORE.format("\n".join(lines))
        done = subprocess.run(
            [sys.executable, "-W", "ignore", "-c", script, database.celery_url],
            capture_output=True,
            text=True,
            check=False,
        )
        assert (done.returncode == 0) == stored, done.stderr
        assert stored or "integer out of range" in done.stderr
    assert database.states() == {"SUCCESS": 2}
    assert Checked(capsys, database.reader_url).names == set()


@ON_SQLITE
def test_django_s_tables_of_an_older_version(
    database: Database, capsys: pytest.CaptureFixture[str]
) -> None:
    """Have no start of a task that could be missing."""
    migrate(database.owner, "0011")
    row = Shop(database).insert(task_name=None)
    found = Checked(capsys, database.reader_url)
    assert found.names == {"result_extended", "date_started"}
    assert found.findings["result_extended"]["settings"] == ["CELERY_RESULT_EXTENDED = True"]
    migrate(database.owner)
    found = Checked(capsys, database.reader_url)
    assert found.findings.keys() == {"result_extended", "task_track_started"}
    assert "says when its task began" in found.findings["task_track_started"]["what"]
    shop = Shop(database)
    shop.update(row, "SUCCESS", task_name="shop.sell", date_started=NOW)
    assert Checked(capsys, database.reader_url).findings == {}


STORE_BY_DJANGO = """
import django
django.setup()
from django_celery_results.models import TaskResult
for status in ("STARTED", "SUCCESS"):
    TaskResult.objects.store_result("application/json", "utf-8", "a", "{}", status, task_name="b")
"""


@SERVERS
def test_ids_beyond_32_bits_are_stored_by_django(
    database: Database, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """They have an identity, or AUTO_INCREMENT; and the column is not all."""
    migrate(database.owner)
    shop = Shop(database)
    shop.insert(id=MANY_IDS)
    found = Checked(capsys, database.reader_url)
    assert found.findings.keys() == {"task_track_started", "ids"}
    run(database, found.sql)
    shop.look()
    shop.insert(id=3_000_000_000)
    apps = [("bigger.BigIds", True)]
    if database.owner.get_backend_name() == "postgresql":
        restart = f"ALTER TABLE {shop.tasks.name} ALTER COLUMN id RESTART WITH 3000000001"
        run(database, [restart])
        apps = [("django_celery_results", False), *apps]  # one server's answer is enough
    (tmp_path / "bigger.py").write_text("\n".join(found.findings["ids"]["settings"]))
    for app, stored in apps:
        variables = environment(database.owner, INSTALLED_APPS=[app])
        variables["PYTHONPATH"] += f":{tmp_path}"
        done = subprocess.run(
            [sys.executable, "-c", STORE_BY_DJANGO],
            env=variables,
            capture_output=True,
            text=True,
            check=False,
        )
        assert (done.returncode == 0) == stored, done.stderr
    assert database.states(shop.tasks.name) == {"SUCCESS": 3}
    assert Checked(capsys, database.reader_url).names == set()


@ON_SQLITE
def test_what_is_not_there_is_not_to_be_altered(
    database: Database, capsys: pytest.CaptureFixture[str]
) -> None:
    """Neither a view, nor an index on a column that is lacking."""
    with create_tables(database).begin() as connection:
        insert(connection)
        for name, columns in (("some", "id, status, name"), ("results", "id, status, date_done")):
            query = f"SELECT {columns} FROM celery_taskmeta"
            kind = "TABLE" if name == "some" else "VIEW"
            connection.exec_driver_sql(f"CREATE {kind} {name} AS {query}")
    for name, names in (("some", set[str]()), ("results", {"name_columns"})):
        found = Checked(capsys, database.reader_url, database_table_names={"task": name})
        assert found.names == names
        assert found.sql == []


@ON_SQLITE
def test_findings_are_printed_for_people(
    database: Database, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whole, after all else, the worst first; only errors make it fail."""
    engine = create_tables(database)
    with engine.begin() as connection:
        insert(connection, name=None, date_done=naive_utc() - LONG_AGO)
        connection.exec_driver_sql("DROP INDEX ix_celery_taskmeta_date_done")
    assert check(from_url(database.reader_url)) == 0
    said = capsys.readouterr().out
    assert said.index("warning: none of the newest 1 rows has a name") < said.index("advice: ")
    assert "    app: app.conf.result_extended = True\n" in said
    index = "CREATE INDEX ix_celery_taskmeta_date_done ON celery_taskmeta (date_done)"
    assert f"    SQL: {index};\n" in said
    assert "    app: app.conf.result_expires = 86400\n" in said


class Server:
    """Stands for a SQL Server, which cannot be had: what it is asked is its own."""

    dialect = mssql.dialect()

    def exec_driver_sql(self, statement: str) -> Server:
        self.asked = statement
        return self

    def scalar_one(self) -> str:
        return "[shop]" if "DB_NAME" in self.asked else "[dbo]"


def test_statements_for_sql_server() -> None:
    dialect, server = dialects.of("mssql", Limits(1.0, 1.0)), Server()
    table = dialect.place_of(server, "celery_taskmeta", "dbo")  # type: ignore[arg-type]
    account, made = dialect.reader(server, "celery_reader", "change-me")  # type: ignore[arg-type]
    assert (
        [
            *dialect.snapshots(server),  # type: ignore[arg-type]
            *dialect.index(server, table, "date_done"),  # type: ignore[arg-type]
            *dialect.columns(server, table, dict(celery.FAMILY.extended[:1])),  # type: ignore[arg-type]
            *made,
            *dialect.grants(server, table, ["id", "status"], account),  # type: ignore[arg-type]
            dialect.account(server),  # type: ignore[arg-type]
        ]
        == [
            "ALTER DATABASE [shop] SET ALLOW_SNAPSHOT_ISOLATION ON",
            "CREATE INDEX ix_celery_taskmeta_date_done ON dbo.celery_taskmeta (date_done)",
            "ALTER TABLE dbo.celery_taskmeta ADD name VARCHAR(155)",
            "CREATE LOGIN celery_reader WITH PASSWORD = 'change-me'",
            "CREATE USER celery_reader FOR LOGIN celery_reader",
            "GRANT SELECT (id, status) ON dbo.celery_taskmeta TO celery_reader",
            "[dbo]",
        ]
    )
    seen = Seen(celery.FAMILY, (), 0.0, snapshot=False, snapshots=("ALTER DATABASE …",))
    (finding,) = findings(seen)
    assert (finding.name, finding.sql) == ("snapshots", seen.snapshots)


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
@pytest.mark.parametrize(
    ("name", "value"),
    [("result_extended", True), ("task_track_started", True), ("result_expires", 86400)],
)
def test_settings_are_celery_s(family: Family, name: str, value: object) -> None:
    """As an app sets them, or as Django's settings do."""
    line = Seen(family, (), 0.0).setting(name, value)
    app = Celery(set_as_current=False)
    settings: dict[str, Any] = {"app": app}
    exec(line, settings)  # noqa: S102 - the line is what is tested
    app.config_from_object({n: v for n, v in settings.items() if n.isupper()}, namespace="CELERY")
    assert app.conf[name] == value


def test_nothing_is_said_of_what_was_not_seen() -> None:
    """An empty table shows neither what is stored nor what is deleted."""
    table = TableSeen(celery.TASK, "t", columns=("id", "status"))
    assert findings(Seen(celery.FAMILY, (table,), 0.0)) == []


# --- data ---------------------------------------------------------------------------------------


def documented(heading: str) -> set[str]:
    document = (ROOT / "docs" / "check.md").read_text()
    (section,) = [part for part in document.split("\n#") if part.lstrip("#").startswith(heading)]
    return {row[0] for row in rows(section)}


def test_every_finding_is_documented() -> None:
    names = re.findall(r'Finding\(\n\s+"(\w+)"', inspect.getsource(findings_of))
    assert documented(" What it finds") == set(names)


@ON_SQLITE
def test_data_is_as_documented(
    database: Database, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """In every place, whatever is wrong."""
    with create_tables(database).begin() as connection:
        insert(connection, name="a\x1b[31m")
    file = tmp_path / "config.yaml"
    file.write_text(
        f"checkpoint: {{path: {tmp_path}/c.sqlite}}\n"
        f"backends: [{{name: shop, result_backend: '{database.reader_url}'}},"
        f" {{name: gone, result_backend: 'sqlite:///{tmp_path}/gone'}}]\n"
    )
    assert main(["check", f"--config.file={file}", "--output=json"]) == 1
    said = capsys.readouterr().out
    assert "\x1b" not in said
    document = json.loads(said)
    assert document.keys() == documented(" The document")
    shop, gone = document["backends"]
    for each in (shop, gone):
        assert each.keys() == documented(" A backend")
    assert document["checkpoint"].keys() == {"ok", "facts", "errors", "warnings"}
    assert (document["ok"], shop["ok"], gone["ok"]) == (False, True, False)
    assert gone["errors"]
    assert {frozenset(t) for t in shop["tables"]} == {frozenset(documented(" A table"))}
    assert {frozenset(f) for f in shop["findings"]} == {frozenset(documented(" A finding"))}
    file.write_text("backends: [{name: shop}, {name: shop}]\n")
    assert main(["check", f"--config.file={file}", "--output=json"]) == 2
    out, err = capsys.readouterr()
    document = json.loads(out)
    assert document.keys() == documented(" The document")
    assert (document["ok"], document["backends"]) == (False, [])
    assert len(document["errors"]) == err.count("\n") > 1
