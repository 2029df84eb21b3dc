"""The first failure ever raises an alert, and history raises none: a real Prometheus decides."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from sqlalchemy import text

from tests.acceptance.process import running
from tests.acceptance.test_prometheus import SCRAPE_EVERY_SECOND
from tests.follow import create_tables, insert
from tests.servers.process import wait_until
from tests.soak.load import backend, config
from tests.soak.sizes import OLD_ROWS

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.servers.postgresql import PostgreSQL
    from tests.servers.prometheus import Prometheus

FAILED = 'increase(celery_task_results_total{state="FAILURE",task="%s"}[1m]) > 0'
RESULTS = "celery_task_results_total"
#: Half of it failed; of four tasks, one that never does.
HISTORY = """
INSERT INTO celery_taskmeta (id, task_id, status, date_done, name, worker, queue, retries)
SELECT nextval('task_id_sequence'), 'old-' || i,
    CASE WHEN i % 4 > 0 AND i % 2 = 1 THEN 'FAILURE' ELSE 'SUCCESS' END,
    now() - interval '1 hour', 'old.task' || i % 4, 'w1@host', 'celery', 0
FROM generate_series(1, :rows) AS i
"""


def test_first_failure_is_an_increase(
    postgresql: PostgreSQL, prometheus: Callable[[str], Prometheus], tmp_path: Path
) -> None:
    """Of a task that is known, whose history is no increase, and of one never seen."""
    with postgresql.fresh_database() as database:
        engine = create_tables(database)
        with engine.begin() as connection:
            connection.execute(text(HISTORY), {"rows": OLD_ROWS})
        settings = config(tmp_path, backend("shop", database.reader_url, first_zero="5s"))
        with running(tmp_path, settings) as exporter:
            watching = prometheus(SCRAPE_EVERY_SECOND % exporter.address)
            wait_until(
                lambda: sum(watching.query(f"sum({RESULTS})").values()) == OLD_ROWS, "all history"
            )
            time.sleep(3.0)  # a few more scrapes, so that an increase would show
            history = watching.query(f"increase({RESULTS}[1m]) > 0")
            assert history == {}
            assert watching.query(f"count(increase({RESULTS}[1m]))") != {}

            for task in ("old.task0", "new.task"):  # neither has ever failed
                assert watching.query(FAILED % task) == {}
                with engine.begin() as connection:
                    insert(connection, "FAILURE", name=task)
                started = time.monotonic()
                wait_until(lambda: watching.query(FAILED % task), f"an increase of {task}")  # noqa: B023
                seconds = time.monotonic() - started
                print(f"\n{task}: an increase after {seconds:.1f} s")  # noqa: T201 - shown with -s
            assert len(watching.query(f"increase({RESULTS}[1m]) > 0")) == 2
