"""Brings the tables of a checkpoint to this version's: one small step for each version.

A step says what it needs of the tables and records of its time by itself, since today's change. It
runs in one transaction with the new version number, so that it happens wholly or not at all.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from operator import eq
from typing import Any

from sqlalchemy import Connection, column, delete, insert, inspect, select, table, update

from exporter.checkpoint.schema import META, TABLES
from exporter.errors import CheckpointError

PAGE = 2_000  # rows

_version = select(META.c.value).where(META.c.key == "schema")


def version(connection: Connection) -> int | None:
    """Return the version of the tables, None where there are none; refuse a newer one."""
    if not inspect(connection).has_table(META.name):
        return None
    found = connection.execute(_version).scalar()
    if found is not None and int(found) > VERSION:
        raise CheckpointError(
            f"the checkpoint was written by a newer version of the exporter (schema {found}; this "
            f"one knows {VERSION}): run that version, or begin a new checkpoint"
        )
    return None if found is None else int(found)


def lay_out(connection: Connection) -> int | None:
    """Make what is missing; return the version found. Tables of an older one stay as they are."""
    found = version(connection)
    TABLES.create_all(connection)
    if found is None:
        connection.execute(insert(META).values(key="schema", value=str(VERSION)))
    return found


def migrate(connection: Connection, found: int) -> bool:
    """Bring tables of an older version here; return False where another replica just has."""
    known = (META.c.key == "schema", META.c.value == str(found))
    # First, since it locks the row: whoever comes second waits for the first to end.
    if connection.execute(update(META).where(*known).values(value=str(VERSION))).rowcount != 1:
        return False
    for step in STEPS[found - 1 :]:
        step(connection)
    return True


# -- the steps -----------------------------------------------------------------------------------


def name_fields(connection: Connection) -> None:
    """1 -> 2: JSON has names instead of places; the identity has parts."""
    _rewrite(connection, "position", ("backend", "kind"), ("identity", "mark"), _name_position)
    _rewrite(connection, "segment", ("backend", "kind", "lo"), ("segment",), _name_segment)
    _rewrite(connection, "watched", ("backend", "kind", "id"), ("watch",), _name_watch)
    _rewrite(connection, "total", ("backend", "key"), ("metric", "labels", "value"), _name_total)


def _name_position(row: dict[str, Any]) -> None:
    mark = json.loads(row["mark"])
    mark["anchors"] = [{"id": row_id, "key": key} for row_id, key in mark["anchors"]]
    dialect, *place, name = row["identity"].split(" ")
    dialect = "mysql" if dialect == "mariadb" else dialect
    usual = {"postgresql": ":5432", "mysql": ":3306", "mssql": ":1433"}.get(dialect, "")
    place = [word.removesuffix(usual) for word in place]
    row["mark"] = _json(mark)
    row["identity"] = _json({"table": name, "place": " ".join((dialect, *place))})


def _name_segment(row: dict[str, Any]) -> None:
    (_, hi), since, audits, counted = json.loads(row["segment"])
    fields = {"hi": hi, "since": since, "audits": audits, "counted": counted}
    row["segment"] = _json(fields)


def _name_watch(row: dict[str, Any]) -> None:
    names = ("state", "task", "worker", "queue", "first_seen", "until", "started", "counted")
    *values, settled = json.loads(row["watch"])
    fields = {name: value for name, value in zip(names, values, strict=True) if value is not None}
    counted = fields.pop("counted", None)
    if settled and counted == [fields["task"], fields["state"]]:
        fields["settled"] = True
    elif counted is not None:
        labels = {name: fields[name] for name in ("worker", "queue")}
        fields["counted"] = dict(zip(("task", "state"), counted, strict=True)) | labels
        fields |= {} if settled else {"rerun": True}
    row["watch"] = _json(fields)


_LABELS_1 = {
    "celery_task_results_total": ("task", "state", "worker", "queue"),
    "celery_task_failures_total": ("task", "queue", "exception"),
    "celery_task_retries_total": ("task", "worker", "queue"),
    "celery_task_results_revised_total": ("task", "from_state", "to_state"),
    "celery_task_unfinished_vanished_total": ("task", "state"),
    "celery_task_last_finished_timestamp_seconds": ("task", "state"),
    "celery_task_observed_runtime_seconds": ("task",),
    "celery_group_results_total": (),
    "celery_group_last_saved_timestamp_seconds": (),
    "celery_backend_late_rows_total": ("table",),
    "celery_backend_expired_gap_ids_total": ("table",),
    "celery_backend_id_resets_total": ("table",),
    "celery_results_exporter_series_folded_total": (),
}


def _name_total(row: dict[str, Any]) -> None:
    value = json.loads(row["value"])
    if isinstance(value, list):
        value = dict(zip(("value", "created"), value, strict=False))  # shown by now
    elif not isinstance(value, dict):
        value = {"value": value}
    names = _LABELS_1[row["metric"]]
    row["value"] = _json(value)
    row["labels"] = _json(dict(zip(names, json.loads(row["labels"]), strict=True)))


def name_deleted_rows(connection: Connection) -> None:
    """2 -> 3: what is known of deleted rows below the cursor has names that say so."""
    _rewrite(connection, "position", ("backend", "kind"), ("identity", "mark"), _name_deleted)


def _name_deleted(row: dict[str, Any]) -> None:
    names = {"fallen": "deleted_above", "returned": "came_late"}
    mark = json.loads(row["mark"])
    row["mark"] = _json({names.get(name, name): value for name, value in mark.items()})


def divide_the_lease(connection: Connection) -> None:
    """3 -> 4: in a database there is a lease for each backend, where one was for all of them.

    Whoever has that one may serve until it looks again: it counts as a replica that follows all
    backends, and is silent. The old row stays, as another's: its holder must not put it back.
    """
    if not inspect(connection).has_table("celery_results_exporter_lease"):
        return
    old = table("celery_results_exporter_lease", column("name"), column("holder"))
    query = select(old.c.holder).where(old.c.name == "leader").with_for_update()
    holder = connection.execute(query).scalar()
    if not holder:
        return
    connection.execute(update(old).values(holder="a newer version"))
    position, replica, lease = (
        table(f"celery_results_exporter_{name}", *map(column, columns))
        for name, columns in (
            ("position", ("backend",)),
            ("replica", ("name", "beat", "backends")),
            ("backend_lease", ("backend", "replica", "writes")),
        )
    )
    connection.execute(insert(replica).values(name=holder, beat=0, backends=""))
    for backend in connection.execute(select(position.c.backend).distinct()).scalars().all():
        connection.execute(insert(lease).values(backend=backend, replica=holder, writes=0))


STEPS: tuple[Callable[[Connection], None], ...] = (
    name_fields,
    name_deleted_rows,
    divide_the_lease,
)
VERSION = 1 + len(STEPS)


def _rewrite(
    connection: Connection,
    name: str,
    keys: tuple[str, ...],
    texts: tuple[str, ...],
    change: Callable[[dict[str, Any]], None],
) -> None:
    """Put the texts of each row, which are all it has, through `change`, some rows at a time.

    Deleted and inserted: MySQL's drivers update one row a round trip.
    """
    rows = table(f"celery_results_exporter_{name}", *map(column, (*keys, *texts)))
    *owner, last = (rows.c[key] for key in keys)
    for whose in connection.execute(select(*owner).distinct()).all():
        own = [*map(eq, owner, whose)]
        query = select(rows).where(*own).order_by(last).limit(PAGE)
        page = [dict(row) for row in connection.execute(query).mappings()]
        while page:
            first, end = page[0][last.name], page[-1][last.name]
            for row in page:
                change(row)
            connection.execute(delete(rows).where(*own, last.between(first, end)))
            connection.execute(insert(rows), page)
            page = [dict(row) for row in connection.execute(query.where(last > end)).mappings()]


def _json(fields: dict[str, Any]) -> str:
    return json.dumps(fields, separators=(",", ":"))
