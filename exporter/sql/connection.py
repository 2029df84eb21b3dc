"""One connection to a database: kept, replaced where it has died, discarded after any error."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from contextlib import ExitStack, suppress
from types import MappingProxyType
from typing import Any, Generic, TypeVar

from sqlalchemy import URL, Connection, Engine, NullPool, create_engine, event
from sqlalchemy.exc import DBAPIError

from exporter import redaction
from exporter.errors import BackendError, ConfigError, Reason
from exporter.printable import printable
from exporter.sql.dialects import Dialect

Begun = TypeVar("Begun")


class KeptConnection(ABC, Generic[Begun]):
    """The one connection. What it is for is said by `_begin`."""

    def __init__(self, dialect: Dialect) -> None:
        self.dialect = dialect
        self.server = ""  # product and version, once connected
        self._connection: Connection | None = None

    def close(self) -> None:
        """Discard the connection, whatever state it is in."""
        connection, self._connection = self._connection, None
        if connection is not None:
            with suppress(Exception):
                connection.invalidate()  # no polite goodbye: the server may not answer
            with suppress(Exception):
                connection.close()

    @abstractmethod
    def _begin(self) -> Begun:
        """Connect where there is no connection, and begin a transaction."""

    def _open(self) -> Begun:
        """Begin a transaction. A kept connection that has died meanwhile is replaced once."""
        kept = self._connection is not None
        try:
            return self._begin()
        except DBAPIError as error:
            if not kept or self.dialect.reason(error) is not Reason.CONNECT:
                raise
            self.close()
            return self._begin()


def reading_engine(
    dialect: Dialect,
    url: URL,
    connect_args: Mapping[str, Any] = MappingProxyType({}),
    **options: Any,
) -> Engine:
    """Return an engine for one connection, whose transactions are opened by the dialect's words."""
    url, arguments = dialect.connect_arguments(url)
    return create_engine(
        url,
        poolclass=NullPool,
        isolation_level="AUTOCOMMIT",
        hide_parameters=True,
        connect_args={**arguments, **connect_args},
        **options,
    )


def connect(engine: Engine, dialect: Dialect) -> Connection:
    """Connect, also within bounds where SQLAlchemy asks the server about itself."""
    with ExitStack() as bounds:

        def bound(raw: Any, _: object) -> None:
            bounds.enter_context(dialect.bounded(raw, dialect.limits.query))

        event.listen(engine, "connect", bound, insert=True)
        try:
            return engine.connect()
        finally:
            event.remove(engine, "connect", bound)


def unexpected(error: Exception, reason: Reason, advice: str = "") -> BackendError:
    """Return what nobody foresaw, a mistake of ours or of a driver, as trouble of a backend."""
    words = "; ".join(filter(None, (f"{type(error).__name__}: {message(error)}", advice)))
    trouble = BackendError(reason, words, unexpected=True)
    trouble.__cause__ = error
    return trouble


def trouble(error: Exception) -> str:
    """Say in one line why a backend could not be read, whatever was raised."""
    if isinstance(error, ConfigError):
        return "; ".join(error.faults)
    known = error if isinstance(error, BackendError) else unexpected(error, Reason.QUERY)
    return f"{known.reason}: {known}"


def message(error: BaseException) -> str:
    """Return what the error says: one line of bounded length, without a password."""
    # Masked before it is cut, or a password across the cut would show its beginning.
    return printable(" ".join(redaction.mask(_words(error)).split()))


def _words(error: BaseException) -> str:
    """Return what the error says; MySQL's drivers give number and text, pg8000 a dictionary."""
    match error.args:
        case ({"M": str(text)},):
            return text
        case (int(number), str(text)):
            return f"{text} ({number})"
        case _:
            return str(error)
