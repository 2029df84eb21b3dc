"""Statements that SQLAlchemy has compiled, kept once for all databases that are alike.

An engine keeps its own: with hundreds of backends they are most of the memory, and to compile them
is most of the first poll.
"""

from __future__ import annotations

import threading
from collections.abc import Hashable
from typing import Any

from sqlalchemy import Connection, Dialect
from sqlalchemy.sql.compiler import Compiled
from sqlalchemy.util import LRUCache

MOST = 500  # as many as an engine keeps by default
_PLAIN = (str, int, float, tuple, frozenset, type(None))
_OF_THE_DATABASE = {"default_schema_name"}  # tells nothing of how to write a statement

_kept: dict[Hashable, LRUCache[Any, Compiled]] = {}
_lock = threading.Lock()


def share(connection: Connection) -> None:
    """Let a connection use what was compiled for others whose dialect says the same of itself."""
    with _lock:
        kept = _kept.setdefault(_traits(connection.dialect), LRUCache(MOST))
    connection.execution_options(compiled_cache=_Shared(kept))


def _traits(dialect: Dialect) -> Hashable:
    """Return all that was set, or found when connecting: version, quoting and so on."""
    said = {
        name: value
        for name, value in vars(dialect).items()
        if isinstance(value, _PLAIN) and name not in _OF_THE_DATABASE
    }
    preparer = vars(dialect.identifier_preparer)
    quotes = {name: value for name, value in preparer.items() if isinstance(value, _PLAIN)}
    return type(dialect), frozenset(said.items()), frozenset(quotes.items())


class _Shared(dict[Any, Compiled]):
    """A cache as a connection wants it: its keys begin with the connection's own dialect."""

    def __init__(self, kept: LRUCache[Any, Compiled]) -> None:
        super().__init__()
        self._kept = kept

    def get(self, key: Any, default: Any = None) -> Any:
        return self._kept.get(_of_all(key), default)

    def __setitem__(self, key: Any, compiled: Compiled) -> None:
        self._kept[_of_all(key)] = compiled


def _of_all(key: Any) -> Any:
    return key[1:] if isinstance(key[0], Dialect) else key
