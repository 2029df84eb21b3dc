"""Rows go, ids begin again, tables are made anew: what was there counts, and counts once."""

from __future__ import annotations

import contextlib
import time
from collections import Counter
from functools import partial
from typing import TYPE_CHECKING

import pytest
from celery.backends.database.session import ResultModelBase
from sqlalchemy import text

from tests.acceptance.process import running
from tests.acceptance.test_kill import truth
from tests.acceptance.watchdog import Watchdog
from tests.follow import create_tables
from tests.soak.deletion import Deleter
from tests.soak.load import assert_counts, backend, config, counted, load
from tests.soak.sizes import DELETION_SECONDS, ROUNDS, kinds

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.acceptance.process import Exporter
    from tests.servers.database import Database
    from tests.soak.load import Labels

pytestmark = pytest.mark.timeout(3600)
BEGAN_AGAIN = "ids began again"
RESTART = {
    "sqlite": "DELETE FROM sqlite_sequence WHERE name = 'celery_taskmeta'",
    "postgresql": "ALTER SEQUENCE task_id_sequence RESTART",
    "mysql": "ALTER SEQUENCE task_id_sequence RESTART",
}


def resets(exporter: Exporter) -> tuple[float, int]:
    """Return how often ids of tasks began again: as the metric has it, and as the log has it."""
    counted = exporter.scrape().value("celery_backend_id_resets_total", table="task") or 0.0
    lines = [line for line in exporter.logs() if BEGAN_AGAIN in line]
    return counted, sum("table=celery_taskmeta" in line for line in lines)


def truncate(database: Database, *, restart: bool = True) -> None:
    """Empty the table, and let ids begin at 1 again."""
    kind = database.owner.get_backend_name()
    empty = "DELETE FROM" if kind == "sqlite" else "TRUNCATE TABLE"
    with database.engine().begin() as connection:
        connection.execute(text(f"{empty} celery_taskmeta"))
        if restart:
            connection.execute(text(RESTART[kind]))


@kinds("postgresql", "mariadb-pymysql", "sqlite")
def test_cleanup_and_forget_during_load(database: Database, tmp_path: Path) -> None:
    create_tables(database)
    settings = config(tmp_path, backend("shop", database.reader_url))
    with (
        Watchdog() as watchdog,
        running(tmp_path, settings) as exporter,
        load(database.celery_url, tmp_path, 2, pause=0.01) as writing,
    ):
        watchdog.exporter = exporter
        deleter = Deleter(database, writing, watchdog, "shop")
        end = time.monotonic() + DELETION_SECONDS
        while time.monotonic() < end:
            deleter.step()
            time.sleep(0.5)
        stored = writing.stop()
        assert_counts(exporter, {"shop": stored}, groups={"shop": writing.groups()})
        left = truth(database).total()
        print(  # noqa: T201 - the figures, shown with -s
            f"\n{database.owner.get_backend_name()}: {stored.total()} results, {left} are left, "
            f"{deleter.forgotten} were forgotten, {deleter.cleanups} cleanups"
        )
        assert deleter.forgotten > 0
        assert left + deleter.forgotten < stored.total()  # so cleanup deleted some
        assert resets(exporter) == (0, 0)
    assert watchdog.went_back == []


@pytest.mark.long
@kinds("mariadb-pymysql", "postgresql", "sqlite")
def test_newest_rows_are_forgotten(database: Database, tmp_path: Path) -> None:
    """A tail that was deleted is no reset: ids go on above it."""
    create_tables(database)
    settings = config(tmp_path, backend("shop", database.reader_url))
    with Watchdog() as watchdog, running(tmp_path, settings) as exporter:
        watchdog.exporter = exporter
        stored: Counter[Labels] = Counter()
        for _ in range(ROUNDS + 1):
            with load(database.celery_url, tmp_path, 1, 60) as writing:
                writing.wait()
                stored += writing.stored()
                assert_counts(exporter, {"shop": stored})
                deleter = Deleter(database, writing, watchdog, "shop")
                for task_id, _ in writing.entries()[-20:]:
                    deleter.forget(task_id)
        assert resets(exporter) == (0, 0)
    assert watchdog.went_back == []


@contextlib.contextmanager
def emptied_again_and_again(
    database: Database, tmp_path: Path, empty: Callable[[], None]
) -> Iterator[Exporter]:
    """Write more rows each time, empty the table in between; all of them count, and once."""
    create_tables(database)
    settings = config(tmp_path, backend("shop", database.reader_url))
    stored: Counter[Labels] = Counter()
    with Watchdog() as watchdog, running(tmp_path, settings) as exporter:
        watchdog.exporter = exporter
        for number in range(ROUNDS + 1):
            create_tables(database)
            with load(database.celery_url, tmp_path, 4, 80 + 80 * number) as writing:
                writing.wait()
                stored += writing.stored()
            assert_counts(exporter, {"shop": stored})
            if number < ROUNDS:
                empty()
                exporter.poll_again()
        assert resets(exporter) == (ROUNDS, ROUNDS)
        yield exporter
    assert watchdog.went_back == []


