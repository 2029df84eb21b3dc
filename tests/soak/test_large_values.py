"""Values of a hundred megabytes: the exporter's memory stays as it is, but for one on SQLite.

That reads a value whole before it cuts it, in our process. So there only results are large, as
Celery writes them; docs/security.md says what other columns would cost.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from sqlalchemy import text

from tests.acceptance.footprint import rss
from tests.acceptance.process import one_backend, running
from tests.follow import create_tables
from tests.soak.sizes import LONG

if TYPE_CHECKING:
    from pathlib import Path

    from tests.servers.database import Database

LARGE = (100 if LONG else 10) * 1024**2
ROWS = 3
TYPES = {"postgresql": ("TEXT", "BYTEA"), "mysql": ("LONGTEXT", "LONGBLOB")}
LABELS = ("task_id", "name", "worker", "queue", "traceback")
REPEATED = {
    "postgresql": ("repeat('x', :size)", "convert_to(repeat('x', :size), 'UTF8')"),
    "mysql": ("REPEAT('x', :size)", "REPEAT('x', :size)"),
    "sqlite": ("'x'", "zeroblob(:size)"),
}


@pytest.mark.timeout(900)
@pytest.mark.parametrize("database", ["sqlite", "postgresql", "mariadb-pymysql"], indirect=True)
def test_large_values(database: Database, tmp_path: Path) -> None:
    engine = create_tables(database)
    dialect = engine.dialect.name
    size = LARGE if dialect != "mysql" else min(LARGE, 15 * 1024**2)  # max_allowed_packet
    large, blob = REPEATED[dialect]
    with engine.begin() as connection:
        for column in (*LABELS, "result") if dialect in TYPES else ():
            declared = TYPES[dialect][column == "result"]
            connection.exec_driver_sql(f"ALTER TABLE celery_taskmeta DROP COLUMN {column}")
            connection.exec_driver_sql(
                f"ALTER TABLE celery_taskmeta ADD COLUMN {column} {declared}"
            )
        for number, state in enumerate(("SUCCESS", "FAILURE", "STARTED")[:ROWS], 1):
            names = ", ".join(LABELS)
            # The first is the task id, which is unique where the table is Celery's own.
            own = f"{large} || '{number}'" if dialect == "sqlite" else large
            texts = [own, *[large] * (len(LABELS) - 1)]
            connection.execute(
                text(
                    f"INSERT INTO celery_taskmeta (id, status, retries, {names}, result)"
                    f" VALUES ({number}, '{state}', 0, {', '.join(texts)}, {blob})"
                ),
                {"size": size},
            )
    with running(tmp_path, one_backend(database.reader_url, query_timeout="60s")) as exporter:
        exporter.wait_until(
            lambda: exporter.scrape().sums("celery_task_results_total")[()] == 2, "both", 120
        )
        assert exporter.scrape().sums("celery_task_unfinished")[()] == 1
        exporter.poll_again()
        peak = rss(exporter.pid, peak=True)
    columns = "results" if dialect == "sqlite" else "each of 6 columns"
    print(f"{dialect}: {size / 1024**2:g} MiB in {columns}, at most {peak:.0f} MiB")  # noqa: T201
    assert peak < 150 + (LARGE / 1024**2 if dialect == "sqlite" else 0)
