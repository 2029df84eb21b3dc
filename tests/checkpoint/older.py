"""Checkpoints as earlier versions wrote them, small and large ones."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

from sqlalchemy import insert, inspect, make_url, select

from exporter.checkpoint.schema import TABLES
from exporter.checkpoint.store import Store

if TYPE_CHECKING:
    from sqlalchemy import Engine

#: Written with each format but today's, with every kind of content. `schema-1` is that of 0.1.0.
WRITTEN = Path(__file__).parent / "checkpoints"
_MORE = """
INSERT INTO celery_results_exporter_watched
WITH RECURSIVE n(i) AS (SELECT 1000 UNION ALL SELECT i + 1 FROM n WHERE i < 999 + {rows})
SELECT backend, kind, i, watch FROM n, celery_results_exporter_watched
WHERE backend = 'celery' AND kind = 'task' AND id = 14
"""


def written(path: Path, schema: int, more_watched: int = 0) -> Path:
    """Make the file that this version wrote, with so many rows more that are watched."""
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.executescript((WRITTEN / f"schema-{schema}.sql").read_text())
        if more_watched:
            connection.execute(_MORE.format(rows=more_watched))
    return path


def copy(path: Path, engine: Engine) -> None:
    """Put the file's content into a database; the columns of schema 1 are those of today."""
    source = Store(make_url(f"sqlite:///{path}"), "source")
    TABLES.create_all(engine)
    with source.transaction() as old, engine.begin() as new:
        there = inspect(old).get_table_names()
        for table in TABLES.sorted_tables:
            if table.name in there:
                rows = [dict(row) for row in old.execute(select(table)).mappings()]
                new.execute(insert(table), rows)
    source.retire()
