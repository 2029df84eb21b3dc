"""Readers that serve all tables that are alike: one takes milliseconds and memory to make."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

from sqlalchemy.util import LRUCache

from exporter.sql.dialects import Dialect

KEPT = 100  # more tables that differ from each other are rare

Reader = TypeVar("Reader")


class Shared(Generic[Reader]):
    """Readers of one kind, by what they read."""

    def __init__(self) -> None:
        self._readers: LRUCache[Hashable, Reader] = LRUCache(KEPT)

    def of(self, dialect: Dialect, alike: Hashable, make: Callable[[], Reader]) -> Reader:
        """Return the reader of what is alike, as `make` makes it where there is none yet."""
        key = (type(dialect), dialect.variant, dialect.snapshot, alike)
        reader = self._readers.get(key)
        if reader is None:
            reader = self._readers[key] = make()
        return reader
