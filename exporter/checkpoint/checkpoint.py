"""Positions and totals, kept over crashes and restarts: both change in one transaction (R7).

Written through SQLAlchemy, so that a file of our own (SQLite) and a database of the operator's are
one and the same code. Only what changed is written. When something is due is not kept: after a
restart everything is.

Each save of a backend replaces the stamp of the one before. Where that is not there, the store was
emptied, or replaced by an older or another one, and what changed would make no sense in it: all of
the backend is written anew, from memory. Where nothing is in memory yet, it goes on from what is
there. Counts of another table stay where they are: then nothing is written.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import uuid4

from sqlalchemy import (
    URL,
    Connection,
    Table,
    bindparam,
    delete,
    false,
    insert,
    literal,
    select,
    update,
)

from exporter.checkpoint import migrations, ownfile, records
from exporter.checkpoint.migrations import VERSION
from exporter.checkpoint.ownfile import OwnFile
from exporter.checkpoint.records import UnknownMetricError
from exporter.checkpoint.schema import GAPS, POSITIONS, SAVES, SEGMENTS, TABLES, TOTALS, WATCHED
from exporter.checkpoint.store import Fence, Snapshots, Store
from exporter.counting.audit import Segments
from exporter.counting.lifecycle import Watch
from exporter.counting.position import Position
from exporter.counting.spans import Missing, Span
from exporter.counting.step import Change, Gap, Mark
from exporter.counting.tally import Changes, Key, Tally, Total
from exporter.counting.watchlist import WatchList
from exporter.errors import CheckpointError
from exporter.metrics.samples import Histogram
from exporter.sql.identity import Identity

log = logging.getLogger(__name__)

WATCHED_A_PAGE = 5_000
# Seconds that all of a backend may take to be migrated, restored or written anew: 10^5 watched rows
# take some, a small disk or a busy machine longer.
WHOLE = 240.0
IN_A_DATABASE = "checkpoint database"  # its place, for people: no URL, no host


@dataclass(frozen=True, slots=True)
class Staged:
    """What one step changes of one table: not yet applied, and written before it is."""

    kind: str
    position: Position
    change: Change


@dataclass(frozen=True, slots=True)
class Save:
    """All that one step changes of a backend. By its stamp it is found again."""

    staged: tuple[Staged, ...] = ()
    changes: Changes = field(default_factory=Changes)
    stamp: str = field(default_factory=lambda: uuid4().hex)


class Saved:
    """What is saved, for reading, beside whoever saves."""

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
        with self._transaction(WHOLE) as connection:
            identities = _read_identities(connection, backend)
            query = select(POSITIONS.c.kind, POSITIONS.c.mark)
            marks = connection.execute(query.where(POSITIONS.c.backend == backend)).all()
            saved = [
                _read_position(connection, backend, kind, mark, positions[kind].rules.label_sets)
                for kind, mark in marks
            ]
            totals = _read_totals(connection, backend)
            self._note_restored(connection, backend, identities)
        for (kind, _), parts in zip(marks, saved, strict=True):
            positions[kind].restore(*parts)
        tally.apply(totals)
        return identities

    def identities(self) -> dict[str, Mapping[str, Identity]]:
        """Name the backends that are in it, and their tables by kind."""
        with self._transaction() as connection:
            query = select(POSITIONS.c.backend).distinct().order_by(POSITIONS.c.backend)
            backends = connection.execute(query).scalars().all()
            return {backend: _read_identities(connection, backend) for backend in backends}

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
    def _transaction(self, seconds: float | None = None) -> Iterator[Connection]:
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


def _no_fence(connection: Connection) -> None:
    """Let everybody pass: what keeps others out is the lock on the file."""
    del connection


class Checkpoint(Saved):
    """One store for all backends. Safe for several threads; one process at a time.

    `adopt` names backends whose results have moved: once, they may be another table's.
    """

    def __init__(self, store: Store, fence: Fence = _no_fence, adopt: Collection[str] = ()) -> None:
        super().__init__(store)
        self.patience = store.patience  # seconds that anything here takes at most
        self.last_commit: float | None = None  # Unix time, seconds
        self.size: int | None = None  # bytes on disk as of then; None where it is not a file
        self.rewrites: Counter[str] = Counter()  # by backend
        self.rewritten: dict[str, float] = {}  # when last, Unix time, seconds
        self._fence = fence
        self._adopt = set(adopt)
        self._laid_out = 0  # the store's connection on which the tables were there
        self._seen: dict[str, int] = {}  # by backend: that on which its stamp was there
        self._stamps: dict[str, str] = {}  # by backend, "": never saved
        self._identities: dict[str, dict[str, Identity]] = {}

    def open(self) -> None:
        """Create or migrate the store; raise CheckpointError where it cannot be used."""
        try:
            with self._transaction(WHOLE):
                pass
        except BaseException:
            self.close()
            raise
        self._measure()

    def recognise(self, backend: str, found: Mapping[str, Identity]) -> None:
        """Compare the tables about to be counted with those that were; refuse others."""
        known = self._identities.setdefault(backend, {})
        latest = {kind: new.after(known.get(kind)) for kind, new in found.items()}
        moved = {kind: new for kind, new in latest.items() if known.get(kind, new) != new}
        refusal = refused(backend, known, latest)
        if refusal and backend not in self._adopt:
            raise CheckpointError(refusal)
        if moved:
            with self._transaction() as connection:
                for kind, identity in moved.items():
                    whose = (POSITIONS.c.backend == backend, POSITIONS.c.kind == kind)
                    kept = records.identity(identity)
                    connection.execute(update(POSITIONS).where(*whose).values(identity=kept))
        self._identities[backend] = latest
        if refusal:
            self._adopt.discard(backend)
            log.warning(
                "adopted: counts go on with another table; remove --checkpoint.adopt",
                extra={
                    "backend": backend,
                    "from_table": ", ".join(map(str, known.values())),
                    "to_table": ", ".join(map(str, found.values())),
                },
            )

    def keep(self, backend: str, positions: Mapping[str, Position], tally: Tally) -> bool:
        """Write all of a backend anew, if the store was lost or replaced since its last save.

        Return False where the backend has nothing to write, and should go on from what is there.
        """
        same = self._seen.get(backend) == self._store.connections
        if same and (not isinstance(self._store, OwnFile) or self._store.in_place()):
            return True
        with self._transaction() as connection:
            found = _stamp(connection, backend)
        stamp = self._stamps.get(backend, "")
        if found != stamp:
            if not stamp:
                return False
            self._write_anew(backend, positions, tally)
        self._seen[backend] = self._store.connections
        return True

    def save(
        self, backend: str, save: Save, positions: Mapping[str, Position], tally: Tally
    ) -> None:
        """Write what is staged, in one transaction; nothing at all where nothing changed.

        After an error ask `holds` whether it was kept: the answer to a commit may be lost.
        """
        identities = self._identities.get(backend, {})
        writes = [write for stage in save.staged for write in _writes(backend, identities, stage)]
        writes += _total_writes(backend, save.changes, tally)
        if not writes:
            return
        if not self._write(backend, save, writes):
            self._write_anew(backend, positions, tally)
            if not self._write(backend, save, writes):
                raise CheckpointError(f"{self.place}: somebody else writes to it")
        self._note_saved(backend, save.stamp)

    def _write(self, backend: str, save: Save, writes: Sequence[Write]) -> bool:
        """Write, if the last save is there."""
        with self._transaction() as connection:
            there = _replace_stamp(connection, backend, self._stamps.get(backend, ""), save.stamp)
            if there:
                for statement, rows in writes:
                    connection.execute(statement, rows)
        return there

    def _write_anew(self, backend: str, positions: Mapping[str, Position], tally: Tally) -> None:
        """Write all that is in memory in place of what is there."""
        stamp, identities = self._stamps.get(backend, ""), self._identities.get(backend, {})
        with self._transaction(WHOLE) as connection:
            migrations.lay_out(connection)
            if not stamp:
                raise CheckpointError(f"{self.place}: holds counts that are not known here yet")
            if refusal := refused(backend, _read_identities(connection, backend), identities):
                raise CheckpointError(f"{self.place}: was replaced while in use: {refusal}")
            if isinstance(self._store, OwnFile):
                self._store.keep_what_was_put_there()
            for statement, rows in _anew(backend, identities, positions, tally, stamp):
                connection.execute(statement, rows)
        self._note_saved(backend, stamp)
        self.rewrites[backend] += 1
        self.rewritten[backend] = time.time()
        log.warning(
            "the checkpoint was deleted or replaced while in use; written anew from memory",
            extra={"backend": backend, "checkpoint": self.place},
        )

    def holds(self, backend: str, save: Save) -> bool:
        """Say whether this save, the last one tried, was kept.

        Where its commit is still under way on a server, the fence waits for it: a commit without an
        answer has changed what the fence changes.
        """
        with self._transaction() as connection:
            kept = _stamp(connection, backend) == save.stamp
        if kept:
            self._stamps[backend] = save.stamp
        return kept

    @contextmanager
    def _transaction(self, seconds: float | None = None) -> Iterator[Connection]:
        """Let only the one pass that may write; the tables are there then."""
        with self._store.transaction(seconds) as connection:
            self._fence(connection)
            if self._laid_out != self._store.connections:
                self._lay_out(connection)
                self._fence(connection)  # some databases commit where a table is made
                self._laid_out = self._store.connections
            yield connection

    def _lay_out(self, connection: Connection) -> None:
        found = migrations.lay_out(connection)
        if found is None:
            log.info("a new checkpoint begins", extra={"checkpoint": self.place})
        elif found < VERSION:
            migrations.migrate(connection, found)
            log.info(
                "the checkpoint was brought to this version",
                extra={"checkpoint": self.place, "from_schema": found, "to_schema": VERSION},
            )

    def _note_restored(
        self, connection: Connection, backend: str, identities: Mapping[str, Identity]
    ) -> None:
        self._stamps[backend] = _stamp(connection, backend)
        self._seen[backend] = self._store.connections
        self._identities[backend] = dict(identities)

    def _note_saved(self, backend: str, stamp: str) -> None:
        self.last_commit = time.time()
        self._stamps[backend] = stamp
        self._seen[backend] = self._store.connections
        self._measure()

    def _measure(self) -> None:
        if isinstance(self._store, OwnFile):
            self.size = self._store.size()


def refused(backend: str, known: Mapping[str, Identity], found: Mapping[str, Identity]) -> str:
    """Say that these are other tables, and what to do about it; "": they are the same."""
    for kind, new in found.items():
        old = known.get(kind, new)
        if not new.is_that(old):
            return (
                f"the checkpoint holds counts of {old}, and this is {new}: if the results have "
                f"moved there, say so once with --checkpoint.adopt={backend}; if these are "
                "others, give the backend another name"
            )
    return ""


def open_file(path: Path, adopt: Collection[str] = ()) -> Checkpoint:
    """Open a checkpoint in a file, creating it where there is none."""
    checkpoint = Checkpoint(OwnFile(path), adopt=adopt)
    checkpoint.open()
    return checkpoint


def read(where: Path | URL) -> Saved:
    """Open a checkpoint for reading, beside the process that writes it."""
    if isinstance(where, URL):
        return Saved(Snapshots(where, IN_A_DATABASE))
    return Saved(ownfile.reading(where))


# -- reading -------------------------------------------------------------------------------------

Parts = tuple[Mark, tuple[Gap, ...], Segments, WatchList]


def _read_identities(connection: Connection, backend: str) -> dict[str, Identity]:
    query = select(POSITIONS.c.kind, POSITIONS.c.identity).where(POSITIONS.c.backend == backend)
    return {kind: records.read_identity(text) for kind, text in connection.execute(query)}


def _read_position(
    connection: Connection, backend: str, kind: str, mark: str, label_sets: int
) -> Parts:
    gaps = _read_gaps(connection, backend, kind)
    segments = _read_segments(connection, backend, kind)
    watched = WatchList(label_sets)
    for row_id, watch in _read_watched(connection, backend, kind):
        watched.put(row_id, watch)
    return records.read_mark(mark), gaps, segments, watched


def _stamp(connection: Connection, backend: str) -> str:
    """Return that of the backend's last save, "" where there was none."""
    query = select(SAVES.c.stamp).where(SAVES.c.backend == backend)
    return connection.execute(query).scalar() or ""


