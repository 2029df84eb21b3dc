"""Who leads, where several exporters name one checkpoint: one row in its database.

The leader changes `beat` every few seconds, and within each transaction that saves; it must still
be the holder. Another takes the row over once `beat` has stood still for a while by its own clock:
clocks of different machines are never compared.
"""

from __future__ import annotations

import os
import platform
import time
from contextlib import suppress
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

from exporter.dialects import Limits
from exporter.errors import CheckpointError
from exporter.store import Fence, Store

LASTS = 15.0  # seconds without a beat
LIMITS = Limits(connect=5.0, query=5.0)  # several tries fit into the time it lasts

_metadata = MetaData()
_leases = Table(
    "celery_results_exporter_lease",
    _metadata,
    Column("name", String(16), primary_key=True),
    Column("holder", String(190), nullable=False),  # "": nobody
    Column("beat", BigInteger, nullable=False),
    mysql_engine="InnoDB",
)
_row = _leases.c.name == "leader"  # the only one


class LeaseLostError(CheckpointError):
    """Another replica leads."""

    def __init__(self) -> None:
        super().__init__("another replica leads now")


class Lease:
    """The row, as one process sees it."""

    def __init__(self, store: Store) -> None:
        self.leader = ""  # as last seen
        self._store = store
        self._created = False
        self._own = _new_holder()
        self._seen: tuple[str, int] | None = None
        self._since = 0.0  # monotonic: `_seen` has stood still from then on
        self._confirmed = float("-inf")  # monotonic

    def take(self) -> bool:
        """Take the lease if nobody has it, or whoever had it is gone; say whether it is ours."""
        if not self._created:
            self._create()
        started = time.monotonic()
        try:
            with self._store.transaction() as connection:
                if self._look(connection) == self._own:  # the answer to `_swap` had been lost
                    self.fence()(connection)
                    ours = True
                else:
                    ours = self._is_free() and self._swap(connection)
        except CheckpointError:
            self._seen = None  # who cannot see it beat cannot know that it does not
            raise
        if ours:
            self._confirmed = started
        return ours

    def beat(self) -> None:
        """Say that we are here; raise LeaseLostError if another has taken over."""
        started = time.monotonic()
        with self._store.transaction() as connection:
            self.fence()(connection)
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
        return time.monotonic() - self._confirmed < LASTS

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
        if not self._created:
            self._create()
        with self._store.transaction() as connection:
            return self._look(connection)

    def close(self) -> None:
        """Release the connection."""
        self._store.retire()

    def _look(self, connection: Connection) -> str:
        """See who leads, and since when it has not stirred."""
        holder, beat = connection.execute(
            select(_leases.c.holder, _leases.c.beat).where(_row)
        ).one()
        if (holder, beat) != self._seen:
            self._seen, self._since = (holder, beat), time.monotonic()
        self.leader = holder
        return str(holder)

    def _is_free(self) -> bool:
        return not self.leader or time.monotonic() - self._since >= LASTS

    def _swap(self, connection: Connection) -> bool:
        assert self._seen is not None  # noqa: S101  # we have just looked
        holder, beat = self._seen
        unchanged = (_row, _leases.c.holder == holder, _leases.c.beat == beat)
        taken = {"holder": self._own, "beat": beat + 1}
        return connection.execute(update(_leases).where(*unchanged).values(taken)).rowcount == 1

    def _create(self) -> None:
        for _ in range(2):  # another replica may make the table, then the row, at the same moment
            with suppress(CheckpointError):
                return self._create_now()
        return self._create_now()

    def _create_now(self) -> None:
        with self._store.transaction() as connection:
            _metadata.create_all(connection)
            if connection.execute(select(_leases.c.name).where(_row)).first() is None:
                free = {"name": "leader", "holder": "", "beat": 0}
                connection.execute(insert(_leases).values(free))
        self._created = True


def _new_holder() -> str:
    """Return a name for one term: what an earlier one has left behind stays outside the fence."""
    return f"{platform.node()[:100]}/{os.getpid()}/{uuid4().hex[:8]}"
