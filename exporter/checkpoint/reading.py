"""What is in the tables of a checkpoint, as positions and totals."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator, Mapping

from sqlalchemy import Connection, select

from exporter.checkpoint import records
from exporter.checkpoint.records import UnknownMetricError
from exporter.checkpoint.schema import GAPS, POSITIONS, SEGMENTS, TOTALS, WATCHED, open_groups_of
from exporter.counting.audit import Segments
from exporter.counting.groups import Open
from exporter.counting.position import Position
from exporter.counting.step import Gap, Mark, zone_in
from exporter.counting.tally import Changes
from exporter.counting.watchlist import WatchList
from exporter.counting.zones import Settled
from exporter.sql.identity import Identity

log = logging.getLogger(__name__)

WATCHED_A_PAGE = 5_000
Parts = tuple[Mark, tuple[Gap, ...], Segments, WatchList, dict[int, Open]]  # of a position


def backends(connection: Connection) -> list[str]:
    """Return their names, ascending."""
    query = select(POSITIONS.c.backend).distinct().order_by(POSITIONS.c.backend)
    return list(connection.execute(query).scalars())


def identities(connection: Connection, backend: str) -> dict[str, Identity]:
    """Return by kind which tables a backend's counts are of."""
    query = select(POSITIONS.c.kind, POSITIONS.c.identity).where(POSITIONS.c.backend == backend)
    return {kind: records.read_identity(text) for kind, text in connection.execute(query)}


def zones(connection: Connection, backend: str) -> dict[str, Settled]:
    """Return by kind what is known of the zone of dates, where something is."""
    query = select(POSITIONS.c.kind, POSITIONS.c.mark).where(POSITIONS.c.backend == backend)
    found = {kind: zone_in(records.read_mark(mark)) for kind, mark in connection.execute(query)}
    return {kind: settled for kind, settled in found.items() if settled is not None}


def parts(
    connection: Connection, backend: str, positions: Mapping[str, Position]
) -> dict[str, Parts]:
    """Return by kind what those positions that were saved are restored from."""
    query = select(POSITIONS.c.kind, POSITIONS.c.mark).where(POSITIONS.c.backend == backend)
    return {
        kind: (
            records.read_mark(mark),
            _gaps(connection, backend, kind),
            _segments(connection, backend, kind),
            _watch_list(connection, backend, kind, positions[kind].rules.label_sets),
            _open_groups(connection, backend, kind),
        )
        for kind, mark in connection.execute(query).all()
    }


def _gaps(connection: Connection, backend: str, kind: str) -> tuple[Gap, ...]:
    query = select(GAPS.c.lo, GAPS.c.hi, GAPS.c.known, GAPS.c.since, GAPS.c.horizon)
    query = query.where(GAPS.c.backend == backend, GAPS.c.kind == kind)
    rows = connection.execute(query.order_by(GAPS.c.lo))
    return tuple(records.read_gap(*row) for row in rows)


def _segments(connection: Connection, backend: str, kind: str) -> Segments:
    query = select(SEGMENTS.c.lo, SEGMENTS.c.segment)
    query = query.where(SEGMENTS.c.backend == backend, SEGMENTS.c.kind == kind)
    rows = connection.execute(query.order_by(SEGMENTS.c.lo))
    return tuple(records.read_segment(lo, text) for lo, text in rows)


def _watch_list(connection: Connection, backend: str, kind: str, label_sets: int) -> WatchList:
    found = WatchList(label_sets)
    for row_id, text in _watched(connection, backend, kind):
        found.put(row_id, records.read_watch(text))
    return found


def _open_groups(connection: Connection, backend: str, kind: str) -> dict[int, Open]:
    rows = _watched(connection, backend, open_groups_of(kind))
    return {row_id: records.read_open_group(text) for row_id, text in rows}


def _watched(connection: Connection, backend: str, kind: str) -> Iterator[tuple[int, str]]:
    query = select(WATCHED.c.id, WATCHED.c.watch)
    query = query.where(WATCHED.c.backend == backend, WATCHED.c.kind == kind)
    query = query.order_by(WATCHED.c.id).limit(WATCHED_A_PAGE)
    page = connection.execute(query).all()
    while page:
        yield from ((row_id, text) for row_id, text in page)
        page = connection.execute(query.where(WATCHED.c.id > page[-1].id)).all()


def totals(connection: Connection, backend: str) -> Changes:
    """Return the totals; those of metrics that this version does not have stay where they are."""
    kept, unknown = Changes(), Counter[str]()
    query = select(TOTALS.c.metric, TOTALS.c.labels, TOTALS.c.value)
    for name, labels, text in connection.execute(query.where(TOTALS.c.backend == backend)):
        try:
            key = records.read_key(name, labels)
        except UnknownMetricError:
            unknown[name] += 1
        else:
            kept.values[key] = records.read_value(key[0], text)
    for name, series in unknown.items():
        log.warning(
            "the checkpoint has a metric that this version does not know; it is kept, not served",
            extra={"backend": backend, "metric": name, "series": series},
        )
    return kept