def _read_gaps(connection: Connection, backend: str, kind: str) -> tuple[Gap, ...]:
    query = select(GAPS).where(GAPS.c.backend == backend, GAPS.c.kind == kind)
    rows = connection.execute(query.order_by(GAPS.c.lo))
    return tuple(
        Gap(Missing(Span(row.lo, row.hi), int(row.known, 16)), row.since, 0.0, row.horizon)
        for row in rows
    )


def _read_segments(connection: Connection, backend: str, kind: str) -> Segments:
    query = select(SEGMENTS.c.lo, SEGMENTS.c.segment)
    query = query.where(SEGMENTS.c.backend == backend, SEGMENTS.c.kind == kind)
    rows = connection.execute(query.order_by(SEGMENTS.c.lo))
    return tuple(records.read_segment(lo, text) for lo, text in rows)


def _read_watched(connection: Connection, backend: str, kind: str) -> Iterator[tuple[int, Watch]]:
    query = select(WATCHED.c.id, WATCHED.c.watch)
    query = query.where(WATCHED.c.backend == backend, WATCHED.c.kind == kind)
    query = query.order_by(WATCHED.c.id).limit(WATCHED_A_PAGE)
    page = connection.execute(query).all()
    while page:
        for row_id, text in page:
            yield row_id, records.read_watch(text)
        page = connection.execute(query.where(WATCHED.c.id > page[-1].id)).all()


