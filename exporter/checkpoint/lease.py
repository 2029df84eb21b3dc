"""Who leads, where several exporters name one checkpoint: one row in its database.

The leader changes `beat` every few seconds, and within each transaction that saves; it must still
be the holder. Another takes the row over once `beat` has stood still for a while by its own clock:
clocks of different machines are never compared.
"""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from uuid import uuid4

from sqlalchemy import (
    BigInteger,
    Column,
    Connection,
    MetaData,
    String,
    Table,
    insert,
    select,
    update,
)

from exporter.checkpoint.store import Fence, Store
from exporter.errors import CheckpointError
from exporter.sql.dialects import Limits

LEASE_DURATION = 15.0  # seconds without a renewal
LIMITS = Limits(connect=5.0, query=5.0)  # several tries fit into the time it lasts

_metadata = MetaData()
_leases = Table(
    "celery_results_exporter_lease",
    _metadata,
    Column("name", String(16), primary_key=True),
    Column("holder", String(190), nullable=False),  # "": nobody
    Column("beat", BigInteger, nullable=False),
)
_row = _leases.c.name == "leader"  # the only one


class LeaseLostError(CheckpointError):
    """Another replica leads."""

    def __init__(self) -> None:
        super().__init__("another replica leads now")


class Lease:
    """The row, as one process sees it."""

    def __init__(self, store: Store, clock: Callable[[], float] = time.monotonic) -> None:
        self.leader = ""  # as last seen
        self._store = store
        self._clock = clock  # seconds
        self._laid_out = 0  # the store's connection on which the table was there
        self._own = _new_holder()
        self._seen: tuple[str, int] | None = None
        self._since = 0.0  # by the clock: `_seen` has stood still from then on
        self._confirmed = float("-inf")  # by the clock

    def take(self) -> bool:
        """Take the lease if nobody has it, or whoever had it is gone; say whether it is ours."""
        for _ in range(2):  # another replica may make the table, then the row, at the same moment
            if not self._laid_out:
                with suppress(CheckpointError):
                    self.look()
        started = self._clock()
        try:
            with self._transaction() as connection:
                if self._look(connection) == self._own:  # the answer to `_swap` had been lost
                    self.fence()(connection)
                    ours = True
                else:
                    ours = self._is_free() and self._swap(connection)
        except CheckpointError:
            self._seen = None  # who cannot see it beat cannot know that it does not
            raise
        if ours:
            self.leader, self._confirmed = self._own, started
        return ours

    def beat(self) -> None:
        """Say that we are here; raise LeaseLostError if another has taken over.

        Where the row is gone nobody has: the database was emptied.
        """
        started, fence = self._clock(), self.fence()
        with self._transaction() as connection:
            try:
                fence(connection)
            except LeaseLostError:
                if self._read(connection) is not None:
                    raise
                self._put_back(connection)
                fence(connection)
        self._confirmed = started

    def give_up(self) -> Fence:
        """Lead no longer, whatever the database says; return what was the fence."""
        fence = self.fence()
        self._own = _new_holder()
        self._confirmed = float("-inf")
        return fence

    def release(self) -> None:
        """Give up, and let another take over at once."""
        fence = self.give_up()
        with self._store.transaction() as connection:
            fence(connection)
            connection.execute(update(_leases).where(_row).values(holder=""))

    def confirmed(self) -> bool:
        """Whether nobody else can have taken over yet."""
        return self._clock() - self._confirmed < LEASE_DURATION

    def fence(self) -> Fence:
        """Return what raises LeaseLostError in a transaction unless this term still lasts.

        It also beats. The row stays locked until the transaction ends: until then nobody takes
        over, and who then does sees what it wrote.
        """
        own = _leases.c.holder == self._own
        beat = update(_leases).where(_row, own).values(beat=_leases.c.beat + 1)

        def fence(connection: Connection) -> None:
            if connection.execute(beat).rowcount != 1:
                raise LeaseLostError

        return fence

    def look(self) -> str:
        """Say who leads, or led last; "" is nobody."""
        with self._transaction() as connection:
            return self._look(connection)

    def close(self) -> None:
        """Release the connection."""
        self._store.retire()

    def _look(self, connection: Connection) -> str:
        """See who leads, and since when it has not stirred."""
        holder, beat = self._read(connection) or self._put_back(connection)
        if (holder, beat) != self._seen:
            self._seen, self._since = (holder, beat), self._clock()
        self.leader = holder
        return holder

    def _is_free(self) -> bool:
        return not self.leader or self._clock() - self._since >= LEASE_DURATION

    def _swap(self, connection: Connection) -> bool:
        assert self._seen is not None  # noqa: S101  # we have just looked
        holder, beat = self._seen
        unchanged = (_row, _leases.c.holder == holder, _leases.c.beat == beat)
        taken = {"holder": self._own, "beat": beat + 1}
        return connection.execute(update(_leases).where(*unchanged).values(taken)).rowcount == 1

    def _read(self, connection: Connection) -> tuple[str, int] | None:
        found = connection.execute(select(_leases.c.holder, _leases.c.beat).where(_row)).first()
        return None if found is None else (str(found.holder), int(found.beat))

    def _put_back(self, connection: Connection) -> tuple[str, int]:
        """Make the row. If there was one, its leader has as long as ever to beat again."""
        connection.execute(insert(_leases).values(name="leader", holder=self.leader, beat=0))
        return self.leader, 0

    @contextmanager
    def _transaction(self) -> Iterator[Connection]:
        """Make the table first where it may not be there."""
        with self._store.transaction() as connection:
            if self._laid_out != self._store.connections:
                _metadata.create_all(connection)
            yield connection
            self._laid_out = self._store.connections


def _new_holder() -> str:
    """Return a name for one term: what an earlier one has left behind stays outside the fence."""
    return f"{platform.node()[:100]}/{os.getpid()}/{uuid4().hex[:8]}"
