"""MySQL and MariaDB, through PyMySQL or mysqlclient."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from typing import Any

import sqlalchemy
from sqlalchemy import (
    JSON,
    URL,
    Column,
    ColumnElement,
    Connection,
    DateTime,
    Double,
    Integer,
    LargeBinary,
    Numeric,
    Row,
    Select,
    String,
    Table,
    TableClause,
    Uuid,
    cast,
    func,
    inspect,
    literal,
    literal_column,
    select,
    text,
)
from sqlalchemy.dialects.mysql import VARCHAR
from sqlalchemy.dialects.mysql.base import ischema_names
from sqlalchemy.exc import DBAPIError
from sqlalchemy.types import NullType, TypeEngine

from exporter.errors import Reason
from exporter.sql.cutting import cut_off
from exporter.sql.dialects import LONGEST_PAUSE, Dialect, Driver, names_for_people
from exporter.sql.identity import Origin
from exporter.sql.inspection import Facts
from exporter.sql.kinds import Kind

_REASONS = {
    1142: Reason.PERMISSION,  # command denied to user for table
    1143: Reason.PERMISSION,  # command denied to user for column
    1370: Reason.PERMISSION,
    1054: Reason.SCHEMA,  # unknown column
    1146: Reason.SCHEMA,  # no such table
    1205: Reason.TIMEOUT,  # lock wait timeout
    1317: Reason.TIMEOUT,  # query was interrupted
    1969: Reason.TIMEOUT,  # MariaDB: max_statement_time exceeded
    3024: Reason.TIMEOUT,  # MySQL: maximum statement execution time exceeded
}
_CONNECT = {1040, 1044, 1045, 1049, 1053, 1129, 1130, 1203, 1227, 1698, 1927, 4031}
_FIRST_CLIENT_ERROR, _LAST_CLIENT_ERROR = 2000, 2999
_LOST_CONNECTION = 2013
_GONE = "MySQL Connection not available"  # MySQL's own driver has no number for it
_NO_SUCH_PACKAGE = re.compile(r"^'(\w+)' package is required")  # PyMySQL, where a server asks
_PACKAGES = {
    "cryptography": "'pymysql[rsa]'",
    "pynacl": "'celery-results-exporter[ed25519]'",
}

_EPOCH: ColumnElement[Any] = literal_column("'1970-01-01'")
STATEMENTS = 10  # that may take as long as they may, one after the other

_OWN_VARIABLES = """SHOW GLOBAL VARIABLES WHERE variable_name IN
    ('server_uuid', 'server_uid', 'hostname', 'port', 'datadir')"""
# A server may be set to cut answers, to refuse large ones, or to fill CHAR with its blanks.
_WHOLE_ANSWERS = """SET SESSION sql_select_limit = 18446744073709551615, sql_big_selects = 1,
    sql_mode = REPLACE(@@sql_mode, 'PAD_CHAR_TO_FULL_LENGTH', '')"""
_BITS = {"tinyint": 8, "smallint": 16, "mediumint": 24, "int": 32, "bigint": 64}
_LARGEST_ID = 2**63 - 2  # of a sequence of MariaDB
_TYPE = re.compile(r"([a-z]+)(?:\((\d+)(?:,(\d+))?\))?((?: unsigned)?)")
_ID_COLUMN = """SELECT column_type AS kind, column_default AS standard, extra AS extra
    FROM information_schema.columns
    WHERE table_schema = COALESCE(:schema, DATABASE()) AND table_name = :name
    AND column_name = :id"""
_NEXT_VALUE = re.compile(r"nextval\(`((?:[^`]|``)+)`\.`((?:[^`]|``)+)`\)$", re.IGNORECASE)
_IS_SEQUENCE = """SELECT 1 FROM information_schema.tables WHERE table_type = 'SEQUENCE'
    AND table_schema = COALESCE(:schema, DATABASE()) AND table_name = :name"""

# A grant on a database names it by a pattern of LIKE.
_WRITING_RIGHTS = """
    SELECT count(*) FROM (
        SELECT grantee, privilege_type FROM information_schema.user_privileges
        UNION ALL SELECT grantee, privilege_type FROM information_schema.schema_privileges
            WHERE COALESCE(:schema, DATABASE()) LIKE table_schema
        UNION ALL SELECT grantee, privilege_type FROM information_schema.table_privileges
            WHERE table_schema = COALESCE(:schema, DATABASE()) AND table_name = :name
    ) AS rights
    WHERE privilege_type IN ('INSERT', 'UPDATE', 'DELETE', 'DROP') AND grantee = CONCAT(
        '''', SUBSTRING_INDEX(CURRENT_USER(), '@', 1),
        '''@''', SUBSTRING_INDEX(CURRENT_USER(), '@', -1), ''''
    )