def _read_totals(connection: Connection, backend: str) -> Changes:
    """Read the totals; those of metrics that this version does not have stay where they are."""
    kept, unknown = Changes(), Counter[str]()
    query = select(TOTALS.c.metric, TOTALS.c.labels, TOTALS.c.value)
    for name, labels, text in connection.execute(query.where(TOTALS.c.backend == backend)):
        try:
            key = records.read_key(name, labels)
        except UnknownMetricError:
            unknown[name] += 1
            continue
        value = records.read_value(key[0], text)
        if isinstance(value, Histogram):
            kept.histograms[key] = value
        elif isinstance(value, Total):
            kept.totals[key] = value
        else:
            kept.newest[key] = value
    for name, series in unknown.items():
        log.warning(
            "the checkpoint has a metric that this version does not know; it is kept, not served",
            extra={"backend": backend, "metric": name, "series": series},
        )
    return kept


# -- writing -------------------------------------------------------------------------------------

Write = tuple[Any, list[dict[str, Any]]]
Totals = Changes | Tally


def _replace_stamp(connection: Connection, backend: str, old: str, new: str) -> bool:
    """Put the stamp of a save in the place of the last one's; say whether that was there."""
    of_backend = SAVES.c.backend == backend
    renew = update(SAVES).where(of_backend, SAVES.c.stamp == old).values(stamp=new)
    if connection.execute(renew).rowcount:
        return True
    if old or connection.execute(select(SAVES.c.stamp).where(of_backend)).first() is not None:
        return False
    connection.execute(insert(SAVES).values(backend=backend, stamp=new))
    return True


