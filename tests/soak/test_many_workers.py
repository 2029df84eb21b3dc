"""More names of workers than anybody has room for: a million at once, and new ones every day."""

from __future__ import annotations

import tracemalloc
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import text

from exporter.checkpoint.checkpoint import open_file
from exporter.checkpoint.writing import Save
from exporter.counting import feeds
from exporter.counting.folding import series
from exporter.counting.relabelling import Relabelling, Rule
from exporter.counting.results import Finished
from exporter.counting.step import Change
from exporter.counting.tally import Changes, Tally
from exporter.metrics import catalogue
from exporter.sql.identity import Identity
from tests.acceptance.footprint import rss
from tests.acceptance.process import running
from tests.acceptance.test_labels import PODS
from tests.follow import create_tables
from tests.servers.database import SQLite
from tests.soak.load import backend, config
from tests.soak.sizes import LONG

if TYPE_CHECKING:
    from collections.abc import Iterator

RESULTS = "celery_task_results_total"
WORKERS = 1_000_000 if LONG else 20_000
DAYS, NEW_A_DAY, TASKS = 30 if LONG else 9, 10_000 if LONG else 1_000, 10
DAY = 86_400.0
LIMIT = 20_000  # the default of series_limit
FILL = """
INSERT INTO celery_taskmeta (task_id, status, date_done, name, worker, queue, retries)
WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < :rows)
SELECT 'task-' || i, 'SUCCESS', '2026-01-01', 'app.task' || (i % 10),
    printf('celery@web-7d9f8b6c5-%05x', i), 'celery', 0 FROM n
"""


@pytest.mark.timeout(900)
@pytest.mark.parametrize("labels", [[], [PODS]], ids=["as they are", "folded by a rule"])
def test_all_at_once(tmp_path: Path, labels: list[dict[str, Any]]) -> None:
    with SQLite(tmp_path).fresh_database() as database:
        with create_tables(database).begin() as connection:
            connection.execute(text(FILL), {"rows": WORKERS})
        settings = config(tmp_path, backend("shop", database.reader_url, labels=labels))
        with running(tmp_path, settings) as exporter:
            exporter.wait_until(
                lambda: exporter.scrape().sums(RESULTS)[()] == WORKERS, "all", timeout=600
            )
            workers = exporter.scrape().sums(RESULTS, "worker")
            served = exporter.scrape().value("celery_results_exporter_series")
            peak = rss(exporter.pid, peak=True)
            exporter.stop()
        size = sum(file.stat().st_size for file in tmp_path.glob("checkpoint.sqlite*")) / 1024**2
    print(  # noqa: T201 - the figures, shown with -s
        f"{WORKERS} workers: {len(workers)} shown, {served:g} series, at most {peak:.0f} MiB, "
        f"checkpoint {size:.1f} MiB"
    )
    assert served is not None
    assert served <= LIMIT
    assert peak < 250
    assert size < 30
    if labels:
        assert workers == {("web",): WORKERS}


@pytest.fixture
def traced() -> Iterator[None]:
    tracemalloc.start()
    yield
    tracemalloc.stop()


@pytest.mark.timeout(1800)
@pytest.mark.usefixtures("traced")
@pytest.mark.parametrize("folded", [False, True], ids=["as they are", "folded by a rule"])
def test_new_ones_every_day(tmp_path: Path, *, folded: bool) -> None:
    rule = Rule(sources=("worker",), target="worker", regex=PODS["regex"])
    tally = Tally(LIMIT, 60.0, Relabelling([rule] if folded else []), stale_after=7 * DAY)
    file = tmp_path / "checkpoint.sqlite"
    checkpoint = open_file(file)
    checkpoint.recognise("shop", {"task": Identity("celery_taskmeta", "a")})
    sizes: list[tuple[float, float, int]] = []

    def keep(changes: Changes) -> None:
        checkpoint.save("shop", Save(changes=changes), {}, tally)
        tally.apply(changes)

    for number in range(0, DAYS * NEW_A_DAY, TASKS):
        now = 1e9 + number * DAY / NEW_A_DAY
        workers = [f"celery@web-7d9f8b6c5-{number + index:05x}" for index in range(TASKS)]
        results = [
            Finished("SUCCESS", f"app.task{index}", worker, "celery")
            for index, worker in enumerate(workers)
        ]
        change = Change(cursor=1, outcomes=results)
        keep(tally.count("task", feeds.tasks, change, now, live=True))
        keep(tally.reveal(now))
        if (number + TASKS) % NEW_A_DAY == 0:
            assert series(tally.samples()) <= LIMIT
            memory, _ = tracemalloc.get_traced_memory()
            size = sum(each.stat().st_size for each in tmp_path.glob("checkpoint.sqlite*"))
            sizes.append((memory / 1024**2, size / 1024**2, series(tally.samples())))
    checkpoint.close()
    tally.apply(tally.reveal(now + 61.0))
    total = sum(float(s.value) for s in tally.samples()[catalogue.RESULTS])  # type: ignore[arg-type]
    for day in (1, DAYS // 3, DAYS):
        memory, size, served = sizes[day - 1]
        print(  # noqa: T201 - the figures, shown with -s
            f"day {day}: {served} series, {memory:.1f} MiB, checkpoint {size:.1f} MiB"
        )
    kept = sum(value.value for key, value in tally.values.items() if key[0] is catalogue.RESULTS)  # type: ignore[union-attr,misc]
    assert kept == DAYS * NEW_A_DAY
    assert max(memory for memory, _, _ in sizes) < 40
    assert max(size for _, size, _ in sizes) < 20
    if folded:
        assert total == kept