"""


class MySQL(Dialect):
    """One dialect for both servers; they differ in how statements are bounded."""

    drivers = (
        Driver("pymysql", "pip install 'pymysql[rsa]'"),
        Driver("mysqldb", "pip install 'celery-results-exporter[mysqlclient]'"),
        Driver("mysqlconnector", "pip install mysql-connector-python"),
    )
    needs_database = True
    usual_port = 3306
    place_name = "mysql"
    no_such_argument = (*Dialect.no_such_argument, r"""Unsupported argument ["'](\w+)""")
    snapshot = True
    begin = ("START TRANSACTION WITH CONSISTENT SNAPSHOT, READ ONLY",)
    hides_columns = True

    @classmethod
    def exact_text(cls, length: int) -> TypeEngine[str]:
        """Name a collation: by default "Shop" is "shop"."""
        return VARCHAR(length, charset="utf8mb4", collation="utf8mb4_bin")

    def mistake(self, words: str, driver: str) -> str:
        """Name the package that an account needs, too."""
        if found := _NO_SUCH_PACKAGE.search(words):
            return f"{words}: pip install {_PACKAGES.get(found[1], found[1])}"
        return super().mistake(words, driver)

    def connect_arguments(self, url: URL) -> tuple[URL, dict[str, Any]]:
        """Bound connecting and every wait on the socket; give the server no file it asks for."""
        connector = url.get_driver_name() == "mysqlconnector"
        return url, {
            "allow_local_infile" if connector else "local_infile": 0,  # whatever the URL says
            "charset": "utf8mb4",  # all that a label may hold, whatever the URL says
            "connect_timeout": max(1, math.ceil(self.limits.connect)),
            "read_timeout": math.ceil(self.limits.query) + 1,
            "write_timeout": math.ceil(self.limits.query) + 1,
        }

    @contextmanager
    def bounded(self, raw: Any, seconds: float) -> Iterator[None]:
        """Cut the connection's socket when the server never stops to answer.

        It is late by far: the server bounds statements, the driver each wait for some bytes.
        """
        descriptor = _descriptor(raw)
        if descriptor is None:
            yield
            return
        with cut_off(descriptor, STATEMENTS * seconds):
            yield

    def prepare(self, connection: Connection) -> None:
        """Bound statements and waits for locks; make every transaction a snapshot, read whole."""
        self._limit(connection)
        connection.exec_driver_sql(_WHOLE_ANSWERS)
        connection.exec_driver_sql("SET SESSION TRANSACTION ISOLATION LEVEL REPEATABLE READ")

    def prepare_to_write(self, connection: Connection) -> None:
        """Bound statements, waits for locks, and how long the server keeps what is idle.

        MySQL has no limit for idling in a transaction alone, and engines without transactions.
        """
        self._limit(connection)
        seconds = self.limits.query
        lock_wait = f"innodb_lock_wait_timeout = {max(1, math.floor(seconds))}"
        idle = f"wait_timeout = {LONGEST_PAUSE:.0f}"
        engine = "default_storage_engine = InnoDB"  # of tables that are made
        connection.exec_driver_sql(f"SET SESSION {lock_wait}, {idle}, {engine}")

    def _limit(self, connection: Connection) -> None:
        seconds = self.limits.query
        connection.exec_driver_sql(f"SET SESSION lock_wait_timeout = {max(1, math.ceil(seconds))}")
        if getattr(connection.dialect, "is_mariadb", False):
            connection.exec_driver_sql(f"SET SESSION max_statement_time = {seconds:.3f}")
        else:
            milliseconds = max(1, round(seconds * 1000))
            connection.exec_driver_sql(f"SET SESSION max_execution_time = {milliseconds}")

    def server(self, connection: Connection) -> str:
        """Name the product and version."""
        version = str(connection.exec_driver_sql("SELECT VERSION()").scalar_one())
        product = "MariaDB" if "mariadb" in version.lower() else "MySQL"
        return f"{product} {version.partition('-')[0]}"

    def origin(self, connection: Connection) -> Origin:
        """Ask for what is a server's own; one that takes over from it has others.

        MySQL has a UUID. What MariaDB has may be alike in two containers: together it is not.
        """
        said = {
            str(name).lower(): str(value)
            for name, value in connection.exec_driver_sql(_OWN_VARIABLES)
        }
        database = connection.exec_driver_sql("SELECT DATABASE()").scalar()
        uuid = said.pop("server_uuid", "")
        server = f"server {uuid}" if uuid else " ".join(said[name] for name in sorted(said))
        return Origin(server, self.text(database))

    def has_window_functions(self, connection: Connection) -> bool:
        """Whether this is MySQL 8 or MariaDB (10.2 or newer, as all that are maintained)."""
        version = connection.dialect.server_version_info or ()
        return bool(getattr(connection.dialect, "is_mariadb", False)) or version >= (8,)

    def look_at(
        self, connection: Connection, names: Sequence[tuple[str, str | None]]
    ) -> Sequence[Facts | None]:
        """Look in the catalogue: SHOW CREATE TABLE wants more than column rights."""
        return [_facts(connection, name, schema) for name, schema in names]

    def full_name(
        self, connection: Connection, name: str, schema: str | None, database: str
    ) -> str:
        """Return it with its schema, which is a database."""
        del connection
        return f"{schema or database}.{name}"

    def ask_for(self, connection: Connection, name: str, schema: str | None) -> None:
        """Hidden, or not there? The server tells the one who asks for it by name."""
        inspect(connection).has_table(name, schema=schema)

    def adapt(
        self, column: Column[Any], kind: Kind, declared: TypeEngine[Any]
    ) -> ColumnElement[Any] | None:
        """Take the bytes of what is stored as text; a text beside UUID has to be one."""
        if kind.is_text and isinstance(declared, Uuid):
            return cast(column, String())
        if kind is Kind.BYTES and isinstance(declared, (String, JSON)):
            return self.exact(column)
        return super().adapt(column, kind, declared)

    def exact(self, column: ColumnElement[Any]) -> ColumnElement[Any]:
        """Compare bytes: collations merge case, accents and trailing blanks by default."""
        utf8 = func.convert(column.op("USING")(literal_column("utf8mb4")))
        return cast(utf8, LargeBinary)

    def constant(self, text: str) -> ColumnElement[Any] | None:
        """Return bytes made text: the connection's character set may not carry it."""
        sent = cast(literal(text.encode()), LargeBinary)
        return func.convert(sent.op("USING")(literal_column("utf8mb4")))

    def exact_value(self, value: str) -> str | bytes:
        """Return the text as `exact` gives it."""
        return value.encode()

    def end_of_text(self, column: ColumnElement[Any], length: int) -> ColumnElement[Any]:
        """Cut bytes, too: the connection's character set may be one that lacks some characters."""
        return self.exact(super().end_of_text(column, length))

    def moment(self, column: ColumnElement[Any]) -> ColumnElement[Any]:
        """Read seconds: PyMySQL takes longer to parse a date than to fetch it."""
        return self.elapsed(_EPOCH, column)

    def coarse_moment(self, column: ColumnElement[Any], seconds: int) -> ColumnElement[Any]:
        """Divide whole seconds."""
        unit: ColumnElement[Any] = literal_column("SECOND")
        length: ColumnElement[Any] = literal_column(str(seconds))
        return func.timestampdiff(unit, _EPOCH, column, type_=Integer).op("DIV")(length) * length

    def elapsed(self, since: ColumnElement[Any], until: ColumnElement[Any]) -> ColumnElement[Any]:
        """Count microseconds."""
        unit: ColumnElement[Any] = literal_column("MICROSECOND")
        return func.timestampdiff(unit, since, until) / literal_column("1e6", Double)

    def stamped(self, column: ColumnElement[Any]) -> ColumnElement[Any]:
        """Bring it from the session's zone, which is the server's where nobody set another."""
        session: ColumnElement[Any] = literal_column("@@session.time_zone")
        return func.convert_tz(column, session, literal_column("'+00:00'"), type_=DateTime)

    def constant_stamp(self, moment: datetime, *, zone: bool) -> ColumnElement[Any]:
        """Return wall time of the session's zone."""
        del zone
        return func.from_unixtime(literal_column(f"{moment.timestamp():.0f}"), type_=DateTime)

    def highest_id(
        self, connection: Connection, table: Table, column: str, sequence: str | None
    ) -> int | None:
        """Read the column's type, and the limit of the sequence that MariaDB's ids come from."""
        found = _id_column(connection, table, column)
        of_column = _largest(str(found.kind)) if found is not None else None
        if found is None or of_column is None:
            return of_column
        last = self._last(connection, _sequence(table, found, sequence))
        return of_column if last is None else min(of_column, last)

    def _last(self, connection: Connection, its_sequence: TableClause | None) -> int | None:
        """Return the last value of a sequence; None: there is none, or it may not be seen."""
        if its_sequence is None:
            return None
        named = {"schema": its_sequence.schema, "name": its_sequence.name}
        if not connection.execute(text(_IS_SEQUENCE), named).scalar():
            return None
        maximum: Select[Any] = select(sqlalchemy.column("maximum_value"))
        try:
            return int(connection.execute(maximum.select_from(its_sequence)).scalar_one())
        except DBAPIError as error:
            if self.reason(error) is not Reason.PERMISSION:
                raise
            return None

    def rows_estimate(self, connection: Connection, table: Table) -> int | None:
        """Read InnoDB's estimate."""
        estimate = connection.execute(
            text(
                "SELECT table_rows FROM information_schema.tables"
                " WHERE table_schema = COALESCE(:schema, DATABASE()) AND table_name = :name"
            ),
            {"schema": table.schema, "name": table.name},
        ).scalar()
        return None if estimate is None else int(estimate)

    def can_write(self, connection: Connection, table: Table) -> bool | None:
        """Look for a writing right among those of the account itself, on this very table."""
        of = {"schema": table.schema, "name": table.name}
        return bool(connection.execute(text(_WRITING_RIGHTS), of).scalar())

    def account(self, connection: Connection) -> str:
        """Ask whose rights hold: the account that the server has found for this client."""
        user, host = self._account(connection)
        return f"{user}@{host}"

    def _account(self, connection: Connection) -> tuple[str, str]:
        found = self.text(connection.exec_driver_sql("SELECT CURRENT_USER()").scalar_one())
        user, _, host = found.rpartition("@")
        return _quoted(user), _quoted(host)

    def index(self, connection: Connection, table: Table, column: str) -> list[str]:
        """Let writers go on meanwhile, or refuse."""
        made = self._index(connection, table, column)
        return [f"{made} ALGORITHM=INPLACE LOCK=NONE"]

    def wider_ids(
        self, connection: Connection, table: Table, column: str, sequence: str | None
    ) -> list[str]:
        """Widen the column, with all that MODIFY would take from it, and its sequence."""
        found = _id_column(connection, table, column)
        of_column = _largest(str(found.kind)) if found is not None else None
        if found is None or of_column is None:
            return []
        names, statements = names_for_people(connection), []
        own = _NEXT_VALUE.match(str(found.standard))
        if of_column < _LARGEST_ID and (found.standard is None or own):
            unsigned = " UNSIGNED" if "unsigned" in str(found.kind) else ""
            standard = f" DEFAULT {found.standard}" if own else ""
            counts = " AUTO_INCREMENT" if "auto_increment" in str(found.extra) else ""
            wider = f"{names.quote(column)} BIGINT{unsigned} NOT NULL{standard}{counts}"
            statements.append(f"ALTER TABLE {names.format_table(table)} MODIFY {wider}")
        its_sequence = _sequence(table, found, sequence)
        last = self._last(connection, its_sequence)
        if its_sequence is not None and last is not None and last < _LARGEST_ID:
            statements.append(f"ALTER SEQUENCE {names.format_table(its_sequence)} NOMAXVALUE")
        return statements

    def reader(self, connection: Connection, name: str, password: str) -> tuple[str, list[str]]:
        """Make a user who connects from where this one does."""
        account = f"{_quoted(name)}@{self._account(connection)[1]}"
        return account, [f"CREATE USER {account} IDENTIFIED BY {_quoted(password)}"]

    def reason(self, error: DBAPIError) -> Reason:
        """Classify by error number."""
        arguments = error.orig.args if error.orig is not None else ()
        number = arguments[0] if arguments and isinstance(arguments[0], int) else 0
        if number in _REASONS:
            return _REASONS[number]
        if number == _LOST_CONNECTION and "timed out" in str(error.orig):
            return Reason.TIMEOUT
        of_client = _FIRST_CLIENT_ERROR <= number <= _LAST_CLIENT_ERROR
        if number in _CONNECT or of_client or _GONE in str(error.orig):
            return Reason.CONNECT
        return Reason.QUERY


