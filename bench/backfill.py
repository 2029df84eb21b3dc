"""The past of the largest table, against one statement that has the database sort all of it."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from sqlalchemy import text

from bench.figures import Figure, Finding, count, power, seconds, timed
from bench.lab import KINDS, Lab
from bench.tables import Shape, present
from tests.acceptance.footprint import rss
from tests.acceptance.process import EXPORTER, environment, write
from tests.servers.database import Database

MOST = 120  # MiB
MINUTE = {
    "postgresql": "floor(date_part('epoch', date_done) / 60)",
    "mariadb": "TIMESTAMPDIFF(SECOND, '1970-01-01', date_done) DIV 60",
    "sqlite": "CAST(strftime('%s', date_done) AS INTEGER) / 60",
}
SORTED = """SELECT name, status, worker, queue, {} AS minute, count(*), sum(retries)
    FROM celery_taskmeta GROUP BY 1, 2, 3, 4, 5 ORDER BY 1, 2, 3, 4, 5"""


def run(lab: Lab) -> Iterator[Finding]:
    """Measure on each database."""
    shape = Shape(lab.sizes.tables[-1])
    for kind, name in KINDS.items():
        database = lab.database(kind, shape)
        file = lab.new_folder() / "past.om"
        peaks: list[float] = []
        took = timed(lambda: peaks.append(_ours(database, file)))  # noqa: B023 - called at once
        _insist(file, present(shape.rows))
        size = file.stat().st_size / 2**20
        file.unlink()
        sorting = timed(lambda: _sort(database, SORTED.format(MINUTE[kind])))  # noqa: B023
        yield Figure(
            f"backfill, {power(shape.rows)} rows of a day, {name}",
            f"{seconds(took)}, {count(shape.rows / took)} rows/s, {count(size)} MiB written",
            f"one statement that sorts the table: {seconds(sorting)}",
            took / sorting,
        )
        yield Figure(
            f"memory at most, backfill, {power(shape.rows)} rows, {name}",
            f"{peaks[0]:.0f} MiB",
            must=f"≤ {MOST} MiB",
            met=peaks[0] <= MOST,
        )


def _ours(database: Database, file: Path) -> float:
    """Write the file; return the most memory that it took, in MiB."""
    backend = {"name": "celery", "result_backend": database.reader_url, "timezone": "UTC"}
    config = write(file.parent, {"backends": [backend]})
    flags = [f"--config.file={config}", "--from=2d", f"--output={file}", "--log.level=warn"]
    peak = 0.0
    with subprocess.Popen([*EXPORTER, "backfill", *flags], env=environment({})) as process:
        while process.poll() is None:
            with suppress(RuntimeError):  # it has just ended
                peak = rss(process.pid, peak=True)
            time.sleep(0.05)
    if process.returncode:
        raise RuntimeError(f"backfill ended with {process.returncode}")
    return peak


def _insist(file: Path, rows: int) -> None:
    """Make sure that the last samples of results sum up to the rows."""
    last: dict[bytes, int] = {}
    with file.open("rb") as lines:
        for line in lines:
            if line.startswith(b"celery_task_results_total{"):
                series, value, _ = line.rsplit(b" ", 2)
                last[series] = int(value)
    if sum(last.values()) != rows:
        raise RuntimeError(f"{sum(last.values())} of {rows} rows were counted")


def _sort(database: Database, query: str) -> None:
    with database.reader_engine().connect() as connection:
        for _ in connection.execution_options(stream_results=True).execute(text(query)):
            pass
