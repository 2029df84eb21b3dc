"""Looks at one backend more closely than polls do, and asks which statements would help it."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import chain
from typing import Any

from sqlalchemy import Connection, Select, Table, column, func, select
from sqlalchemy.exc import DBAPIError

from exporter.backends.chunks import NEWEST_ROWS
from exporter.backends.database import Database, Session
from exporter.backends.family import Layout, ResultTable
from exporter.backends.findings import Seen, TableSeen
from exporter.backends.schedules.places import Places
from exporter.errors import Reason
from exporter.sql.dialects import names_for_people

# Of an account to be made, for whoever makes it to change.
READER, PASSWORD = "celery_reader", "change-me"


def examine(database: Database, session: Session) -> Seen:
    """Look at all tables; raise what drivers raise."""
    connection = session.connection
    tables = []
    for layout in session.family.layouts:
        found = session.table(layout)
        if found is not None:
            tables.append(_table(database, session, found))
        elif layout in database.refused:
            tables.append(_refused(database, connection, layout))
    return Seen(
        session.family,
        tuple(tables),
        time.time(),
        snapshot=database.dialect.snapshot,
        types_ids=database.dialect.types_ids,
    )


def refused(database: Database) -> Seen:
    """Look at tables that may not be read, the main one among them; raise BackendError."""
    with database.connected() as connection:
        tables = [_refused(database, connection, layout) for layout in database.refused]
    return Seen(database.family, tuple(tables), time.time())


def with_statements(database: Database, seen: Seen) -> Seen:
    """Add schedules, and the statements that would help; raise BackendError.

    Outside any snapshot: where the server does not answer one question, nothing else is lost.
    """
    dialect = database.dialect
    with database.connected() as connection:
        account = dialect.account(connection)
        beat = _beat(database, connection)
        hidden = [place for place in beat if not _may_read_ids(database, connection, place)]
        tables = [_with_statements(database, connection, table, account) for table in seen.tables]
        return replace(
            seen,
            tables=tuple(tables),
            schedules_hidden=tuple(_words(connection, place) for place in hidden),
            schedules_grants=_all(_grants(database, connection, p, (), account) for p in hidden),
            snapshots=() if seen.snapshot else tuple(dialect.snapshots(connection)),
            reader=_reader(database, connection, seen, beat),
        )


def _beat(database: Database, connection: Connection) -> list[Table]:
    """Return beat's tables, where they are looked for beside the results, and are there."""
    settings, dialect = database.settings, database.dialect
    place = None
    if settings.beat_database is None:
        place = Places(dialect, settings.beat_schema).find(connection)
    if place is None:
        return []
    names = [(name, place.schema) for name in place.package.tables]
    there = zip(names, dialect.look_at(connection, names), strict=True)
    return [dialect.place_of(connection, *name) for name, facts in there if facts is not None]


def _may_read_ids(database: Database, connection: Connection, place: Table) -> bool:
    query: Select[*tuple[Any, ...]] = select(column("id")).select_from(place)
    return database.dialect.may_read(connection, query)


def _table(database: Database, session: Session, found: ResultTable) -> TableSeen:
    connection, dialect, layout = session.connection, database.dialect, found.layout
    reader = session.readers[layout.kind]
    unseen = tuple(name for name in layout.optional if name not in found.all_columns)
    hidden = tuple(name for name in layout.optional if name in found.all_columns - {*found.columns})
    surely = not (unseen and dialect.hides_columns and _hides(database, connection, found, unseen))
    hidden, absent = (hidden, unseen) if surely else (hidden + unseen, ())
    return TableSeen(
        layout,
        _words(connection, _place(database, connection, layout)),
        columns=tuple(found.columns),
        all_columns=found.all_columns,
        absent=absent,
        hidden=hidden,
        hidden_surely=surely,
        date_done_index=found.date_done_index if layout.done in found.all_columns else None,
        newest=reader.newest(connection),
        starts=_starts(connection, found),
        health=reader.health(connection),
        writable=dialect.can_write(connection, found.table),
    )


def _with_statements(
    database: Database, connection: Connection, seen: TableSeen, account: str
) -> TableSeen:
    dialect, layout = database.dialect, seen.layout
    place = _place(database, connection, layout)
    grants = _grants(database, connection, place, seen.hidden, account) if seen.hidden else ()
    granted = replace(seen, grants=grants)
    if not (seen.columns and dialect.can_alter(connection, place)):
        return granted
    missing = {n: it for n, it in database.family.extended if n not in seen.all_columns}
    return replace(
        granted,
        alterable=True,
        index=tuple(dialect.index(connection, place, layout.done)),
        extension=tuple(dialect.columns(connection, place, missing)),
        wider_ids=tuple(dialect.wider_ids(connection, place, layout.id, layout.sequence)),
    )


def _refused(database: Database, connection: Connection, layout: Layout) -> TableSeen:
    facts, names = database.refused[layout], (*layout.required, *layout.optional)
    return TableSeen(
        layout,
        _words(connection, _place(database, connection, layout)),
        hidden=tuple(name for name in names if facts is None or name in facts.columns),
        hidden_surely=facts is not None,
    )


def _hides(
    database: Database, connection: Connection, found: ResultTable, unseen: Sequence[str]
) -> bool:
    """Whether the server says of a column that it may not be read, and not that there is none."""
    query: Select[*tuple[Any, ...]] = select(column(unseen[0])).select_from(found.table)
    try:
        return not database.dialect.may_read(connection, query)
    except DBAPIError as error:
        if database.dialect.reason(error) is not Reason.SCHEMA:
            raise
        return False


def _starts(connection: Connection, found: ResultTable) -> int | None:
    started = found.column(found.layout.started)
    if started is None:
        return None
    newest = select(started.label("started")).order_by(found.id.desc()).limit(NEWEST_ROWS)
    return connection.execute(select(func.count(newest.subquery().c.started))).scalar_one()


def _reader(
    database: Database, connection: Connection, seen: Seen, beat: Sequence[Table]
) -> tuple[str, ...]:
    """Return what makes an account that may read what is read, and no more."""
    account, made = database.dialect.reader(connection, READER, PASSWORD)
    wanted = [(_place(database, connection, t.layout), t.columns) for t in seen.read]
    wanted += [(place, ()) for place in beat]
    grants = (_grants(database, connection, *each, account) for each in wanted)
    return _all([made, *grants])


def _all(of_each: Iterable[Iterable[str]]) -> tuple[str, ...]:
    """Return statements, none of them twice."""
    return tuple(dict.fromkeys(chain.from_iterable(of_each)))


def _grants(
    database: Database, connection: Connection, place: Table, names: Sequence[str], account: str
) -> tuple[str, ...]:
    if not account:
        return ()
    return tuple(database.dialect.grants(connection, place, names, account))


def _place(database: Database, connection: Connection, layout: Layout) -> Table:
    return database.dialect.place_of(connection, *database.table_name(layout))


def _words(connection: Connection, place: Table) -> str:
    return names_for_people(connection).format_table(place)