def _anew(
    backend: str,
    identities: Mapping[str, Identity],
    positions: Mapping[str, Position],
    tally: Tally,
    stamp: str,
) -> Iterator[Write]:
    """Yield the statements that bring the store, whatever is in it, to position and tally."""
    for table in (SAVES, POSITIONS, GAPS, SEGMENTS, WATCHED, TOTALS):
        whose = table.c.backend == bindparam("_backend")
        yield delete(table).where(whose), [{"_backend": backend}]
    yield insert(SAVES), [{"backend": backend, "stamp": stamp}]
    for kind, position in positions.items():
        owner = {"backend": backend, "kind": kind}
        if position.looked:
            yield insert(POSITIONS), [owner | _position(position.mark, identities[kind])]
        yield from _gap_writes(owner, (), position.gaps)
        yield from _segment_writes(owner, (), position.segments)
        yield from _watch_writes(owner, {}, position.watched)
    yield from _total_writes(backend, tally, Changes())


def _writes(backend: str, identities: Mapping[str, Identity], stage: Staged) -> Iterator[Write]:
    """Yield the statements that bring the store from the position to the change."""
    owner = {"backend": backend, "kind": stage.kind}
    before, change = stage.position, stage.change
    if not before.looked:
        yield insert(POSITIONS), [owner | _position(change.mark, identities[stage.kind])]
    elif before.mark != change.mark:
        whose = [POSITIONS.c[key] == bindparam(f"_{key}") for key in owner]
        values = {f"_{key}": value for key, value in owner.items()}
        yield update(POSITIONS).where(*whose), [values | {"mark": records.mark(change.mark)}]
    yield from _gap_writes(owner, before.gaps, change.gaps)
    yield from _segment_writes(owner, before.segments, change.segments)
    yield from _watch_writes(owner, before.watched, change.watch)


