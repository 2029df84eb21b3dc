"""Finds beat's tables in a database: all that is done of this room where there are none."""

from __future__ import annotations

from collections.abc import Hashable
from typing import NamedTuple

from sqlalchemy import Connection

from exporter.backends.schedules import PACKAGES
from exporter.backends.schedules.package import Package
from exporter.sql.dialects import Dialect
from exporter.sql.inspection import Facts


class Place(NamedTuple):
    """Tables that were found."""

    package: Package
    schema: str | None
    facts: Facts  # of the entries' table


class Places:
    """Where the tables of one database may be."""

    def __init__(self, dialect: Dialect, schema: str | None = None) -> None:
        """Take `schema` for where they are; None: wherever they usually are."""
        self._dialect = dialect
        self._all = [
            (package, place)
            for package in PACKAGES
            for place in ([schema] if schema else package.schemas)
            if place is None or not dialect.is_file
        ]
        self._seen: tuple[Connection, Hashable] | None = None  # through which, and by which stamp
        self._found: Place | None = None

    def find(self, connection: Connection) -> Place | None:
        """Look for them, if anything may have changed; the same object where nothing has."""
        names = [(table, place) for package, place in self._all for table in package.tables]
        stamp = self._dialect.stamp(connection, names)
        if stamp is None or self._seen != (connection, stamp):
            self._found = self._look(connection)
            self._seen = connection, stamp
        return self._found

    def _look(self, connection: Connection) -> Place | None:
        mains = [(package.entries, place) for package, place in self._all]
        seen = self._dialect.look_at(connection, mains)
        found = zip(self._all, seen, strict=True)
        places = (Place(package, place, facts) for (package, place), facts in found if facts)
        return next(places, None)