def _quoted(name: str) -> str:
    return "'" + name.replace("'", "''") + "'"


def _id_column(connection: Connection, table: Table, column: str) -> Row[Any] | None:
    where = {"schema": table.schema, "name": table.name, "id": column}
    return connection.execute(text(_ID_COLUMN), where).one_or_none()


def _sequence(table: Table, id_column: Row[Any], usual: str | None) -> TableClause | None:
    """Return the sequence that ids come from; None: from none. It may not be there.

    It is no Table: what is asked of that would be compiled anew for each.
    """
    if "auto_increment" in str(id_column.extra):
        return None
    if own := _NEXT_VALUE.match(str(id_column.standard)):
        schema, name = (part.replace("``", "`") for part in own.groups())
        return sqlalchemy.table(name, schema=schema)
    return sqlalchemy.table(usual, schema=table.schema) if usual else None


def _largest(column_type: str) -> int | None:
    """Return the largest whole number of a type as the catalogue writes it: int(10) unsigned."""
    found = _TYPE.match(column_type.lower())
    kind, digits, scale, unsigned = found.groups() if found else ("", None, None, "")
    if kind == "decimal" and digits and int(scale or 0) == 0:
        return int("9" * int(digits))
    return (1 << _BITS[kind] - (not unsigned)) - 1 if kind in _BITS else None


