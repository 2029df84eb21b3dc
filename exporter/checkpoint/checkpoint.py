"""Positions and totals, kept over crashes and restarts: both change in one transaction (R7).

Written through SQLAlchemy, so that a file of our own (SQLite) and a database of the operator's are
one and the same code.

Where the stamp of the last save is not there, what changed would make no sense: all of the backend
is written anew, from memory. Where nothing is in memory yet, it goes on from what is there. Counts
of another table stay where they are: then nothing is written.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

from sqlalchemy import URL, Connection

from exporter.checkpoint import migrations, reading, stamps, writing
from exporter.checkpoint.adoption import KnownTables, refused
from exporter.checkpoint.migrations import VERSION
from exporter.checkpoint.ownfile import OwnFile
from exporter.checkpoint.saved import WHOLE, Saved
from exporter.checkpoint.stamps import Stamps
from exporter.checkpoint.store import Fence, Store
from exporter.checkpoint.writing import Save, Write
from exporter.counting.position import Position
from exporter.counting.tally import Tally
from exporter.errors import CheckpointError
from exporter.sql.identity import Identity

log = logging.getLogger(__name__)


def _no_fence(connection: Connection, backend: str) -> None:
    """Let everybody pass: what keeps others out is the lock on the file."""
    del connection, backend


class Checkpoint(Saved):
    """One store for all backends. Safe for several threads; a backend is one process's at a time.

    `adopt` names backends whose results have moved: once, they may be another table's.
    """

    def __init__(self, store: Store, fence: Fence = _no_fence, adopt: Collection[str] = ()) -> None:
        super().__init__(store)
        self.last_commit: float | None = None  # Unix time, seconds
        self.size: int | None = None  # bytes on disk as of then; None where it is not a file
        self.rewrites: Counter[str] = Counter()  # by backend
        self.rewritten: dict[str, float] = {}  # when last, Unix time, seconds
        self._fence = fence
        self._laid_out = 0  # the store's connection on which the tables were there
        self._stamps = Stamps(store)
        self._tables = KnownTables(adopt)

    def open(self) -> None:
        """Create or migrate the store; raise CheckpointError where it cannot be used."""
        try:
            self.lay_out()
        except BaseException:
            self.close()
            raise

    def lay_out(self) -> None:
        """Do the same, and stay open where it fails: it may work later."""
        with self._transaction(seconds=WHOLE):
            pass
        self.size = self._store.size()

    def recognise(self, backend: str, found: Mapping[str, Identity]) -> None:
        """Compare the tables about to be counted with those that were; refuse others."""
        with self._tables.recognised(backend, found) as renamed:
            if renamed:
                with self._transaction(backend) as connection:
                    _execute(connection, writing.renamed(backend, renamed))

    def keep(self, backend: str, positions: Mapping[str, Position], tally: Tally) -> bool:
        """Write all of a backend anew, if the store was lost or replaced since its last save.

        Return False where the backend has nothing to write, and should go on from what is there.
        """
        if self._stamps.surely_there(backend):
            return True
        with self._transaction(backend) as connection:
            found, on = stamps.found(connection, backend), self._store.connections
        last = self._stamps.last(backend)
        if found == last:
            self._stamps.note_seen(backend, on)
        elif not last:
            return False
        else:
            self._write_anew(backend, positions, tally)
        return True

    def save(
        self, backend: str, save: Save, positions: Mapping[str, Position], tally: Tally
    ) -> None:
        """Write what is staged, in one transaction; nothing at all where nothing changed.

        After an error ask `holds` whether it was kept: the answer to a commit may be lost.
        """
        writes = [*writing.changed(backend, self._tables.of(backend), save, tally)]
        if not writes:
            return
        if not self._write(backend, save.stamp, writes):
            self._write_anew(backend, positions, tally)
            if not self._write(backend, save.stamp, writes):
                raise CheckpointError(f"{self.place}: somebody else writes to it")

    def put(
        self,
        backend: str,
        identities: Mapping[str, Identity],
        positions: Mapping[str, Position],
        tally: Tally,
    ) -> None:
        """Write all of a backend of which nothing is there."""
        with self._transaction(backend, WHOLE) as connection:
            _execute(connection, writing.whole(backend, identities, positions, tally, uuid4().hex))

    def holds(self, backend: str, save: Save) -> bool:
        """Say whether this save, the last one tried, was kept.

        Where its commit is still under way on a server, the fence waits for it: a commit without an
        answer has changed what the fence changes.
        """
        with self._transaction(backend) as connection:
            kept = stamps.found(connection, backend) == save.stamp
        if kept:
            self._stamps.expect(backend, save.stamp)
        return kept

    # -- writing -----------------------------------------------------------------------------

    def _write(self, backend: str, stamp: str, writes: Iterable[Write]) -> bool:
        """Write, if the last save is there."""
        with self._transaction(backend) as connection:
            there, on = self._stamps.replace(connection, backend, stamp), self._store.connections
            if there:
                _execute(connection, writes)
        if there:
            self._note_saved(backend, stamp, on)
        return there

    def _write_anew(self, backend: str, positions: Mapping[str, Position], tally: Tally) -> None:
        """Write all that is in memory in place of what is there."""
        stamp, identities = self._stamps.last(backend), self._tables.of(backend)
        with self._transaction(backend, WHOLE) as connection:
            migrations.lay_out(connection)
            if not stamp:
                raise CheckpointError(f"{self.place}: holds counts that are not known here yet")
            if refusal := refused(backend, reading.identities(connection, backend), identities):
                raise CheckpointError(f"{self.place}: was replaced while in use: {refusal}")
            self._store.keep_what_was_put_there()
            _execute(connection, writing.whole(backend, identities, positions, tally, stamp))
            on = self._store.connections
        self._note_saved(backend, stamp, on)
        self.rewrites[backend] += 1
        self.rewritten[backend] = time.time()
        log.warning(
            "the checkpoint was deleted or replaced while in use; written anew from memory",
            extra={"backend": backend, "checkpoint": self.place},
        )

    @contextmanager
    def _transaction(
        self, backend: str | None = None, seconds: float | None = None
    ) -> Iterator[Connection]:
        """Let only the one pass that may write a backend's; the tables are there then."""
        with self._store.transaction(seconds) as connection:
            if self._laid_out != self._store.connections:
                self._lay_out(connection)
                self._laid_out = self._store.connections
            if backend is not None:  # last: some databases commit where a table is made
                self._fence(connection, backend)
            yield connection

    def _lay_out(self, connection: Connection) -> None:
        found = migrations.lay_out(connection)
        if found is None:
            log.info("a new checkpoint begins", extra={"checkpoint": self.place})
        elif found < VERSION and migrations.migrate(connection, found):
            log.info(
                "the checkpoint was brought to this version",
                extra={"checkpoint": self.place, "from_schema": found, "to_schema": VERSION},
            )

    def _note_restored(
        self, connection: Connection, backend: str, identities: Mapping[str, Identity]
    ) -> None:
        self._stamps.expect(backend, stamps.found(connection, backend))
        self._stamps.note_seen(backend, self._store.connections)
        self._tables.learn(backend, identities)

    def _note_saved(self, backend: str, stamp: str, on: int) -> None:
        self.last_commit = time.time()
        self._stamps.expect(backend, stamp)
        self._stamps.note_seen(backend, on)
        self.size = self._store.size()


def _execute(connection: Connection, writes: Iterable[Write]) -> None:
    for statement, rows in writes:
        connection.execute(statement, rows)


def carried(
    backend: str,
    identities: Mapping[str, Identity],
    positions: Mapping[str, Position],
    tally: Tally,
) -> Checkpoint:
    """Return a checkpoint in memory that holds this of a backend, to go on from."""
    checkpoint = Checkpoint(Store(URL.create("sqlite"), "checkpoint in memory"))
    checkpoint.open()
    checkpoint.put(backend, identities, positions, tally)
    return checkpoint


def open_file(path: Path, adopt: Collection[str] = ()) -> Checkpoint:
    """Open a checkpoint in a file, creating it where there is none."""
    checkpoint = Checkpoint(OwnFile(path), adopt=adopt)
    checkpoint.open()
    return checkpoint