@kinds("postgresql", "mariadb-pymysql", "sqlite")
def test_truncated_and_ids_restarted(database: Database, tmp_path: Path) -> None:
    with emptied_again_and_again(database, tmp_path, partial(truncate, database)):
        pass


@pytest.mark.long
@kinds("mariadb-pymysql")
def test_truncated_with_auto_increment(database: Database, tmp_path: Path) -> None:
    """As in tables made by SQLAlchemy before 1.4, and on MySQL: TRUNCATE alone restarts them."""
    with create_tables(database).begin() as connection:
        connection.execute(text("ALTER TABLE celery_taskmeta MODIFY id INT AUTO_INCREMENT"))
    settings = config(tmp_path, backend("shop", database.reader_url))
    with running(tmp_path, settings) as exporter:
        stored = fill(database, 500)
        assert_counts(exporter, {"shop": stored})
        truncate(database, restart=False)
        exporter.poll_again()
        stored += fill(database, 800)
        assert_counts(exporter, {"shop": stored})
        assert resets(exporter) == (1, 1)


def fill(database: Database, rows: int) -> Counter[Labels]:
    """Insert rows whose ids the server chooses, in one statement; return how they count."""
    numbers = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < :rows)"
    columns = "task_id, status, date_done, name, worker, queue, retries"
    values = "concat(uuid(), i), 'SUCCESS', now(), 'shop.task0', 'w0@host', 'orders', 0"
    if database.owner.get_backend_name() == "postgresql":
        values = "nextval('task_id_sequence'), " + values.replace("uuid()", "gen_random_uuid()")
        columns = f"id, {columns}"
    statement = f"INSERT INTO celery_taskmeta ({columns}) {numbers} SELECT {values} FROM n"
    with database.engine().begin() as connection:
        connection.execute(text(statement), {"rows": rows})
    return Counter({("shop.task0", "SUCCESS", "w0@host", "orders"): rows})


@kinds("mariadb-pymysql", "postgresql", "sqlite")
def test_tables_are_dropped_and_made_anew(database: Database, tmp_path: Path) -> None:
    drop = partial(ResultModelBase.metadata.drop_all, database.engine())
    with emptied_again_and_again(database, tmp_path, drop) as exporter:
        waited = [line for line in exporter.logs() if "does not exist yet" in line]
        assert sum("table=celery_taskmeta" in line for line in waited) == ROUNDS
        # Where it came a moment after the other it was not seen yet, and is not missed.
        assert sum("table=celery_tasksetmeta" in line for line in waited) <= ROUNDS


@pytest.mark.parametrize(
    "more", [-100, pytest.param(100, marks=pytest.mark.long)], ids=["below", "beyond"]
)
@kinds("mariadb-pymysql", "postgresql")
def test_truncated_and_filled_between_two_polls(
    database: Database, more: int, tmp_path: Path
) -> None:
    """The ids that are there anew reach not quite as far as those before, or further."""
    with create_tables(database).begin() as connection:
        if database.owner.get_backend_name() == "mysql":
            connection.execute(text("ALTER TABLE celery_taskmeta MODIFY id INT AUTO_INCREMENT"))
    settings = config(tmp_path, backend("shop", database.reader_url, poll_interval="1s"))
    with running(tmp_path, settings) as exporter:
        stored = fill(database, 500)
        exporter.wait_until(lambda: counted(exporter) == stored, "500 results")
        polls = exporter.scrape().value("celery_backend_polls_total")
        exporter.wait_until(
            lambda: exporter.scrape().value("celery_backend_polls_total") != polls, "a poll"
        )
        truncate(database, restart=database.owner.get_backend_name() != "mysql")
        stored += fill(database, 500 + more)
        exporter.poll_again(1)
        assert_counts(exporter, {"shop": stored}, timeout=20)
        stored += fill(database, 200)
        assert_counts(exporter, {"shop": stored}, timeout=20)
        assert resets(exporter) == (1, 1)


@kinds("postgresql", "mariadb-pymysql")
def test_truncated_while_we_were_away(database: Database, tmp_path: Path) -> None:
    """The exporter is stopped, and the table is another one when it comes back."""
    create_tables(database)
    settings = config(tmp_path, backend("shop", database.reader_url))
    stored: Counter[Labels] = Counter()
    for number in range(2):
        with load(database.celery_url, tmp_path, 2, 80 + 80 * number) as writing:
            writing.wait()
            stored += writing.stored()
        with running(tmp_path, settings) as exporter:
            assert_counts(exporter, {"shop": stored}, timeout=20)
        truncate(database)
