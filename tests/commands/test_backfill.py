"""`backfill`: what promtool and Prometheus make of it is what the tables say."""

from __future__ import annotations

import os
import pty
import signal
import subprocess
import time
from collections import Counter
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any
from zoneinfo import ZoneInfo

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families
from sqlalchemy import text

from exporter import cli, logs
from exporter.checkpoint.checkpoint import open_file
from exporter.metrics import catalogue
from tests.acceptance.process import EXPORTER, environment, one_backend, running, write
from tests.follow import GROUPS, TASKS, Follower, create_tables, insert
from tests.servers.database import SQLite
from tests.servers.process import require, wait_until
from tests.servers.prometheus import Prometheus

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from sqlalchemy import Engine

    from tests.servers.database import Database
    from tests.servers.mariadb import MariaDB
    from tests.servers.postgresql import PostgreSQL

MINUTE, STEP, HOUR, DAY = 60, 300, 3600, 86_400
TOKYO = ZoneInfo("Asia/Tokyo")
SCRAPE = """
scrape_configs:
  - job_name: celery-results
    scrape_interval: 1s
    static_configs: [{targets: [%s]}]
"""
Counts = Counter[frozenset[tuple[str, str]]]


class Backfilled(Prometheus):
    """Has blocks of an OpenMetrics file, as promtool makes them, before it starts."""

    def __init__(self, file: Path, scraped: str = "") -> None:
        super().__init__(SCRAPE % scraped)
        self._file = file

    def prepare(self) -> None:
        super().prepare()
        promtool(self._file, self.folder / "data")

    def sums(self, query: str, moment: float) -> Counts:
        """Return the value of each series but for zeros, without the labels of a scrape."""
        query = f"sum without (job, instance) ({query})"
        found = self.api("query", query=query, time=str(moment))["result"]
        values = {frozenset(one["metric"].items()): float(one["value"][1]) for one in found}
        assert all(abs(value - round(value)) < 1e-6 for value in values.values()), values
        return +Counter({own: round(value) for own, value in values.items()})


