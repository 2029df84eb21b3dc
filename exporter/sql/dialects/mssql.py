"""SQL Server, through pyodbc."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from sqlalchemy import (
    CHAR,
    NCHAR,
    URL,
    VARBINARY,
    VARCHAR,
    BigInteger,
    Column,
    ColumnElement,
    Connection,
    DateTime,
    MetaData,
    Numeric,
    String,
    Table,
    Text,
    Unicode,
    Uuid,
    cast,
    func,
    literal_column,
    text,
)
from sqlalchemy.dialects.mssql import DATETIMEOFFSET
from sqlalchemy.dialects.mssql.base import ischema_names
from sqlalchemy.exc import DBAPIError
from sqlalchemy.types import NullType, TypeEngine

from exporter.errors import Reason
from exporter.sql.dialects import Dialect, Driver, Limits
from exporter.sql.identity import Origin
from exporter.sql.inspection import Facts
from exporter.sql.kinds import Kind

_LARGEST = {"tinyint": 2**8 - 1, "smallint": 2**15 - 1, "int": 2**31 - 1, "bigint": 2**63 - 1}
_ID_LIMIT = """SELECT TYPE_NAME(c.system_type_id), c.precision, c.scale, c.is_identity,
    (SELECT CAST(s.maximum_value AS DECIMAL(38, 0)) FROM sys.sequences s
        WHERE s.object_id = OBJECT_ID(:sequence))
    FROM sys.columns c WHERE c.object_id = OBJECT_ID(:name) AND c.name = :id"""
_STATES = {
    "28000": Reason.CONNECT,
    "HYT00": Reason.TIMEOUT,
    "HYT01": Reason.TIMEOUT,
    "42S02": Reason.SCHEMA,  # no such table
    "42S22": Reason.SCHEMA,  # no such column
}
_NUMBERS = {
    "(229)": Reason.PERMISSION,  # SELECT permission denied on object
    "(230)": Reason.PERMISSION,  # SELECT permission denied on column
    "(1222)": Reason.TIMEOUT,  # lock request time out
    "(4060)": Reason.CONNECT,  # cannot open database
}
_LOOK = """
SELECT wanted.number, c.name, TYPE_NAME(c.system_type_id), c.scale, (
    SELECT COUNT(*) FROM sys.index_columns i
    WHERE i.object_id = c.object_id AND i.column_id = c.column_id AND i.key_ordinal = 1
)
FROM ({}) wanted
JOIN sys.columns c ON c.object_id = wanted.id"""
_NAMED = "SELECT {0} AS number, OBJECT_ID(:name_{0}) AS id"
_END = "."


class SQLServer(Dialect):
    """Reads under SNAPSHOT where the database allows it, else each range by one statement (R9)."""

    other_names = ("sqlserver", "tsql")
    drivers = (
        Driver("pyodbc", "install unixODBC (Debian: unixodbc) and your database's ODBC driver"),
    )
    needs_database = False  # an ODBC data source may have its own
    usual_port = 1433
    begin = ("BEGIN TRANSACTION",)
    longest_label = 255

    def __init__(self, limits: Limits) -> None:
        super().__init__(limits)
        self.snapshot = False  # until `prepare` has asked

    @classmethod
    def exact_text(cls, length: int) -> TypeEngine[str]:
        """Name a collation: by default "Shop" is "shop"."""
        return Unicode(length, collation="Latin1_General_100_BIN2")

    def connect_arguments(self, url: URL) -> tuple[URL, dict[str, Any]]:
        """Bound connecting (the ODBC login timeout)."""
        return url, {"timeout": max(1, math.ceil(self.limits.connect))}

    def prepare(self, connection: Connection) -> None:
        """Bound statements and waits for locks; read snapshots where they are allowed."""
        self.prepare_to_write(connection)
        state = connection.exec_driver_sql(
            "SELECT snapshot_isolation_state FROM sys.databases WHERE name = DB_NAME()"
        ).scalar()
        self.snapshot = state == 1
        level = "SNAPSHOT" if self.snapshot else "READ COMMITTED"
        connection.exec_driver_sql(f"SET TRANSACTION ISOLATION LEVEL {level}")

    def prepare_to_write(self, connection: Connection) -> None:
        """Bound statements and waits for locks."""
        raw: Any = connection.connection.driver_connection
        raw.timeout = max(1, math.ceil(self.limits.query))
        connection.exec_driver_sql(f"SET LOCK_TIMEOUT {round(self.limits.query * 1000)}")

    def server(self, connection: Connection) -> str:
        """Name the product and version."""
        version = connection.exec_driver_sql(
            "SELECT CAST(SERVERPROPERTY('ProductVersion') AS VARCHAR(64))"
        ).scalar_one()
        return f"SQL Server {version}"

    def origin(self, connection: Connection) -> Origin:
        """Ask for the database's GUID, which copies by backup and availability groups share."""
        name, guid = connection.exec_driver_sql(
            "SELECT name, CAST(service_broker_guid AS VARCHAR(36)) FROM sys.databases"
            " WHERE name = DB_NAME()"
        ).one()
        known = str(guid or "").strip("0-") != ""  # Babelfish has none
        return Origin(f"database {guid}" if known else "", str(name), lasting=True)

    def look_at(
        self, connection: Connection, names: Sequence[tuple[str, str | None]]
    ) -> Sequence[Facts | None]:
        """Ask the catalogue once for all of them: reflection takes seconds over some gateways."""
        full_names = [_full_name(connection, Table(n, MetaData(), schema=s)) for n, s in names]
        found = connection.execute(
            text(_LOOK.format(" UNION ALL ".join(map(_NAMED.format, range(len(names)))))),
            {f"name_{number}": name for number, name in enumerate(full_names)},
        ).all()
        columns: list[dict[str, TypeEngine[Any]]] = [{} for _ in names]
        indexed: list[set[str]] = [set() for _ in names]
        for number, column, declared, scale, leads in found:
            columns[number][column] = _type(declared, scale)
            if leads:
                indexed[number].add(column)
        pairs = zip(columns, indexed, strict=True)
        return [Facts(types, frozenset(leading)) if types else None for types, leading in pairs]

    def cut(self, text: ColumnElement[Any]) -> ColumnElement[Any]:
        """Leave it: `exact` does this."""
        return text

    def adapt(
        self, column: Column[Any], kind: Kind, declared: TypeEngine[Any]
    ) -> ColumnElement[Any] | None:
        """Take off the blanks that CHAR adds, and the bytes of what is stored as text.

        TEXT is neither compared nor counted; a text beside UNIQUEIDENTIFIER has to be one.
        """
        if kind.is_text and isinstance(declared, (Text, Uuid)):
            return cast(column, Unicode())
        if kind.is_text and isinstance(declared, (CHAR, NCHAR)):
            return func.rtrim(column, type_=Unicode)
        if kind is Kind.BYTES and isinstance(declared, String):
            return cast(cast(column, VARCHAR()), VARBINARY())
        return super().adapt(column, kind, declared)

    def exact(self, column: ColumnElement[Any]) -> ColumnElement[Any]:
        """Compare characters by their code: collations merge case by default.

        T-SQL pads the shorter of two texts with blanks, in `=` and GROUP BY: a dot at the end of
        both leaves none that it could take for padding.
        """
        characters = cast(column, Unicode(self.longest_label)).collate("Latin1_General_BIN2")
        return characters + literal_column(f"N'{_END}'", Unicode)

    def exact_value(self, value: str) -> str | bytes:
        """Return the text as `exact` gives it."""
        return value + _END

    def text(self, value: Any) -> str:
        """Take off what `exact` added; the driver has decoded it."""
        return super().text(None if value is None else value.removesuffix(_END))

    def start_of_bytes(self, column: ColumnElement[Any], length: int) -> ColumnElement[Any]:
        """Cut IMAGE, which Celery's tables have here, as well as VARBINARY."""
        return func.substring(column, 1, length, type_=VARBINARY(length))

    def octets(self, column: ColumnElement[Any], *, binary: bool) -> ColumnElement[Any]:
        """Count the bytes of TEXT and IMAGE, too."""
        del binary
        return func.datalength(column, type_=BigInteger)

    def total(self, column: ColumnElement[Any]) -> ColumnElement[Any]:
        """Sum as DECIMAL: a sum of INT is one, too, and overflows."""
        return func.sum(cast(column, Numeric(38, 0)))

    def end_of_text(self, column: ColumnElement[Any], length: int) -> ColumnElement[Any]:
        """Cut TEXT, which RIGHT does not take."""
        return func.right(cast(column, Unicode()), length, type_=Unicode)

    def highest_id(
        self, connection: Connection, table: Table, column: str, sequence: str | None
    ) -> int | None:
        """Read the column's type, and the limit of Celery's sequence where that may be seen."""
        its_sequence = Table(sequence or "", MetaData(), schema=table.schema)
        found = connection.execute(
            text(_ID_LIMIT),
            {
                "name": _full_name(connection, table),
                "id": column,
                "sequence": _full_name(connection, its_sequence),
            },
        ).one_or_none()
        if found is None:
            return None
        kind, precision, scale, identity, last = found
        whole = kind in {"decimal", "numeric"} and scale == 0
        of_column = int("9" * precision) if whole else _LARGEST.get(kind)
        if of_column is None or last is None or identity:
            return of_column
        return min(of_column, int(last))

    def rows_estimate(self, connection: Connection, table: Table) -> int | None:
        """Read the partitions' row counts."""
        estimate = connection.execute(
            text(
                "SELECT SUM(rows) FROM sys.partitions"
                " WHERE object_id = OBJECT_ID(:name) AND index_id IN (0, 1)"
            ),
            {"name": _full_name(connection, table)},
        ).scalar()
        return None if estimate is None else int(estimate)

    def can_write(self, connection: Connection, table: Table) -> bool | None:
        """Ask the server for the account's rights on the table."""
        rights = connection.execute(
            text(
                "SELECT HAS_PERMS_BY_NAME(:name, 'OBJECT', 'INSERT')"
                " + HAS_PERMS_BY_NAME(:name, 'OBJECT', 'DELETE')"
            ),
            {"name": _full_name(connection, table)},
        ).scalar()
        return bool(rights)

    def account(self, connection: Connection) -> str:
        """Ask for the user of this database."""
        return str(connection.exec_driver_sql("SELECT QUOTENAME(USER_NAME())").scalar_one())

    def reader(self, connection: Connection, name: str, password: str) -> tuple[str, list[str]]:
        """Make a login, and a user for it in this database."""
        del connection
        return name, [
            f"CREATE LOGIN {name} WITH PASSWORD = '{password}'",
            f"CREATE USER {name} FOR LOGIN {name}",
        ]

    def snapshots(self, connection: Connection) -> list[str]:
        """Allow them in this database."""
        database = connection.exec_driver_sql("SELECT QUOTENAME(DB_NAME())").scalar_one()
        return [f"ALTER DATABASE {database} SET ALLOW_SNAPSHOT_ISOLATION ON"]

    def reason(self, error: DBAPIError) -> Reason:
        """Classify by the server's error number, then by SQLSTATE."""
        message = str(error.orig)
        for number, reason in _NUMBERS.items():
            if number in message:
                return reason
        arguments = error.orig.args if error.orig is not None else ()
        state = str(arguments[0]) if arguments else ""
        if state in _STATES:
            return _STATES[state]
        return Reason.CONNECT if state.startswith("08") else Reason.QUERY


def _full_name(connection: Connection, table: Table) -> str:
    return connection.dialect.identifier_preparer.format_table(table)


def _type(name: str | None, scale: int) -> TypeEngine[Any]:
    """Return SQLAlchemy's type, as far as it says what the column holds."""
    known: type[TypeEngine[Any]] = ischema_names.get(name or "", NullType)
    if issubclass(known, Numeric):
        return Numeric(scale=scale)
    return DateTime(timezone=True) if known is DATETIMEOFFSET else known()


DIALECT = SQLServer
