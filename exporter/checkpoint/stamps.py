"""By what a store is known that was emptied, or replaced by an older or another one.

Each save of a backend replaces the stamp of the one before. Where that is not there, the store is
not the one that was last written to.
"""

from __future__ import annotations

from sqlalchemy import Connection, insert, select, update

from exporter.checkpoint.schema import SAVES
from exporter.checkpoint.store import Store


class Stamps:
    """What is known of the last save of each backend."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._last: dict[str, str] = {}  # by backend, "": never saved
        self._seen: dict[str, int] = {}  # by backend: the store's connection on which it was there

    def last(self, backend: str) -> str:
        """Return the stamp that should be there, "" where there was no save."""
        return self._last.get(backend, "")

    def expect(self, backend: str, stamp: str) -> None:
        """Take this for the last."""
        self._last[backend] = stamp

    def note_seen(self, backend: str, connection: int) -> None:
        """Note that the last is there, on this connection of the store, counted from 1.

        It is to be looked at within the transaction: right after it another may connect anew.
        """
        self._seen[backend] = connection

    def surely_there(self, backend: str) -> bool:
        """Whether nothing can have been put in the store's place since the last was seen there."""
        return self._seen.get(backend) == self._store.connections and self._store.in_place()

    def replace(self, connection: Connection, backend: str, new: str) -> bool:
        """Put another in the place of the last; say whether that was there."""
        old, of_backend = self.last(backend), SAVES.c.backend == backend
        renew = update(SAVES).where(of_backend, SAVES.c.stamp == old).values(stamp=new)
        if connection.execute(renew).rowcount:
            return True
        if old or connection.execute(select(SAVES.c.stamp).where(of_backend)).first() is not None:
            return False
        connection.execute(insert(SAVES).values(backend=backend, stamp=new))
        return True


def found(connection: Connection, backend: str) -> str:
    """Return the stamp that is there, "" where there is none."""
    query = select(SAVES.c.stamp).where(SAVES.c.backend == backend)
    return connection.execute(query).scalar() or ""
