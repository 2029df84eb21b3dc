"""Which replica follows which backend, where several exporters name one checkpoint.

Each replica has a row in its database, whose `beat` it changes every few seconds: one statement,
however many backends it follows. Each backend has a row, its lease, that names the replica which
follows it, and is that one's as long as the replica's own row is there. Who sees a beat stand still
for `LEASE_DURATION`, by its own clock, deletes that replica's row; then its leases are free. Clocks
of different machines are never compared.

A transaction that saves changes the lease of its backend, which stays locked until it ends: until
then nobody takes it, and who then does sees what was saved.
"""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from uuid import uuid4

from sqlalchemy import Connection, bindparam, delete, insert, select, update

from exporter.checkpoint import migrations
from exporter.checkpoint.migrations import VERSION
from exporter.checkpoint.schema import LEASES, REPLICAS
from exporter.checkpoint.store import Store
from exporter.errors import CheckpointError
from exporter.sql.dialects import Limits

LEASE_DURATION = 15.0  # seconds without a beat
LIMITS = Limits(connect=5.0, query=5.0)  # several tries fit into the time it lasts

AT_ONCE = 500  # rows changed by one statement

_ours = (LEASES.c.backend == bindparam("_backend"), LEASES.c.replica == bindparam("_replica"))
_FENCE = update(LEASES).where(*_ours).values(writes=LEASES.c.writes + 1)


class LeaseLostError(CheckpointError):
    """Another replica follows the backend."""

    def __init__(self) -> None:
        super().__init__("another replica follows this backend now")


@dataclass(frozen=True, slots=True)
class Sight:
    """What is there at a moment."""

    replicas: Mapping[str, str]  # by name: a hash of the backends it is to follow
    leases: Mapping[str, str]  # by backend: a replica that may be gone; "": none

    def follower(self, backend: str) -> str:
        """Name the replica that follows a backend, "" where none does."""
        replica = self.leases.get(backend, "")
        return replica if replica in self.replicas else ""

    def followers(self, backends: Iterable[str]) -> dict[str, str]:
        """Name the replica that follows each backend, "" where none does."""
        return {backend: self.follower(backend) for backend in backends}