def promtool(file: Path, data: Path) -> None:
    done = subprocess.run(
        [
            *(require("promtool", "prometheus"), "tsdb", "create-blocks-from"),
            *("--max-block-duration=36h", "openmetrics", str(file), str(data)),
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def backfill(config: Path, *flags: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*EXPORTER, "backfill", f"--config.file={config}", *flags],
        capture_output=True,
        text=True,
        env=environment({}),
        timeout=120,
        check=False,
    )


def labels(backend: str, names: tuple[str, ...], values: tuple[str | None, ...]) -> Any:
    """Return labels as Prometheus has them: an empty one is none."""
    pairs = zip(("backend", *names), (backend, *values), strict=True)
    return frozenset((name, value) for name, value in pairs if value)


def wall(moment: float, zone: ZoneInfo) -> datetime:
    return datetime.fromtimestamp(moment, zone).replace(tzinfo=None)


#: As databases have them: no name, names that compare alike, what a label has to escape.
ODD_NAMES = (None, "", "Mail.send", "mail.send", "mail.send ", 'a"b\\c\nd', "메일")


def results(end: int) -> list[dict[str, Any]]:
    """Return rows of the two days before, one a minute in the first hour of the last day.

    Each has the moment at which it finished; on MySQL a date has whole seconds.
    """
    rows = [
        {"name": "app.steady", "moment": end - DAY + MINUTE * n + 30, "retries": n % 2}
        for n in range(60)
    ]
    failures = (b'{"exc_type": "KeyError", "exc_message": ["x"]}', None)
    rows += [
        {
            "name": name,
            "status": state,
            "moment": end - (n * 7 + m) * 997 % (2 * DAY) - 1,
            "worker": f"w{m % 2}@host" if m else None,
            "result": failures[m % 2] if state == "FAILURE" else None,
        }
        for n, name in enumerate(ODD_NAMES)
        for m, state in enumerate(["SUCCESS", "FAILURE", "FAILURE", "REVOKED", "SUCCESS"])
    ]
    rows.append({"name": "app.edge", "moment": end - 2 * DAY})  # the first second
    return [{"status": "SUCCESS", "worker": "w@host", "retries": 0} | row for row in rows]


def others(end: int) -> list[dict[str, Any]]:
    """Return rows that do not count: too early, too late, unfinished, without a date."""
    rows: list[dict[str, Any]] = [
        {"moment": end - 2 * DAY - 1},
        {"moment": end},
        {"moment": end - HOUR, "status": "STARTED"},
        {"moment": None},
        {"moment": None, "status": "FAILURE"},
    ]
    usual = {"status": "SUCCESS", "worker": "w@host", "retries": 0, "name": "out"}
    return [usual | row for row in rows]


def fill(database: Database, end: int, zone: ZoneInfo) -> None:
    engine = create_tables(database)
    with engine.begin() as connection:
        # Ids are no dates: one that waited for long has an old one.
        for row in sorted([*results(end), *others(end)], key=lambda row: str(row["name"])[::-1]):
            moment, status = row.pop("moment"), row.pop("status")
            done = None if moment is None else wall(moment, zone)
            insert(connection, status, date_done=done, **row)
        for moment in (end - DAY, end - HOUR):
            group = {"taskset_id": str(moment), "date_done": wall(moment, zone)}
            connection.execute(GROUPS.insert().values(group))


def truth(backend: str, end: int, metric: catalogue.Metric) -> Counts:
    counts: Counts = Counter()
    for row in results(end):
        own = {"task": row["name"], "state": row["status"], "queue": "celery"} | row
        own["exception"] = "KeyError" if row.get("result") else ""
        amount = row["retries"] if metric is catalogue.RETRIES else 1
        if metric is not catalogue.FAILURES or row["status"] == "FAILURE":
            counts[labels(backend, metric.labels, tuple(own[n] for n in metric.labels))] += amount
    return +counts


def test_prometheus_has_what_the_tables_have(
    postgresql: PostgreSQL, mariadb: MariaDB, tmp_path: Path
) -> None:
    """Of all databases in one file, whatever zone they have; then a running exporter goes on."""
    end = int(time.time()) // STEP * STEP - 3 * HOUR
    zones = {"sqlite": TOKYO, "postgresql": TOKYO, "mariadb": ZoneInfo("UTC")}
    with ExitStack() as stack:
        servers = {"sqlite": SQLite(tmp_path), "postgresql": postgresql, "mariadb": mariadb}
        backends = []
        for name, server in servers.items():
            database = stack.enter_context(server.fresh_database())
            fill(database, end, zones[name])
            url = {"name": name, "result_backend": database.reader_url}
            backends.append(url | {"timezone": zones[name].key})
        config = {
            "defaults": {"poll_interval": "100ms", "first_zero": "3s", "query_timeout": "30s"},
            "backends": backends,
        }
        file = tmp_path / "past.om"
        done = backfill(
            write(tmp_path, config),
            *(f"--from={end - 2 * DAY}", f"--to={end}", "--step=5m", f"--output={file}"),
        )
        assert done.returncode == 0, done.stderr
        assert done.stderr.count("results without a date are left out") == len(servers)
        coarse = tmp_path / "coarse.om"
        flags = (f"--from={end - 2 * DAY}", f"--to={end}", "--step=6h", f"--output={coarse}")
        assert backfill(tmp_path / "config.yaml", *flags).returncode == 0
        assert_is_openmetrics(coarse)
        exporter = stack.enter_context(running(tmp_path, config))
        address = exporter.address
        watching = stack.enter_context(Backfilled(file, f'"{address}"'))
        for metric in (catalogue.RESULTS, catalogue.FAILURES, catalogue.RETRIES):
            expected = sum((truth(name, end, metric) for name in servers), Counter())
            assert watching.sums(f"increase({metric.name}[3d])", end) == expected
        groups = Counter({labels(name, (), ()): 2 for name in servers})
        assert watching.sums("increase(celery_group_results_total[3d])", end) == groups
        assert_rate_is_steady(watching, end)
        assert_exporter_goes_on(watching, database, end)


def assert_is_openmetrics(file: Path) -> None:
    """As the reference parser has it: metrics and series in one piece, in the order of time."""
    content = file.read_text()
    assert content.endswith("\n# EOF\n")
    families = [family.name for family in text_string_to_metric_families(content)]
    assert families == [
        metric.name.removesuffix("_total")
        for metric in (
            *(catalogue.RESULTS, catalogue.FAILURES, catalogue.RETRIES),
            catalogue.GROUP_RESULTS,
        )
    ]


def assert_rate_is_steady(watching: Prometheus, end: int) -> None:
    """One a minute for an hour, and nothing before or after."""
    graph = watching.api(
        "query_range",
        query='sum by (backend) (rate(celery_task_results_total{task="app.steady"}[20m])) * 60',
        start=str(end - DAY - HOUR),
        end=str(end - DAY + 2 * HOUR),
        step=str(STEP),
    )["result"]
    assert len(graph) == 3
    for series in graph:
        rates = {moment - (end - DAY): float(value) for moment, value in series["values"]}
        assert min(rates) == STEP  # with the second sample
        steady = [rate for at, rate in rates.items() if 4 * STEP <= at <= HOUR]
        assert steady == pytest.approx([1.0] * len(steady))
        assert {rate for at, rate in rates.items() if at > HOUR + 4 * STEP} == {0.0}


def assert_exporter_goes_on(watching: Backfilled, database: Database, end: int) -> None:
    """Its series are others, of `job` and `instance`: nothing falls, and nothing counts twice."""
    before = watching.sums("increase(celery_task_results_total[3d])", end)
    wait_until(lambda: watching.query("celery_backend_up"), "Prometheus to scrape")
    with database.engine().begin() as connection:
        for _ in range(7):
            insert(connection, name="app.steady", worker="w@host")
    names = ("task", "state", "worker", "queue")
    new = Counter({labels("mariadb", names, ("app.steady", "SUCCESS", "w@host", "celery")): 7})
    live = 'celery_task_results_total{instance!="",state="SUCCESS",task="app.steady"}'
    wait_until(lambda: 7 in watching.query(live).values(), "Prometheus to have the new results")
    (last,) = watching.query(f"timestamp({live})").values()
    assert watching.sums(f"increase({live}[3d])", last) == new
    assert watching.sums("max_over_time(celery_task_results_total[3d])", last) == before + new


@pytest.fixture
def past(tmp_path: Path) -> Iterator[Database]:
    """Give a SQLite file with one result an hour ago, and one that is older than a day."""
    with SQLite(tmp_path).fresh_database() as database:
        with create_tables(database).begin() as connection:
            for age in (HOUR, 30 * HOUR):
                insert(connection, date_done=ago(age))
        yield database


def ago(seconds: float) -> datetime:
    return datetime.now(UTC).replace(tzinfo=None) - timedelta(seconds=seconds)


def ended(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    config: Mapping[str, Any],
    folder: Path,
    *flags: str,
) -> tuple[int, list[str]]:
    """Run it in this process; return its exit code and the lines of what it complains of."""
    monkeypatch.setattr(logs, "configure", lambda *_: None)  # of the whole process
    code = cli.main(["backfill", f"--config.file={write(folder, config)}", *flags])
    return code, capsys.readouterr().err.splitlines()


@pytest.mark.parametrize(
    ("flags", "code", "expected"),
    [
        ([], 2, "Missing option '--from'; see --help"),
        (["--from=soon"], 2, "--from: 'soon' is not a time; write it like 2026-10-01"),
        (["--from=100y"], 2, "--from: '100y' lies before 1970"),
        (["--from=1d", "--to=2d"], 2, "--from: is not before --to"),
        (["--from=0s"], 2, "--from: is not before now"),
        (["--from=1d", "--to=1970-01-01"], 2, "--from: is not before --to"),
        (["--from=1d", "--to=2999-01-01"], 2, "--to: lies in the future"),
        (["--from=1d", "--step=5"], 2, "--step: '5' is not a duration; it lacks a unit"),
        (["--from=1d", "--step=500ms"], 2, "--step: '500ms' is not whole seconds"),
        (["--from=1d", "--backend=shpo"], 2, "--backend: there is no backend 'shpo', only shop"),
        (["--from=1d", "--output=/no/such/file"], 2, "--output: /no/such/file.part: No such file"),
        (["--from=90m", "--to=80m"], 1, "no result finished between 2"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_is_wrong_is_one_line(
    past: Database,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    flags: list[str],
    code: int,
    expected: str,
) -> None:
    config = one_backend(past.reader_url, timezone="UTC")
    found, (line,) = ended(capsys, monkeypatch, config, tmp_path, *flags)
    assert found == code
    assert line.startswith(f"celery-results-exporter: error: {expected}")


def test_table_that_tells_no_dates(
    past: Database,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Or is not there at all. What was written before stays."""
    config = one_backend(past.reader_url, timezone="UTC")
    file = tmp_path / "past.om"
    file.write_text("before")
    with past.engine().begin() as connection:
        connection.execute(text("ALTER TABLE celery_taskmeta RENAME COLUMN date_done TO gone"))
    flags = ("--from=2d", f"--output={file}")
    code, (line,) = ended(capsys, monkeypatch, config, tmp_path, *flags)
    assert code == 1
    assert "schema: table 'celery_taskmeta' has no column 'date_done' that this account" in line
    with past.engine().begin() as connection:
        connection.execute(text("ALTER TABLE celery_taskmeta RENAME TO elsewhere"))
    code, (line,) = ended(capsys, monkeypatch, config, tmp_path, *flags)
    assert code == 1
    assert "schema: table 'celery_taskmeta' does not exist, or this account may not see" in line
    assert file.read_text() == "before"
    assert not file.with_name("past.om.part").exists()


def counted(file: Path) -> int:
    """Sum the last samples of results up."""
    last: dict[str, int] = {}
    for line in file.read_text().splitlines():
        if line.startswith("celery_task_results_total"):
            series, value, _ = line.rsplit(" ", 2)
            last[series] = int(value)
    return sum(last.values())


def test_labels_are_those_that_run_serves(
    past: Database,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    config = one_backend(
        past.reader_url,
        timezone="UTC",
        labels=[{"source": "worker", "regex": "(w).*", "replacement": "$1"}, {"drop": "queue"}],
        extra_labels={"team": "billing"},
    )
    file = tmp_path / "past.om"
    flags = ("--from=2d", "--step=1h", f"--output={file}")
    assert ended(capsys, monkeypatch, config, tmp_path, *flags) == (0, [])
    begin = 'celery_task_results_total{backend="shop",state="SUCCESS",task="app.add",'
    lines = [line for line in file.read_text().splitlines() if line.startswith(begin)]
    assert {line.split("}")[0] for line in lines} == {f'{begin}team="billing",worker="w"'}
    times = [int(line.split()[-1]) for line in lines]
    assert all(time % HOUR == 0 for time in times[:-1])
    assert counted(file) == 2


def test_ends_where_the_exporter_began(
    past: Database,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As the checkpoint says: what it has counted since is in its own series."""
    checkpoint = open_file(tmp_path / "checkpoint.sqlite")
    follower = Follower(past.reader_url, checkpoint, start="end").poll()
    config = one_backend(past.reader_url, timezone="UTC")
    config["backends"][0]["name"] = follower.poller.settings.name
    config["checkpoint"] = {"path": str(tmp_path / "checkpoint.sqlite")}
    with past.engine().begin() as connection:
        insert(connection)
    follower.poll()
    follower.close()
    checkpoint.close()
    file = tmp_path / "past.om"
    flags = ("--from=2d", f"--output={file}")
    assert ended(capsys, monkeypatch, config, tmp_path, *flags) == (0, [])
    assert counted(file) == 2
    began = max(int(line.split()[-1]) for line in file.read_text().splitlines()[:-1] if "}" in line)
    assert began <= time.time()
    later = (f"--from={began}", f"--output={file}")
    code, (line,) = ended(capsys, monkeypatch, config, tmp_path, *later)
    assert code == 1
    assert "by its checkpoint the exporter counts it since 2" in line


def test_full_disk_is_one_line(past: Database, tmp_path: Path) -> None:
    config = write(tmp_path, one_backend(past.reader_url, timezone="UTC"))
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run(
            [*EXPORTER, "backfill", f"--config.file={config}", "--from=2d", "--log.level=warn"],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            env=environment({}),
            timeout=60,
            check=False,
        )
    assert done.returncode == 1
    expected = "celery-results-exporter: error: standard output cannot be written: No space left"
    assert done.stderr.startswith(expected)
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("database", ["sqlite"], indirect=True)
def test_signal_or_reader_that_left_leaves_nothing_that_looks_whole(
    database: Database, engine: Engine, tmp_path: Path
) -> None:
    """And no traceback. On a terminal, stderr shows how far it is."""
    with engine.begin() as connection:
        rows = [{"task_id": str(n), "status": "SUCCESS", "date_done": ago(DAY)} for n in range(100)]
        connection.execute(TASKS.insert(), [row | {"name": row["task_id"]} for row in rows])
    config = write(tmp_path, one_backend(database.reader_url, timezone="UTC"))
    command = [*EXPORTER, "backfill", f"--config.file={config}", "--from=2d", "--step=1s"]
    terminal, theirs = pty.openpty()
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=theirs, env=environment({})
    ) as process:
        os.close(theirs)
        assert process.stdout is not None
        assert process.stdout.read(1 << 16).startswith(b"# HELP celery_task_results ")
        process.stdout.close()
        assert process.wait(60) == 141
    with open(terminal, "rb", buffering=0) as screen:  # noqa: PTH123 - a descriptor
        shown = screen.read(1 << 16).decode()
    assert "task table" in shown
    assert "100%" in shown
    assert "Traceback" not in shown
    file = tmp_path / "past.om"
    part = tmp_path / "past.om.part"
    with subprocess.Popen(
        [*command, f"--output={file}"],
        stderr=subprocess.PIPE,
        env=environment({}),
        # The background job of a shell ignores it, and so would we.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # noqa: PLW1509
    ) as process:
        wait_until(lambda: part.exists() and part.stat().st_size, "it to write")
        process.send_signal(signal.SIGINT)
        _, stderr = process.communicate(timeout=60)
    assert process.returncode == 130
    assert b"Traceback" not in stderr
    assert not file.exists()
    assert not part.exists()
