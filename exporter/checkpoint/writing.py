"""The statements that bring the tables of a checkpoint to what is in memory. Pure: none is run.

Only what changed is written. When something is due is not kept: after a restart everything is.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

from sqlalchemy import Executable, Table, bindparam, delete, insert, update

from exporter.checkpoint import records
from exporter.checkpoint.schema import (
    GAPS,
    POSITIONS,
    SAVES,
    SEGMENTS,
    TOTALS,
    WATCHED,
    open_groups_of,
)
from exporter.counting.audit import Segments
from exporter.counting.groups import Followed, Open
from exporter.counting.lifecycle import Watch
from exporter.counting.position import Position
from exporter.counting.step import Change, Gap, Mark
from exporter.counting.tally import Changes, Tally
from exporter.sql.identity import Identity

Row = dict[str, Any]
Write = tuple[Executable, list[Row]]
Totals = Changes | Tally


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


def changed(
    backend: str, identities: Mapping[str, Identity], save: Save, tally: Tally
) -> Iterator[Write]:
    """Yield what brings the tables from position and tally to the save, but for its stamp."""
    for stage in save.staged:
        yield from _changed_position(backend, identities, stage)
    yield from _totals(backend, save.changes, tally)


def whole(
    backend: str,
    identities: Mapping[str, Identity],
    positions: Mapping[str, Position],
    tally: Tally,
    stamp: str,
) -> Iterator[Write]:
    """Yield what brings the tables, whatever is in them, to positions, tally and stamp."""
    for table in (SAVES, POSITIONS, GAPS, SEGMENTS, WATCHED, TOTALS):
        whose = table.c.backend == bindparam("_backend")
        yield delete(table).where(whose), [{"_backend": backend}]
    yield insert(SAVES), [{"backend": backend, "stamp": stamp}]
    for kind, position in positions.items():
        owner = {"backend": backend, "kind": kind}
        if position.looked:
            yield insert(POSITIONS), [owner | _position(position.mark, identities[kind])]
        yield from _gaps(owner, (), position.gaps)
        yield from _segments(owner, (), position.segments)
        yield from _watched(owner, {}, position.watched)
        yield from _opened(owner, position.open_groups.known)
    yield from _totals(backend, tally, Changes())


def renamed(backend: str, identities: Mapping[str, Identity]) -> Iterator[Write]:
    """Yield what makes a backend's positions those of these tables."""
    for kind, identity in identities.items():
        owner = {"backend": backend, "kind": kind}
        yield _update_position(owner, {"identity": records.identity(identity)})


# -- positions -----------------------------------------------------------------------------------


def _changed_position(
    backend: str, identities: Mapping[str, Identity], stage: Staged
) -> Iterator[Write]:
    owner = {"backend": backend, "kind": stage.kind}
    before, change = stage.position, stage.change
    if not before.looked:
        yield insert(POSITIONS), [owner | _position(change.mark, identities[stage.kind])]
    elif before.mark != change.mark:
        yield _update_position(owner, {"mark": records.mark(change.mark)})
    yield from _gaps(owner, before.gaps, change.gaps)
    yield from _segments(owner, before.segments, change.segments)
    yield from _watched(owner, before.watched, change.watch)
    if change.groups is not None:
        yield from _open_groups(owner, before.open_groups.known, change.groups)


def _position(mark: Mark, identity: Identity) -> Row:
    return {"mark": records.mark(mark), "identity": records.identity(identity)}


def _update_position(owner: Row, values: Row) -> Write:
    whose = [POSITIONS.c[key] == bindparam(f"_{key}") for key in owner]
    return update(POSITIONS).where(*whose), [{f"_{k}": v for k, v in owner.items()} | values]


def _gaps(owner: Row, before: tuple[Gap, ...], after: tuple[Gap, ...]) -> Iterator[Write]:
    # Equal where what is kept of them is: when they are due is not.
    old, new = ({Gap(g.missing, g.since, 0.0, g.horizon) for g in gaps} for gaps in (before, after))
    gone = [owner | {"lo": gap.span.lo} for gap in old - new]
    yield from _replace(GAPS, gone, [owner | records.gap(gap) for gap in new - old], "lo")


def _segments(owner: Row, before: Segments, after: Segments) -> Iterator[Write]:
    old = {segment.span.lo: segment for segment in before}
    new = {segment.span.lo: segment for segment in after}
    gone = [owner | {"lo": lo} for lo, segment in old.items() if new.get(lo) != segment]
    put = [
        owner | {"lo": lo, "segment": records.segment(segment)}
        for lo, segment in new.items()
        if old.get(lo) != segment
    ]
    yield from _replace(SEGMENTS, gone, put, "lo")


def _watched(
    owner: Row, before: Mapping[int, Watch], after: Mapping[int, Watch | None]
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


def _open_groups(owner: Row, before: Mapping[int, Open], change: Followed) -> Iterator[Write]:
    gone = [_of_group(owner, row_id) for row_id in change.closed if row_id in before]
    yield from _replace(WATCHED, gone, [], "id")
    new = {row_id: of for row_id, (of, _) in change.opened.items() if row_id not in before}
    yield from _opened(owner, new)


def _opened(owner: Row, groups: Mapping[int, Open]) -> Iterator[Write]:
    put = [
        _of_group(owner, row_id) | {"watch": records.open_group(of)}
        for row_id, of in groups.items()
    ]
    yield from _replace(WATCHED, [], put, "id")


def _of_group(owner: Row, row_id: int) -> Row:
    return owner | {"kind": open_groups_of(owner["kind"]), "id": row_id}


def _replace(table: Table, gone: list[Row], put: list[Row], key: str) -> Iterator[Write]:
    if gone:
        keys = ("backend", "kind", key)
        where = [table.c[name] == bindparam(f"_{name}") for name in keys]
        yield delete(table).where(*where), [{f"_{k}": row[k] for k in keys} for row in gone]
    if put:
        yield insert(table), put


# -- totals --------------------------------------------------------------------------------------


def _totals(backend: str, changes: Totals, before: Totals) -> Iterator[Write]:
    known, new = [], []
    for key, value in changes.values.items():
        row = {"_backend": backend, "_key": records.key(key), "value": records.value(value)}
        if key in before.values:
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
