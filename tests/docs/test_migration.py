"""What docs/migration.md sets side by side: theirs, and ours."""

from __future__ import annotations

import re
import subprocess
from typing import TYPE_CHECKING

import pytest
import sqlalchemy
import yaml

from tests.deploy.promql import faults
from tests.docs.peers import CELERY_EXPORTER, FLOWER, THEIRS
from tests.docs.test_readme import NONE, ROOT, promtool_accepts
from tests.follow import create_tables
from tests.servers.process import require

if TYPE_CHECKING:
    from pathlib import Path

    from tests.servers.database import Database

PAGE = (ROOT / "docs" / "migration.md").read_text()


def tables(head: str) -> list[list[str]]:
    """Return the cells of all rows of the tables whose first column has this head."""
    found = re.findall(rf"^\| {head} \|.*\n\|[-|]+\n((?:\|.*\n)+)", PAGE, re.MULTILINE)
    return [line.strip("|\n").split(" | ") for table in found for line in table.splitlines()]


def code(cell: str) -> list[str]:
    return re.findall(r"`([^`]+)`", cell)


METRICS = {"celery-exporter": CELERY_EXPORTER, "Flower": FLOWER}
PAIRS = [(theirs.strip(), ours.strip()) for _, theirs, ours in tables("asked")]
SQL = [one for theirs, _ in PAIRS for one in code(theirs) if one.startswith("SELECT")]
PROMQL = [one for pair in PAIRS for cell in pair for one in code(cell) if one not in SQL]


@pytest.mark.parametrize("peer", METRICS)
def test_every_metric_of_theirs_is_there(peer: str) -> None:
    told = {name.partition("{")[0] for theirs, *_ in tables(peer) for name in code(theirs)}
    assert told == METRICS[peer]


@pytest.mark.parametrize("peer", METRICS)
def test_metrics_of_ours_have_these_labels(peer: str) -> None:
    ours = [one for _, cell, _ in tables(peer) for one in code(cell) if "{" in one]
    assert {one: faults(f"rate({one}[5m])" if "_total" in one else one) for one in ours} == {
        one: [] for one in ours
    }


def test_queries_of_theirs_ask_for_their_metrics() -> None:
    asked = {name for theirs, _ in PAIRS for name in re.findall(r"\b(?:celery|flower)_\w+", theirs)}
    assert asked - {"celery_taskmeta", "celery_tasksetmeta"} <= THEIRS


def test_queries_of_ours_ask_for_what_is_served() -> None:
    assert {
        query: faults(query) for _, ours in PAIRS for query in code(ours) if faults(query)
    } == {}
    assert all(len(code(ours)) == 1 and (code(theirs) or theirs == NONE) for theirs, ours in PAIRS)


def test_queries_are_promql(tmp_path: Path) -> None:
    promtool_accepts(PROMQL, tmp_path)


#: What grows alike: in celery-exporter, in Flower, here.
ALIKE = [
    (
        'celery_task_succeeded_total{name="t",hostname="w",queue_name="q"}',
        'flower_events_total{task="t",worker="w",type="task-succeeded"}',
        'celery_task_results_total{task="t",worker="w",queue="q",state="SUCCESS"}',
    ),
    (
        'celery_task_failed_total{name="t",hostname="w",queue_name="q",exception="E"}',
        'flower_events_total{task="t",worker="w",type="task-failed"}',
        'celery_task_results_total{task="t",worker="w",queue="q",state="FAILURE"}',
        'celery_task_failures_total{task="t",queue="q",exception="E"}',
    ),
    (
        'celery_task_revoked_total{name="t",hostname="w",queue_name="q"}',
        'flower_events_total{task="t",worker="w",type="task-revoked"}',
        'celery_task_results_total{task="t",worker="w",queue="q",state="REVOKED"}',
    ),
    (
        'celery_task_retried_total{name="t",hostname="w",queue_name="q"}',
        'celery_task_retries_total{task="t",worker="w",queue="q"}',
    ),
    (
        'celery_worker_tasks_active{hostname="w"}',
        'flower_worker_number_of_currently_executing_tasks{worker="w"}',
        'celery_task_unfinished{task="t",worker="w",queue="q",state="STARTED"}',
    ),
    *(
        (
            f'celery_task_runtime_{part}{{name="t",hostname="w",queue_name="q"{bound}}}',
            f'flower_task_runtime_seconds_{part}{{task="t",worker="w"{bound}}}',
            f'celery_task_observed_runtime_seconds_{part}{{task="t"{bound}}}',
        )
        for part, bound in (
            *(("bucket", f',le="{bound}"') for bound in ("10", "60", "+Inf")),
            *(("sum", ""), ("count", "")),
        )
    ),
]


def test_queries_side_by_side_say_the_same(tmp_path: Path) -> None:
    series = [
        {"series": one, "values": f"0+{step}x600"}
        for step, alike in enumerate(ALIKE, start=3)
        for one in alike
    ]
    same = [
        {
            "expr": f"sum({code(theirs)[0]}) - sum({code(ours)[0]})",
            "eval_time": "10h",
            "exp_samples": [{"labels": "{}", "value": 0}],
        }
        for theirs, ours in PAIRS
        if code(theirs) and code(theirs)[0] not in SQL
    ]
    test = {"interval": "1m", "input_series": series, "promql_expr_test": same}
    file = tmp_path / "test.yml"
    file.write_text(yaml.safe_dump({"evaluation_interval": "1m", "tests": [test]}))
    done = subprocess.run(
        [require("promtool", "prometheus"), "test", "rules", file],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("database", ["postgresql"], indirect=True)
def test_sql_runs(database: Database) -> None:
    assert SQL
    with create_tables(database).connect() as connection:
        for statement in SQL:
            connection.execute(sqlalchemy.text(statement)).all()