def _position(mark: Mark, identity: Identity) -> dict[str, str]:
    return {"mark": records.mark(mark), "identity": records.identity(identity)}


def _gap_writes(
    owner: dict[str, Any], before: tuple[Gap, ...], after: tuple[Gap, ...]
) -> Iterator[Write]:
    old = {(gap.missing, gap.since, gap.horizon) for gap in before}
    new = {(gap.missing, gap.since, gap.horizon) for gap in after}
    yield from _replace(
        GAPS,
        [owner | {"lo": missing.span.lo} for missing, _, _ in old - new],
        [
            owner
            | {"lo": span.lo, "hi": span.hi, "known": f"{known:x}"}
            | {"since": since, "horizon": horizon}
            for (span, known), since, horizon in new - old
        ],
        "lo",
    )


def _segment_writes(owner: dict[str, Any], before: Segments, after: Segments) -> Iterator[Write]:
    old = {segment.span.lo: segment for segment in before}
    new = {segment.span.lo: segment for segment in after}
    yield from _replace(
        SEGMENTS,
        [owner | {"lo": lo} for lo, segment in old.items() if new.get(lo) != segment],
        [
            owner | {"lo": lo, "segment": records.segment(segment)}
            for lo, segment in new.items()
            if old.get(lo) != segment
        ],
        "lo",
    )


def _watch_writes(
    owner: dict[str, Any], before: Mapping[int, Watch], after: Mapping[int, Watch | None]
) -> Iterator[Write]:
    gone, put = [], []
    for row_id, watch in after.items():
        old = before.get(row_id)
        if old is not None and old == watch:
            continue
        if old is not None:
            gone.append(owner | {"id": row_id})
        if watch is not None:
            put.append(owner | {"id": row_id, "watch": records.watch(watch)})
    yield from _replace(WATCHED, gone, put, "id")


def _replace(
    table: Table, gone: list[dict[str, Any]], put: list[dict[str, Any]], key: str
) -> Iterator[Write]:
    if gone:
        keys = ("backend", "kind", key)
        where = [table.c[name] == bindparam(f"_{name}") for name in keys]
        yield delete(table).where(*where), [{f"_{k}": row[k] for k in keys} for row in gone]
    if put:
        yield insert(table), put


def _total_writes(backend: str, changes: Totals, before: Totals) -> Iterator[Write]:
    known, new = [], []
    for key, value, old in _values(changes, before):
        row = {"_backend": backend, "_key": records.key(key), "value": records.value(value)}
        if old:
            known.append(row)
        else:
            new.append(
                {
                    "backend": row["_backend"],
                    "key": row["_key"],
                    "value": row["value"],
                    "metric": key[0].name,
                    "labels": records.labels(key),
                }
            )
    if known:
        where = (TOTALS.c.backend == bindparam("_backend"), TOTALS.c.key == bindparam("_key"))
        yield update(TOTALS).where(*where), known
    if new:
        yield insert(TOTALS), new


def _values(changes: Totals, before: Totals) -> Iterator[tuple[Key, records.Value, bool]]:
    """Yield each changed key, its value, and whether it was there before."""
    for key, total in changes.totals.items():
        yield key, total, key in before.totals
    for key, newest in changes.newest.items():
        yield key, newest, key in before.newest
    for key, histogram in changes.histograms.items():
        yield key, histogram, key in before.histograms
