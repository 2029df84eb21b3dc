"""PostgreSQL, through psycopg (and psycopg2 where that is installed)."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from sqlalchemy import URL, ColumnElement, Connection, Table, TextClause, func, select, text
from sqlalchemy.exc import DBAPIError

from exporter.dialects import LONGEST_PAUSE, Dialect
from exporter.errors import Reason
from exporter.position import Horizon

SNAPSHOT_FUNCTIONS = (13, 0)  # pg_current_snapshot() is new in PostgreSQL 13

_REASONS = {
    "42501": Reason.PERMISSION,  # insufficient_privilege
    "42P01": Reason.SCHEMA,  # undefined_table
    "42703": Reason.SCHEMA,  # undefined_column
    "3F000": Reason.SCHEMA,  # invalid_schema_name
    "57014": Reason.TIMEOUT,  # query_canceled
    "55P03": Reason.TIMEOUT,  # lock_not_available
    "25P03": Reason.TIMEOUT,  # idle_in_transaction_session_timeout
}
_CONNECT_CLASSES = ("08", "28", "3D", "53", "57")


class PostgreSQL(Dialect):
    """Settings are local to the transaction, so that a pooler hands none on to Celery."""

    snapshot = True
    begin = ("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY",)

    def connect_arguments(self, url: URL) -> tuple[URL, dict[str, Any]]:
        """Bound connecting; name ourselves; no server-side prepared statements (poolers)."""
        arguments: dict[str, Any] = {
            "connect_timeout": max(2, round(self.limits.connect)),  # libpq takes 2 s at least
            "application_name": "celery-results-exporter",
            "keepalives_idle": 30,
        }
        if url.get_driver_name() == "psycopg":
            arguments["prepare_threshold"] = None
        return url, arguments

    def open(self, connection: Connection) -> Horizon | None:
        """Begin, set the limits, and read the snapshot's horizon, in two round trips."""
        super().open(connection)
        columns = self._limits(pause=self.limits.query)
        version = connection.dialect.server_version_info or ()
        if version < SNAPSHOT_FUNCTIONS:
            connection.execute(select(*columns))
            return None
        snapshot = "pg_current_snapshot()"
        columns += [
            text(f"pg_snapshot_xmin({snapshot})::text::bigint"),
            text(f"pg_snapshot_xmax({snapshot})::text::bigint"),
        ]
        row = connection.execute(select(*columns)).one()
        return Horizon(row[-2], row[-1])

    def begin_to_write(self, connection: Connection) -> None:
        """Begin, and set the limits."""
        pause = min(LONGEST_PAUSE, self.limits.query)
        connection.execute(select(*self._limits(pause=pause)))

    def _limits(self, pause: float) -> list[ColumnElement[Any] | TextClause]:
        limits = {
            "statement_timeout": self.limits.query,
            "lock_timeout": self.limits.query,
            "idle_in_transaction_session_timeout": pause,
        }
        return [
            func.set_config(name, str(round(seconds * 1000)), True)  # noqa: FBT003
            for name, seconds in limits.items()
        ]

    @contextmanager
    def deadline(self, connection: Connection) -> Iterator[None]:
        """Cut the connection's socket when the server never answers.

        libpq waits for ever on a server whose process is stopped: TCP still acknowledges for it.
        """
        raw = connection.connection.driver_connection
        assert raw is not None  # noqa: S101  # we have just connected
        with socket.socket(fileno=os.dup(raw.fileno())) as handle:
            timer = threading.Timer(self.limits.query + 1, _cut, (handle,))
            timer.daemon = True
            timer.start()
            try:
                yield
            finally:
                timer.cancel()

    def server(self, connection: Connection) -> str:
        """Name the product and version."""
        version = connection.exec_driver_sql("SHOW server_version").scalar_one()
        return f"PostgreSQL {str(version).split()[0]}"

    def moment(self, column: ColumnElement[Any]) -> ColumnElement[Any]:
        """Read seconds: drivers raise on 'infinity' and on years after 9999."""
        return func.extract("epoch", column)

    def rows_estimate(self, connection: Connection, table: Table) -> int | None:
        """Read the planner's estimate; -1 means that nobody has counted yet."""
        estimate = connection.execute(
            text("SELECT reltuples::bigint FROM pg_class WHERE oid = to_regclass(:name)"),
            {"name": _quoted(connection, table)},
        ).scalar()
        return None if estimate is None or estimate < 0 else int(estimate)

    def can_write(self, connection: Connection, table: Table) -> bool | None:
        """Ask the server for the account's rights on the table."""
        return bool(
            connection.execute(
                text("SELECT has_table_privilege(:name, 'INSERT, UPDATE, DELETE, TRUNCATE')"),
                {"name": _quoted(connection, table)},
            ).scalar()
        )

    def reason(self, error: DBAPIError) -> Reason:
        """Classify by SQLSTATE; an error without one happened on the connection."""
        state = getattr(error.orig, "sqlstate", None) or getattr(error.orig, "pgcode", None)
        if state is None:
            return Reason.CONNECT
        if state in _REASONS:
            return _REASONS[state]
        return Reason.CONNECT if state[:2] in _CONNECT_CLASSES else Reason.QUERY


def _quoted(connection: Connection, table: Table) -> str:
    return connection.dialect.identifier_preparer.format_table(table)


def _cut(handle: socket.socket) -> None:
    with suppress(OSError):
        handle.shutdown(socket.SHUT_RDWR)


DIALECT = PostgreSQL
