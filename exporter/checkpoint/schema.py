"""The tables of a checkpoint. `migrations.py` brings older ones here."""

from __future__ import annotations

from typing import Any

from sqlalchemy import BigInteger, Column, Double, MetaData, String, Table, Text

from exporter.sql.dialects import ExactText

PREFIX = "celery_results_exporter_"

_Name = ExactText(190)

TABLES = MetaData()


def _table(name: str, *columns: Column[Any]) -> Table:
    return Table(f"{PREFIX}{name}", TABLES, *columns)


def _owner() -> tuple[Column[Any], Column[Any]]:
    """Make the columns that say whose row this is: a backend's, of its task or group table."""
    return (
        Column("backend", _Name, primary_key=True),
        Column("kind", String(16), primary_key=True),
    )


META = _table(
    "meta", Column("key", String(64), primary_key=True), Column("value", Text, nullable=False)
)
SAVES = _table(
    "save",
    Column("backend", _Name, primary_key=True),
    Column("stamp", String(32), nullable=False),  # of the last one
)
# Where nothing else is said, text is JSON: see `exporter.checkpoint.records`.
POSITIONS = _table(
    "position",
    *_owner(),
    Column("identity", Text, nullable=False),
    Column("mark", Text, nullable=False),
)
GAPS = _table(
    "gap",
    *_owner(),
    Column("lo", BigInteger, primary_key=True, autoincrement=False),
    Column("hi", BigInteger, nullable=False),
    Column("known", Text, nullable=False),  # hexadecimal, see `exporter.counting.spans.Missing`
    Column("since", Double, nullable=False),
    Column("horizon", BigInteger),
)
SEGMENTS = _table(
    "segment",
    *_owner(),
    Column("lo", BigInteger, primary_key=True, autoincrement=False),
    Column("segment", Text, nullable=False),
)
WATCHED = _table(
    "watched",
    *_owner(),
    Column("id", BigInteger, primary_key=True, autoincrement=False),
    Column("watch", Text, nullable=False),
)
TOTALS = _table(
    "total",
    Column("backend", _Name, primary_key=True),
    Column("key", String(64), primary_key=True),  # hash of metric and labels
    Column("metric", String(190), nullable=False),
    Column("labels", Text, nullable=False),
    Column("value", Text, nullable=False),
)
# Only where replicas share the checkpoint: see `exporter.checkpoint.lease`.
REPLICAS = _table(
    "replica",
    Column("name", _Name, primary_key=True),
    Column("beat", BigInteger, nullable=False),
    Column("backends", String(64), nullable=False),  # hash of the names of those it is to follow
)
LEASES = _table(
    "backend_lease",
    Column("backend", _Name, primary_key=True),
    Column("replica", _Name, nullable=False),  # that follows it; "": none
    Column("writes", BigInteger, nullable=False),
)


def open_groups_of(kind: str) -> str:
    """Return the kind of watched rows that open groups are: in a table of their own, so to say."""
    return f"open {kind}"
