"""A database that nobody has: what one file says is all there is to say."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqlalchemy import Unicode

from exporter.sql.dialects import Dialect, Driver
from exporter.sql.dialects.sqlite import SQLite

if TYPE_CHECKING:
    from sqlalchemy import Connection
    from sqlalchemy.types import TypeEngine


class SQLite3X(SQLite):
    """SQLite by another name, and with a driver of its own."""

    other_names = ("xlite",)
    drivers = (Driver("threex", "pip install threex"), Driver("pysqlite"))
    no_such_argument = (*Dialect.no_such_argument, r"what is (\w+)\?")

    @classmethod
    def exact_text(cls, length: int) -> TypeEngine[str]:
        return Unicode(length, collation="BINARY")

    def server(self, connection: Connection) -> str:
        return super().server(connection).replace("SQLite", "SQLite3X")


DIALECT = SQLite3X
