"""Positions and totals, kept over crashes and restarts: both change in one transaction (R7).

Written through SQLAlchemy, so that a file of our own (SQLite) and a database of the operator's are
one and the same code. Only what changed is written. When something is due is not kept: after a
restart everything is.
"""

from __future__ import annotations

import fcntl
import json
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import IO, Any
from uuid import uuid4

from sqlalchemy import (
    URL,
    BigInteger,
    Column,
    Connection,
    Double,
    MetaData,
    String,
    Table,
    Text,
    Unicode,
    bindparam,
    delete,
    false,
    insert,
    literal,
    select,
    update,
)
from sqlalchemy.dialects.mysql import VARCHAR

from exporter.audit import Segment, Segments
from exporter.errors import CheckpointError
from exporter.lifecycle import Watch
from exporter.metrics import CATALOGUE, FAILURES
from exporter.position import Change, Gap, Mark, Position
from exporter.spans import Missing, Span
from exporter.store import Fence, Snapshots, Store
from exporter.tally import Changes, Histogram, Key, Tally, Total

SCHEMA_VERSION = 1
WATCHED_A_PAGE = 50_000
IN_A_DATABASE = "checkpoint database"  # its place, for people: no URL, no host

# Compared byte by byte: by default MySQL and SQL Server would take "Shop" for "shop".
_Name = (
    Unicode(190)
    .with_variant(VARCHAR(190, charset="utf8mb4", collation="utf8mb4_bin"), "mysql", "mariadb")
    .with_variant(Unicode(190, collation="Latin1_General_100_BIN2"), "mssql")
)

_metadata = MetaData()


def _table(name: str, *columns: Column[Any]) -> Table:
    return Table(f"celery_results_exporter_{name}", _metadata, *columns, mysql_engine="InnoDB")


def _owner() -> tuple[Column[Any], Column[Any]]:
    """Make the columns that say whose row this is: a backend's, of its task or group table."""
    return (
        Column("backend", _Name, primary_key=True),
        Column("kind", String(16), primary_key=True),
    )


_meta = _table(
    "meta", Column("key", String(64), primary_key=True), Column("value", Text, nullable=False)
)
_saves = _table(
    "save",
    Column("backend", _Name, primary_key=True),
    Column("stamp", String(32), nullable=False),  # of the last one
)
_positions = _table(
    "position",
    *_owner(),
    Column("identity", Text, nullable=False),  # which table of which database this is
    Column("mark", Text, nullable=False),  # JSON, see `exporter.position.Mark`
)
_gaps = _table(
    "gap",
    *_owner(),
    Column("lo", BigInteger, primary_key=True, autoincrement=False),
    Column("hi", BigInteger, nullable=False),
    Column("known", Text, nullable=False),  # hexadecimal, see `exporter.spans.Missing`
    Column("since", Double, nullable=False),
    Column("horizon", BigInteger),
)
_segments = _table(
    "segment",
    *_owner(),
    Column("lo", BigInteger, primary_key=True, autoincrement=False),
    Column("segment", Text, nullable=False),  # JSON, an `exporter.audit.Segment`
)
_watched = _table(
    "watched",
    *_owner(),
    Column("id", BigInteger, primary_key=True, autoincrement=False),
    Column("watch", Text, nullable=False),  # JSON, a `Watch` without `due`
)
_totals = _table(
    "total",
    Column("backend", _Name, primary_key=True),
    Column("key", String(64), primary_key=True),  # hash of metric and labels: no collation merges
    Column("metric", String(190), nullable=False),
    Column("labels", Text, nullable=False),  # JSON
    Column("value", Text, nullable=False),  # JSON
)


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


def _no_fence(connection: Connection) -> None:
    """Let everybody pass: what keeps others out is the lock on the file."""
    del connection


