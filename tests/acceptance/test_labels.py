"""``labels`` and ``extra_labels``: what a real Prometheus would make of the same, added up."""

from __future__ import annotations

import json
import time
from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest

from tests.acceptance.process import one_backend, run, running, write
from tests.acceptance.test_kill import LABELS, RESULTS, truth, writers
from tests.acceptance.test_reload import ON, post
from tests.follow import create_tables, insert
from tests.servers.database import SQLite
from tests.servers.process import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.servers.database import Database
    from tests.servers.prometheus import Prometheus

DROPPED = "celery_results_exporter_results_dropped_total"
PODS = {"source": "worker", "regex": "celery@(.+)-[a-z0-9]+-[a-z0-9]+"}
SCRAPES = """
scrape_configs:
  - job_name: here
    scrape_interval: 1s
    static_configs: [{targets: ["%s"]}]
  - job_name: there
    scrape_interval: 1s
    static_configs: [{targets: ["%s"]}]
    metric_relabel_configs: %s
"""
WORKERS = [
    "celery@web-7d9f8b6c5-x2x4z",
    "Mail@Host",
    "w1@host",
    "wörker;x",
    "",
    "\\",
]  # `.` is a newline since Prometheus 3, Debian has 2
QUEUES = ["mail", "Mail.High", "q\\1", "canary", ""]
# Such as leave series apart: Prometheus adds none up.
RULES = [
    {"source_labels": ["worker"], "regex": PODS["regex"], "target_label": "worker"},
    {"source_labels": ["worker", "queue"], "regex": "w(.*);(?P<q>m.*)", "target_label": "task",
     "replacement": "$1/$q$$$9"},
    {"source_labels": ["queue"], "regex": "Mail.*", "target_label": "queue", "action": "lowercase"},
    {"source_labels": ["task"], "target_label": "task", "action": "uppercase"},
    {"source_labels": ["queue", "worker"], "separator": "", "regex": "canary.*", "action": "drop"},
    {"source_labels": ["state"], "regex": "SUCCESS|FAILURE", "action": "keep"},
    {"source_labels": ["worker"], "modulus": 1000, "target_label": "worker", "action": "hashmod"},
]  # fmt: skip


@pytest.mark.parametrize("rules", [RULES[:3], RULES], ids=["some", "all"])
def test_prometheus_relabels_alike(
    rules: list[dict[str, Any]], prometheus: Callable[[str], Prometheus], tmp_path: Path
) -> None:
    (tmp_path / "there").mkdir()
    with SQLite(tmp_path).fresh_database() as database:
        with create_tables(database).begin() as connection:
            for worker in WORKERS:
                for queue in QUEUES:
                    insert(connection, worker=worker, queue=queue)
        with (
            running(tmp_path, one_backend(database.reader_url, labels=rules)) as here,
            running(tmp_path / "there", one_backend(database.reader_url)) as there,
        ):
            there.wait_until(lambda: there.scrape().sums(RESULTS)[()] == 30, "all")
            config = SCRAPES % (here.address, there.address, json.dumps(rules))
            watching = prometheus(config)

            def series(job: str) -> set[frozenset[tuple[str, str]]]:
                found = watching.query(f'{RESULTS}{{job="{job}"}}')
                return {frozenset((k, v) for k, v in labels if k not in ("job", "instance"))
                        for labels in found}  # fmt: skip

            wait_until(lambda: series("there"), "Prometheus' first scrape")
            wait_until(lambda: series("here") == series("there"), "the same series")


@pytest.mark.timeout(600)
@pytest.mark.parametrize("database", ["sqlite", "postgresql"], indirect=True)
def test_rules_change_under_load(database: Database, tmp_path: Path) -> None:
    """Ten times; none is lost or counted twice, and `verify` agrees with each."""
    create_tables(database)
    changes: list[list[dict[str, Any]]] = [
        [],
        [{"source": "worker", "regex": "w[0-2]@host", "replacement": "some"}],
        [{"labeldrop": "worker"}],
        [{"action": "drop", "source": "queue", "regex": "orders"}],
        [{"drop": "queue"}, {"source": "task", "regex": r"shop\.(.*)[0-9]"}],
    ]

    def config(labels: list[dict[str, Any]]) -> dict[str, Any]:
        made = one_backend(database.reader_url, labels=labels, extra_labels={"team": "billing"})
        return made | {"checkpoint": {"path": str(tmp_path / "checkpoint.sqlite")}}

    with running(tmp_path, config([]), ON) as exporter:
        with writers(database, 2):
            for number in range(10):
                labels = changes[(number + 1) % len(changes)]
                write(tmp_path, config(labels))
                assert post(exporter).status == 200
                time.sleep(0.4)
        for labels in changes:
            write(tmp_path, config(labels))
            assert post(exporter).status == 200
            expected = truth(database)

            def counted(expected: Counter[tuple[str, ...]] = expected) -> bool:
                scrape = exporter.scrape()
                return scrape.sums(RESULTS)[()] + (scrape.value(DROPPED) or 0) == expected.total()

            exporter.wait_until(counted, f"all of {expected.total()} with {labels}")
            exporter.poll_again()
            assert counted()
            by = exporter.scrape().sums(RESULTS, "state")
            if not any(rule.get("action") == "drop" for rule in labels):
                for state in ("SUCCESS", "FAILURE", "REVOKED"):
                    assert by[state,] == sum(n for key, n in expected.items() if key[1] == state)
            if not labels:
                assert exporter.scrape().sums(RESULTS, *LABELS) == expected
            assert all(
                sample.get("team") == "billing"
                for name, sample, _ in exporter.scrape().samples
                if "backend" in sample and name != "celery_results_exporter_leader"
            )
            verified = run("verify", f"--config.file={write(tmp_path, config(labels))}")
            assert (verified.returncode, verified.stderr) == (0, "")


def test_label_that_is_dropped_is_nowhere(tmp_path: Path) -> None:
    with SQLite(tmp_path).fresh_database() as database:
        with create_tables(database).begin() as connection:
            for number in range(3):
                insert(connection, worker=f"w{number}@host")
                insert(connection, "STARTED", worker=f"w{number}@host", date_done=None)
        config = one_backend(database.reader_url, labels=[{"labeldrop": "worker"}])
        with running(tmp_path, config) as exporter:
            exporter.wait_for(RESULTS, 3, state="SUCCESS")
            scrape = exporter.scrape()
            assert scrape.value("celery_task_unfinished", state="STARTED") == 3
            assert not [labels for _, labels, _ in scrape.samples if "worker" in labels]
            assert "worker=" not in exporter.get("/metrics").body
