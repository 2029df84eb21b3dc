"""Adds up more numbers than memory should hold, in order: in a temporary SQLite database.

It is a file without a name, which goes with the process, and takes up room only where it does not
fit into SQLite's cache.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Self

from exporter.errors import ExporterError

CACHE = 4_096  # KiB, for the table; as much again to sort it
FETCHED = 10_000  # at once

_SETTINGS = (
    "PRAGMA journal_mode = OFF",
    "PRAGMA synchronous = OFF",
    "PRAGMA temp_store = FILE",
    f"PRAGMA cache_size = -{CACHE}",
    "CREATE TABLE cells (series INTEGER, step INTEGER, amount INTEGER)",
    "BEGIN",
)
_SUMS = "SELECT series, step, sum(amount) FROM cells GROUP BY series, step ORDER BY series, step"


class Sorting:
    """A context manager; at its end all is gone."""

    def __enter__(self) -> Self:
        with _explained():
            self._connection = sqlite3.connect("", isolation_level=None)
            for statement in _SETTINGS:
                self._connection.execute(statement)
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.close()

    def add(self, cells: Iterable[tuple[int, int, int]]) -> None:
        """Take amounts, each with the two numbers that it is sorted by."""
        with _explained():
            self._connection.executemany("INSERT INTO cells VALUES (?, ?, ?)", cells)

    def sums(self) -> Iterator[tuple[int, int, int]]:
        """Yield the sum for each pair of numbers, ascending."""
        with _explained():
            found = self._connection.execute(_SUMS)
            some = found.fetchmany(FETCHED)
        while some:
            yield from some
            with _explained():
                some = found.fetchmany(FETCHED)


@contextmanager
def _explained() -> Iterator[None]:
    try:
        yield
    except sqlite3.Error as error:
        raise ExporterError(
            f"temporary file: {error}; set TMPDIR to a folder with more room"
        ) from error