class Checkpoint:
    """One store for all backends. Safe for several threads; one process at a time."""

    def __init__(self, store: Store, fence: Fence = _no_fence, path: Path | None = None) -> None:
        self.path = path
        self.place = store.place  # for people
        self.patience = store.patience  # seconds that anything here takes at most
        self.last_commit: float | None = None  # Unix time, seconds
        self._store = store
        self._fence = fence
        self._file_lock: IO[bytes] | None = None

    def open(self) -> None:
        """Create or migrate the store; raise CheckpointError where it cannot be used."""
        try:
            if self.path is not None:
                self._file_lock = _lock(self.path)
            with self._store.transaction() as connection:
                _create(connection)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Release it."""
        self._store.retire()
        if self._file_lock is not None:
            self._file_lock.close()

    def size(self) -> int | None:
        """Return the bytes it takes on disk; None where it is not a file of ours."""
        if self.path is None:
            return None
        parts = [self.path, self.path.with_name(f"{self.path.name}-wal")]
        return sum(part.stat().st_size for part in parts if part.exists())

    def restore(
        self,
        backend: str,
        identity: Mapping[str, str],
        positions: Mapping[str, Position],
        tally: Tally,
    ) -> bool:
        """Fill positions and tally with what was saved, if anything was; say whether it was.

        `identity` says, for each kind of table, which one it is: another one is refused.
        """
        saved: list[tuple[str, Mark, tuple[Gap, ...], Segments, dict[int, Watch]]] = []
        with self._store.transaction() as connection:
            query = select(_positions).where(_positions.c.backend == backend)
            for row in connection.execute(query).all():
                if row.identity != identity[row.kind]:
                    raise CheckpointError(
                        f"backend {backend!r}: the checkpoint holds counts of {row.identity}, and "
                        f"this is {identity[row.kind]}: give the backend another name, or delete "
                        "the checkpoint to count from the start again"
                    )
                gaps = _read_gaps(connection, backend, row.kind)
                segments = _read_segments(connection, backend, row.kind)
                watched = _read_watched(connection, backend, row.kind)
                saved.append((row.kind, json.loads(row.mark), gaps, segments, watched))
            _read_totals(connection, backend, tally)
        for kind, mark, gaps, segments, watched in saved:
            positions[kind].restore(mark, gaps, segments, watched)
        return bool(saved)

    def save(self, backend: str, identity: Mapping[str, str], save: Save, tally: Tally) -> None:
        """Write what is staged, in one transaction; nothing at all where nothing changed.

        After an error ask `holds` whether it was kept: the answer to a commit may be lost.
        """
        writes = [write for stage in save.staged for write in _writes(backend, identity, stage)]
        writes += _total_writes(backend, save.changes, tally)
        if not writes:
            return
        with self._store.transaction() as connection:
            self._fence(connection)
            _put_stamp(connection, backend, save.stamp)
            for statement, rows in writes:
                connection.execute(statement, rows)
        self.last_commit = time.time()

    def holds(self, backend: str, save: Save) -> bool:
        """Say whether this save, the last one tried, was kept.

        Where its commit is still under way on a server, the fence waits for it: a commit without an
        answer has changed what the fence changes.
        """
        with self._store.transaction() as connection:
            self._fence(connection)
            query = select(_saves.c.stamp).where(_saves.c.backend == backend)
            return bool(connection.execute(query).scalar() == save.stamp)

    def backends(self) -> list[str]:
        """Name the backends that are in it."""
        with self._store.transaction() as connection:
            _check_version(connection)
            query = select(_positions.c.backend).distinct().order_by(_positions.c.backend)
            return list(connection.execute(query).scalars())

    def probe(self) -> str:
        """Try every right that is needed, changing nothing; name the server."""
        with self._store.transaction() as connection:
            _create(connection)
            for table in _metadata.sorted_tables:
                column = next(iter(table.c))
                nothing = select(table).where(false())
                connection.execute(insert(table).from_select(table.c.keys(), nothing))
                connection.execute(update(table).where(false()).values({column: literal("")}))
                connection.execute(delete(table).where(false()))
        return f"{self._store.server}, {self._store.driver}"


def open_file(path: Path) -> Checkpoint:
    """Open a checkpoint in a file, creating it where there is none."""
    checkpoint = Checkpoint(Store(_file_url(path), _file_place(path)), path=path)
    checkpoint.open()
    return checkpoint


def read(where: Path | URL) -> Checkpoint:
    """Open a checkpoint for reading, beside the process that writes it."""
    if isinstance(where, URL):
        return Checkpoint(Snapshots(where, IN_A_DATABASE))
    if not where.exists():
        raise CheckpointError(f"{_file_place(where)}: does not exist")
    return Checkpoint(Snapshots(_file_url(where), _file_place(where)), path=where)


def _file_url(path: Path) -> URL:
    return URL.create("sqlite", database=str(path.absolute()))


def _file_place(path: Path) -> str:
    return f"checkpoint {path}"


def _lock(path: Path) -> IO[bytes]:
    """Keep other processes out. The lock goes with the process, however it ends."""
    try:
        file = path.with_name(f"{path.name}.lock").open("wb")
    except OSError as error:
        raise CheckpointError(f"{_file_place(path)}: {error.strerror}") from None
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        raise CheckpointError(
            f"{_file_place(path)}: another process uses it; stop that one, or give this one its own"
        ) from None
    return file


_version = select(_meta.c.value).where(_meta.c.key == "schema")


def _create(connection: Connection) -> None:
    _metadata.create_all(connection)
    _check_version(connection)
    if connection.execute(_version).first() is None:
        connection.execute(insert(_meta).values(key="schema", value=str(SCHEMA_VERSION)))


def _check_version(connection: Connection) -> None:
    found = connection.execute(_version).scalar()
    if found is not None and int(found) > SCHEMA_VERSION:
        raise CheckpointError(
            f"the checkpoint was written by a newer version (schema {found}, this one knows "
            f"{SCHEMA_VERSION}): run that version, or begin a new checkpoint"
        )


# -- reading -------------------------------------------------------------------------------------


def _read_gaps(connection: Connection, backend: str, kind: str) -> tuple[Gap, ...]:
    query = select(_gaps).where(_gaps.c.backend == backend, _gaps.c.kind == kind)
    rows = connection.execute(query.order_by(_gaps.c.lo))
    return tuple(
        Gap(Missing(Span(row.lo, row.hi), int(row.known, 16)), row.since, 0.0, row.horizon)
        for row in rows
    )


def _read_segments(connection: Connection, backend: str, kind: str) -> Segments:
    query = select(_segments.c.segment)
    query = query.where(_segments.c.backend == backend, _segments.c.kind == kind)
    texts = connection.execute(query.order_by(_segments.c.lo)).scalars()
    found = [json.loads(text) for text in texts]
    return tuple(Segment(Span(*span), *rest) for span, *rest in found)


def _read_watched(connection: Connection, backend: str, kind: str) -> dict[int, Watch]:
    query = select(_watched.c.id, _watched.c.watch)
    query = query.where(_watched.c.backend == backend, _watched.c.kind == kind)
    query = query.order_by(_watched.c.id).limit(WATCHED_A_PAGE)
    page = connection.execute(query).all()
    watched: dict[int, Watch] = {}
    while page:
        watched.update((row_id, _watch(json.loads(text))) for row_id, text in page)
        page = connection.execute(query.where(_watched.c.id > page[-1].id)).all()
    return watched


def _watch(values: list[Any]) -> Watch:
    state, task, worker, queue, first_seen, until, started, counted, settled = values
    counted = None if counted is None else (counted[0], counted[1])
    return Watch(state, task, worker, queue, first_seen, 0.0, until, started, counted, settled)


def _read_totals(connection: Connection, backend: str, tally: Tally) -> None:
    kept = Changes()
    query = select(_totals.c.metric, _totals.c.labels, _totals.c.value)
    for metric, labels, text in connection.execute(query.where(_totals.c.backend == backend)):
        key = (CATALOGUE[metric], tuple(json.loads(labels)))
        value = json.loads(text)
        if isinstance(value, dict):
            kept.histograms[key] = Histogram(
                tuple(value["bounds"]), tuple(value["counts"]), value["sum"]
            )
        elif isinstance(value, list):
            kept.totals[key] = Total(*value)
            if key[0] is FAILURES:
                kept.exceptions.add(key[1][-1])
        else:
            kept.newest[key] = value
    tally.apply(kept)


# -- writing -------------------------------------------------------------------------------------

Write = tuple[Any, list[dict[str, Any]]]


def _put_stamp(connection: Connection, backend: str, stamp: str) -> None:
    renewed = update(_saves).where(_saves.c.backend == backend).values(stamp=stamp)
    if not connection.execute(renewed).rowcount:
        connection.execute(insert(_saves).values(backend=backend, stamp=stamp))


def _writes(backend: str, identity: Mapping[str, str], stage: Staged) -> Iterator[Write]:
    """Yield the statements that bring the store from the position to the change."""
    owner = {"backend": backend, "kind": stage.kind}
    before, change = stage.position, stage.change
    if before.mark != change.mark or not before.looked:
        values = {"mark": json.dumps(change.mark), "identity": identity[stage.kind]}
        yield from _put(_positions, owner, ("backend", "kind"), values, known=before.looked)
    yield from _gap_writes(owner, before.gaps, change.gaps)
    yield from _segment_writes(owner, before.segments, change.segments)
    yield from _watch_writes(owner, before.watched, change.watch)


def _put(
    table: Table,
    owner: dict[str, Any],
    keys: tuple[str, ...],
    values: dict[str, Any],
    *,
    known: bool,
) -> Iterator[Write]:
    if known:
        where = [table.c[key] == bindparam(f"_{key}") for key in keys]
        yield update(table).where(*where), [{f"_{k}": owner[k] for k in keys} | values]
    else:
        yield insert(table), [owner | values]


def _gap_writes(
    owner: dict[str, Any], before: tuple[Gap, ...], after: tuple[Gap, ...]
) -> Iterator[Write]:
    old = {(gap.missing, gap.since, gap.horizon) for gap in before}
    new = {(gap.missing, gap.since, gap.horizon) for gap in after}
    yield from _replace(
        _gaps,
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
        _segments,
        [owner | {"lo": lo} for lo, segment in old.items() if new.get(lo) != segment],
        [
            owner | {"lo": lo, "segment": json.dumps(segment)}
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
        kept = None if watch is None else _without_due(watch)
        if old is not None and _without_due(old) != kept:
            gone.append(owner | {"id": row_id})
        if kept is not None and (old is None or _without_due(old) != kept):
            put.append(owner | {"id": row_id, "watch": json.dumps(kept)})
    yield from _replace(_watched, gone, put, "id")


def _without_due(watch: Watch) -> list[Any]:
    values = list(watch)
    del values[Watch._fields.index("due")]
    return values


def _replace(
    table: Table, gone: list[dict[str, Any]], put: list[dict[str, Any]], key: str
) -> Iterator[Write]:
    if gone:
        keys = ("backend", "kind", key)
        where = [table.c[name] == bindparam(f"_{name}") for name in keys]
        yield delete(table).where(*where), [{f"_{k}": row[k] for k in keys} for row in gone]
    if put:
        yield insert(table), put


def _total_writes(backend: str, changes: Changes, tally: Tally) -> Iterator[Write]:
    known, new = [], []
    for key, value, old in _values(changes, tally):
        row = {"_backend": backend, "_key": _hash(key), "value": json.dumps(value)}
        if old:
            known.append(row)
        else:
            metric, labels = key
            new.append(
                {
                    "backend": row["_backend"],
                    "key": row["_key"],
                    "value": row["value"],
                    "metric": metric.name,
                    "labels": json.dumps(labels),
                }
            )
    if known:
        where = (_totals.c.backend == bindparam("_backend"), _totals.c.key == bindparam("_key"))
        yield update(_totals).where(*where), known
    if new:
        yield insert(_totals), new


def _values(changes: Changes, tally: Tally) -> Iterator[tuple[Key, Any, bool]]:
    """Yield each changed key, its value as JSON takes it, and whether it was there before."""
    for key, total in changes.totals.items():
        yield key, list(total), key in tally.totals
    for key, newest in changes.newest.items():
        yield key, newest, key in tally.newest
    for key, histogram in changes.histograms.items():
        yield key, histogram._asdict(), key in tally.histograms


def _hash(key: Key) -> str:
    metric, labels = key
    return sha256(json.dumps([metric.name, *labels]).encode()).hexdigest()
