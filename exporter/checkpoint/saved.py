"""What a checkpoint holds, for reading, beside whoever saves."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from sqlalchemy import URL, Connection, delete, false, insert, literal, select, update

from exporter.checkpoint import migrations, ownfile, reading
from exporter.checkpoint.migrations import VERSION
from exporter.checkpoint.schema import TABLES
from exporter.checkpoint.store import IN_A_DATABASE, Snapshots, Store
from exporter.counting.position import Position
from exporter.counting.tally import Tally
from exporter.counting.values import Total
from exporter.counting.zones import Settled
from exporter.errors import CheckpointError
from exporter.sql.identity import Identity

# Seconds that all of a backend may take to be migrated, restored or written anew: 10^5 watched rows
# take some, a small disk or a busy machine longer.
WHOLE = 240.0


class Saved:
    """What is saved of all backends."""

    def __init__(self, store: Store) -> None:
        self.place = store.place  # for people
        self._store = store

    def close(self) -> None:
        """Release it."""
        self._store.retire()

    def restore(
        self, backend: str, positions: Mapping[str, Position], tally: Tally
    ) -> Mapping[str, Identity]:
        """Fill positions and tally with what was saved; say of which tables, by kind."""
        with self._transaction(backend, WHOLE) as connection:
            identities = reading.identities(connection, backend)
            parts = reading.parts(connection, backend, positions)
            totals = reading.totals(connection, backend)
            self._note_restored(connection, backend, identities)
        for kind, of_position in parts.items():
            positions[kind].restore(*of_position)
        tally.apply(totals)
        return identities

    def identities(self) -> dict[str, Mapping[str, Identity]]:
        """Name the backends that are in it, and their tables by kind."""
        with self._transaction() as connection:
            backends = reading.backends(connection)
            return {backend: reading.identities(connection, backend) for backend in backends}

    def zones(self) -> dict[str, Mapping[str, Settled]]:
        """Return what is known of the zones of dates, by backend and kind of table."""
        with self._transaction() as connection:
            return {
                backend: reading.zones(connection, backend)
                for backend in reading.backends(connection)
            }

    def began(self, backend: str) -> float | None:
        """Say since when a backend is counted, Unix time; None: it is not yet."""
        with self._transaction() as connection:
            totals = reading.totals(connection, backend).values.values()
        return min((it.created for it in totals if isinstance(it, Total)), default=None)

    def schema(self) -> int | None:
        """Return the version of its tables, None where there are none; refuse a newer one."""
        with self._store.transaction() as connection:
            return migrations.version(connection)

    def probe(self) -> str:
        """Try every right that is needed, changing nothing; name the server."""
        with self._store.transaction() as connection:
            migrations.lay_out(connection)
            for table in TABLES.sorted_tables:
                column = next(iter(table.c))
                nothing = select(table).where(false())
                connection.execute(insert(table).from_select(table.c.keys(), nothing))
                connection.execute(update(table).where(false()).values({column: literal("")}))
                connection.execute(delete(table).where(false()))
        return f"{self._store.server}, {self._store.driver}"

    @contextmanager
    def _transaction(
        self, backend: str | None = None, seconds: float | None = None
    ) -> Iterator[Connection]:
        """Begin one; `backend`: whose rows are to be written by nobody else meanwhile."""
        del backend  # nothing is written
        with self._store.transaction(seconds) as connection:
            found = migrations.version(connection)
            if found != VERSION:
                raise CheckpointError(
                    f"{self.place}: holds nothing yet"
                    if found is None
                    else f"{self.place}: was written by an older version of the exporter (schema "
                    f"{found}; this one's is {VERSION}): `run` or `once` brings it up to date"
                )
            yield connection

    def _note_restored(
        self, connection: Connection, backend: str, identities: Mapping[str, Identity]
    ) -> None:
        """Remember what was read, where it will be saved."""


def read(where: Path | URL) -> Saved:
    """Open a checkpoint for reading, beside the process that writes it."""
    if isinstance(where, URL):
        return Saved(Snapshots(where, IN_A_DATABASE))
    return Saved(ownfile.reading(where))