class Leases:
    """The rows, as one replica sees them. All but `fence` and `confirmed` is for one thread."""

    def __init__(self, store: Store, clock: Callable[[], float] = time.monotonic) -> None:
        self.own = _new_name()
        self.held: frozenset[str] = frozenset()  # backends that are ours, as far as is known
        self.sight = Sight({}, {})  # at the last look
        self._store = store
        self._clock = clock  # seconds
        self._laid_out = 0  # the store's connection on which the tables were there
        self._registered = False
        self._beats: dict[str, tuple[int, float]] = {}  # of others; by the clock, since when
        self._renewed = float("-inf")  # by the clock
        self._confirmed = float("-inf")  # likewise
        self._takes_from = float("-inf")  # likewise

    def renew(self, backends: str) -> None:
        """Say that we are here, and what we are to follow; look who else is.

        What another has taken over meanwhile is no longer held then; what is, `confirm` confirms.
        """
        started = self._clock()
        try:
            with self._transaction() as connection:
                beat = update(REPLICAS).where(REPLICAS.c.name == self.own)
                beat = beat.values(beat=REPLICAS.c.beat + 1, backends=backends)
                there = connection.execute(beat).rowcount == 1
                if not there:
                    self._register(connection, backends)
                self._look(connection)
        except CheckpointError:
            self._beats.clear()  # who cannot see them beat cannot know that they do not
            raise
        self._registered = True
        self._renewed = started

    def confirm(self) -> None:
        """Say that what is no longer held is no longer served."""
        self._confirmed = self._renewed

    def look(self) -> Sight:
        """Say what is there, and be no part of it."""
        with self._transaction() as connection:
            self._look(connection)
        return self.sight

    def strike_off(self) -> None:
        """Delete the rows of replicas that have been silent: their leases are free then.

        Where a row is locked, later: the server ends a transaction that hangs, and we must beat.
        """
        now = self._clock()
        for name, (beat, since) in self._beats.items():
            if now - since < LEASE_DURATION:
                continue
            silent = (REPLICAS.c.name == name, REPLICAS.c.beat == beat)
            try:
                with self._transaction() as connection:
                    struck = connection.execute(delete(REPLICAS).where(*silent)).rowcount
            except CheckpointError:
                return
            if struck:
                others = {other: of for other, of in self.sight.replicas.items() if other != name}
                self.sight = Sight(others, self.sight.leases)

    def take(self, backends: Collection[str]) -> None:
        """Take the leases of those that none follows, as of the last look; they are held then."""
        if not backends or self._clock() < self._takes_from:
            return
        known = self.sight.leases
        if new := set(backends) - known.keys():
            with suppress(CheckpointError), self._transaction() as connection:
                _insert(connection, new, "")  # unless another replica does at the same moment
        with self._transaction() as connection:
            for before in {known.get(backend, "") for backend in backends}:
                those = [each for each in sorted(backends) if known.get(each, "") == before]
                _hand_on(connection, those, before, self.own)
            query = select(LEASES.c.backend).where(LEASES.c.replica == self.own)
            held = frozenset(connection.execute(query).scalars())
        self.held = held

    def release(self, backends: Collection[str]) -> None:
        """Let others take these."""
        if backends:
            with self._transaction() as connection:
                _hand_on(connection, sorted(backends), self.own, "")
            self.held = self.held.difference(backends)

    def leave(self) -> None:
        """Let others take all that we have, at once."""
        self._confirmed = float("-inf")  # whatever the database says
        self.held, name = frozenset(), self.own
        self.own, self._registered = _new_name(), False
        with self._transaction() as connection:
            connection.execute(delete(REPLICAS).where(REPLICAS.c.name == name))

    def confirmed(self) -> bool:
        """Whether nobody else can have taken over yet what is held."""
        return self._clock() - self._confirmed < LEASE_DURATION

    def fence(self, connection: Connection, backend: str) -> None:
        """Raise LeaseLostError unless the backend is ours, and keep it so until the end."""
        ours = {"_backend": backend, "_replica": self.own}
        if connection.execute(_FENCE, ours).rowcount != 1:
            raise LeaseLostError

    def close(self) -> None:
        """Release the connection."""
        self._store.retire()

    def _register(self, connection: Connection, backends: str) -> None:
        """Put our row there, for the first time or again.

        Where leases are gone, too, the database was emptied. Nobody has ours then, and others may
        put theirs back as well: they have the time that a lease lasts. Else we were struck off,
        and begin anew, under a name that nothing we left hanging knows.
        """
        if migrations.version(connection) != VERSION:
            raise CheckpointError(f"{self._store.place}: is of another version")
        if self._registered:
            there = set(connection.execute(select(LEASES.c.backend)).scalars())
            if self.held | self.sight.leases.keys() <= there:
                self.own, self.held = _new_name(), frozenset()
            else:
                self._takes_from = self._clock() + LEASE_DURATION
                _insert(connection, self.held - there, self.own)
        row = {"name": self.own, "beat": 0, "backends": backends}
        connection.execute(insert(REPLICAS).values(row))

    def _look(self, connection: Connection) -> None:
        """See what is there.

        The leases first: who takes one has registered before, so that it is seen to be there.
        """
        found = connection.execute(select(LEASES.c.backend, LEASES.c.replica)).all()
        leases = {row.backend: row.replica for row in found}
        query = select(REPLICAS.c.name, REPLICAS.c.backends, REPLICAS.c.beat)
        replicas = connection.execute(query).all()
        now, before = self._clock(), self._beats
        self._beats = {
            name: before[name] if name in before and before[name][0] == beat else (beat, now)
            for name, _, beat in replicas
            if name != self.own
        }
        self.sight = Sight({name: backends for name, backends, _ in replicas}, leases)
        self.held = frozenset(each for each, replica in leases.items() if replica == self.own)

    @contextmanager
    def _transaction(self) -> Iterator[Connection]:
        """Make the tables first where they may not be there."""
        with self._store.transaction() as connection:
            if self._laid_out != self._store.connections:
                migrations.lay_out(connection)
                self._laid_out = self._store.connections
            yield connection


def _hand_on(connection: Connection, backends: Sequence[str], before: str, after: str) -> None:
    """Change whose leases these are, as far as they are still the one's before."""
    for first in range(0, len(backends), AT_ONCE):
        those = LEASES.c.backend.in_(backends[first : first + AT_ONCE])
        unchanged = (those, LEASES.c.replica == before)
        connection.execute(update(LEASES).where(*unchanged).values(replica=after))


def _insert(connection: Connection, backends: Collection[str], replica: str) -> None:
    rows = [{"backend": backend, "replica": replica, "writes": 0} for backend in backends]
    if rows:
        connection.execute(insert(LEASES), rows)


def _new_name() -> str:
    """Return a name for people and for one term: what an earlier one left behind is not ours."""
    return f"{platform.node()[:100]}/{os.getpid()}/{uuid4().hex[:8]}"
