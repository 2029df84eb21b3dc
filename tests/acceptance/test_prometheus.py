"""What a real Prometheus makes of the exporter."""

from __future__ import annotations

import re
import subprocess
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

from prometheus_client.openmetrics.parser import text_string_to_metric_families

from tests.acceptance.load import ROUND_ROWS, Tables, by, send_load
from tests.acceptance.process import FAST, OPENMETRICS, Exporter, one_backend, running
from tests.servers.process import require, wait_until

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.servers.mariadb import MariaDB
    from tests.servers.postgresql import PostgreSQL
    from tests.servers.prometheus import Prometheus
    from tests.servers.worker import Workers

COUNTING = Path(__file__).parents[2] / "docs" / "counting.md"
SCRAPE_EVERY_SECOND = """
scrape_configs:
  - job_name: celery-results
    scrape_interval: 1s
    static_configs: [{targets: ["%s"]}]
"""


def test_prometheus_has_what_the_tables_have(
    postgresql: PostgreSQL,
    mariadb: MariaDB,
    celery_worker: Workers,
    prometheus: Callable[[str], Prometheus],
    tmp_path: Path,
) -> None:
    """Two backends: one that a worker has filled, one whose tables are not there yet."""
    with postgresql.fresh_database() as database, mariadb.fresh_database() as empty:
        config = {
            "defaults": FAST,
            "backends": [
                {"name": "shop", "result_backend": database.reader_url},
                {"name": "mail", "result_backend": empty.reader_url},
            ],
        }
        tables = Tables(database)
        with celery_worker(database) as worker, running(tmp_path, config) as exporter:
            watching = prometheus(SCRAPE_EVERY_SECOND % exporter.address)
            send_load(worker, ROUND_ROWS)
            tables.wait_for(finished=ROUND_ROWS)
            wait_until(lambda: ("",) not in by(tables.finished(), 0), "names in all rows")
            truth = by(tables.finished(), 0, 1)
            assert {state for _, state in truth} == {"SUCCESS", "FAILURE", "REVOKED"}
            wait_until(lambda: results(watching) == truth, f"Prometheus to have {truth}")
            assert list(watching.query("up").values()) == [1]
            assert_tools_accept(exporter)


def test_counters_less_revisions_are_what_the_table_says(
    postgresql: PostgreSQL,
    celery_worker: Workers,
    prometheus: Callable[[str], Prometheus],
    tmp_path: Path,
) -> None:
    """By the query of docs/counting.md: a task counts as revoked before it has its name."""
    rules = (COUNTING.read_text()).split("## R4: revisions")[1].split("## R5")[0]
    (query,) = re.findall(r"```promql\n(.*?)```", rules, re.DOTALL)
    with postgresql.fresh_database() as database:
        tables = Tables(database)
        config = one_backend(database.reader_url, late_commit_grace="200ms")
        with celery_worker(database) as worker, running(tmp_path, config) as exporter:
            watching = prometheus(SCRAPE_EVERY_SECOND % exporter.address)
            worker.send("mail.send", "ValueError")
            failed = Counter({("mail.send", "FAILURE"): 1})
            wait_until(lambda: results(watching) == failed, "Prometheus's first scrapes")
            worker.app.control.revoke(worker.send("orders.place", countdown=5))
            nameless = Counter({("mail.send", "FAILURE"): 1, ("", "REVOKED"): 1})
            wait_until(lambda: results(watching, query) == nameless, f"Prometheus: {nameless}")
            named = Counter({("mail.send", "FAILURE"): 1, ("orders.place", "REVOKED"): 1})
            wait_until(lambda: results(watching, query) == named, f"Prometheus: {named}")
            assert by(tables.finished(), 0, 1) == named
            assert results(watching) == named + nameless - failed


def results(
    prometheus: Prometheus, query: str = "sum by (task, state) (celery_task_results_total)"
) -> Counter[tuple[str, str]]:
    """Ask for the results by task and state; without the zeros."""
    answer = prometheus.query(query)
    sums = Counter(
        {
            (dict(labels).get("task", ""), dict(labels)["state"]): int(n)
            for labels, n in answer.items()
        }
    )
    return +sums


def assert_tools_accept(exporter: Exporter) -> None:
    """Both formats say the same, in the words that Prometheus's own tools want."""
    text = exporter.get("/metrics", "text/plain").body
    checked = subprocess.run(
        [require("promtool", "prometheus"), "check", "metrics"],
        input=text,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert (checked.returncode, checked.stdout, checked.stderr) == (0, "", "")
    openmetrics = exporter.get("/metrics", OPENMETRICS).body
    families = {family.name: family for family in text_string_to_metric_families(openmetrics)}
    assert families["celery_task_results"].type == "counter"
    in_text = {
        line.split()[2].removesuffix("_total") for line in text.splitlines() if "# TYPE" in line
    }
    assert families.keys() == in_text