def _facts(connection: Connection, name: str, schema: str | None) -> Facts | None:
    there = {"schema": schema, "name": name}
    where = "WHERE table_schema = COALESCE(:schema, DATABASE()) AND table_name = :name"
    columns = connection.execute(
        text(
            "SELECT column_name, data_type, numeric_scale, character_maximum_length"  # noqa: S608
            f" FROM information_schema.columns {where}"
        ),
        there,
    ).all()
    if not columns:
        return None
    indexed = connection.execute(
        text(
            f"SELECT column_name FROM information_schema.statistics {where}"  # noqa: S608
            " AND seq_in_index = 1"
        ),
        there,
    ).scalars()
    types = {str(column): _type(*declared) for column, *declared in columns}
    return Facts(types, frozenset(map(str, indexed)))


def _type(name: str, scale: int | None, length: int | None) -> TypeEngine[Any]:
    """Return SQLAlchemy's type, as far as it says what the column holds."""
    if name.endswith("blob"):
        return LargeBinary()
    if name == "varchar":
        return VARCHAR(length)
    known: type[TypeEngine[Any]] = ischema_names.get(name, NullType)
    return Numeric(scale=scale) if issubclass(known, Numeric) else known()


def _descriptor(raw: Any) -> int | None:
    """Return that of the connection's socket, where the driver tells."""
    if hasattr(raw, "fileno"):
        return int(raw.fileno())
    wire = getattr(raw, "_sock", None)  # PyMySQL has no other name for it
    return None if wire is None else int(wire.fileno())


DIALECT = MySQL
