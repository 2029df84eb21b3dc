"""SQL Server, through pyodbc."""

from __future__ import annotations

import math
from typing import Any

from sqlalchemy import (
    URL,
    VARBINARY,
    ColumnElement,
    Connection,
    MetaData,
    Numeric,
    Table,
    Unicode,
    case,
    cast,
    func,
    text,
)
from sqlalchemy.exc import DBAPIError

from exporter.dialects import Dialect, Limits
from exporter.errors import Reason
from exporter.tables import ResultTable

_LABEL_CHARACTERS = 255
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


class SQLServer(Dialect):
    """Reads under SNAPSHOT where the database allows it, else each range by one statement (R9)."""

    begin = ("BEGIN TRANSACTION",)

    def __init__(self, limits: Limits) -> None:
        super().__init__(limits)
        self.snapshot = False  # until `prepare` has asked

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

    def exact(self, column: ColumnElement[Any]) -> ColumnElement[Any]:
        """Compare UTF-16 bytes: collations merge case by default."""
        return cast(cast(column, Unicode(_LABEL_CHARACTERS)), VARBINARY(2 * _LABEL_CHARACTERS))

    def exact_value(self, value: str) -> str | bytes:
        """Return the text as `exact` gives it."""
        return value.encode("utf-16-le")

    def start_of_bytes(self, column: ColumnElement[Any], length: int) -> ColumnElement[Any]:
        """Cut IMAGE, which Celery's tables have here, as well as VARBINARY."""
        return func.substring(column, 1, length, type_=VARBINARY(length))

    def total(self, column: ColumnElement[Any]) -> ColumnElement[Any]:
        """Sum as DECIMAL: a sum of INT is one, too, and overflows."""
        return func.sum(cast(column, Numeric(38, 0)))

    def end_of_text(self, column: ColumnElement[Any], length: int) -> ColumnElement[Any]:
        """Cut TEXT, which RIGHT does not take."""
        start = func.datalength(column) - length
        return func.substring(column, case((start > 0, start), else_=0) + 1, length, type_=Unicode)

    def text(self, value: Any) -> str:
        """Decode what `label` gave."""
        return super().text(value.decode("utf-16-le", "replace") if value is not None else None)

    def highest_id(self, connection: Connection, table: ResultTable) -> int | None:
        """Read the column's type, and the limit of Celery's sequence where that may be seen."""
        format_table = connection.dialect.identifier_preparer.format_table
        sequence = Table(table.layout.sequence or "", MetaData(), schema=table.table.schema)
        found = connection.execute(
            text(_ID_LIMIT),
            {
                "name": format_table(table.table),
                "id": table.layout.id,
                "sequence": format_table(sequence),
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
            {"name": connection.dialect.identifier_preparer.format_table(table)},
        ).scalar()
        return None if estimate is None else int(estimate)

    def can_write(self, connection: Connection, table: Table) -> bool | None:
        """Ask the server for the account's rights on the table."""
        name = connection.dialect.identifier_preparer.format_table(table)
        rights = connection.execute(
            text(
                "SELECT HAS_PERMS_BY_NAME(:name, 'OBJECT', 'INSERT')"
                " + HAS_PERMS_BY_NAME(:name, 'OBJECT', 'DELETE')"
            ),
            {"name": name},
        ).scalar()
        return bool(rights)

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


DIALECT = SQLServer
