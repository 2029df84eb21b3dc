"""Every expression of every dashboard and rule, run by a Prometheus that has scraped a demo."""

from __future__ import annotations

import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest
import yaml
from sqlalchemy import Engine, make_url

from tests.acceptance.process import QUICK_LOOKS, running
from tests.deploy import mixin
from tests.deploy.promql import groups
from tests.deploy.queries import DASHBOARDS, QUERIES, VARIABLE, substituted, variables
from tests.deploy.test_prometheus import FILES
from tests.follow import TASKS, insert
from tests.servers.beat import Calculator
from tests.servers.database import SQLite
from tests.servers.process import wait_until

if TYPE_CHECKING:
    from tests.servers.prometheus import Prometheus
    from tests.servers.worker import Worker, Workers

DOCUMENT = Path(__file__).parents[2] / "docs" / "alerts.md"
#: What the demo must and may set off: most mails fail, a payment does, one backend is crowded.
FIRE = {"CeleryTaskFailureRatioHigh", "CeleryTaskFirstFailure", "CeleryResultsFolded"}
MAY_FIRE = {
    "CeleryTaskErrorBudgetBurnsFast",
    "CeleryTaskErrorBudgetBurnsSlowly",
    "CeleryTaskRetryStorm",  # a few seconds are taken for those 15 minutes
}
#: What a user of celery-exporter's dashboards has chosen there.
CHOSEN = {"cluster": "demo", "namespace": "shop", "task": ".+"}
_COMPARISON = re.compile(r"(?<=\s)(==|!=|>=|<=|>|<) (?!bool)")
#: What SQLite's catalogue has not.
NOT_THERE = {"dashboard backends: Rows A"}


class Expression(NamedTuple):
    """One to be run, and what it must return."""

    name: str
    text: str
    has_data: bool = True
    legend: str = ""
    over: str = "now"  # or "range"

    def __str__(self) -> str:
        return self.name


class Demo(NamedTuple):
    worker: Worker
    results: Engine
    prometheus: Prometheus


@pytest.fixture
def demo(
    broker: str,
    celery_worker: Workers,
    prometheus: Callable[[str], Prometheus],
    tmp_path: Path,
) -> Iterator[Demo]:
    """Run the demo's worker, a beat, the exporter on both, and Prometheus with all rules."""
    with SQLite(tmp_path).fresh_database() as database, celery_worker(database) as worker:
        worker.send("orders.place")  # so that the first look at ids and ages finds some
        database.wait_for({"SUCCESS": 1})
        (tmp_path / "web.yaml").write_text("{}")
        flag = f"--web.config.file={tmp_path}/web.yaml"
        with (
            schedules(broker, tmp_path) as beat_database,
            running(
                tmp_path, config(database.reader_url, beat_database), flag, program=QUICK_LOOKS
            ) as exporter,
        ):
            watching = prometheus(f"""
global: {{scrape_interval: 1s, evaluation_interval: 1s}}
rule_files: {rules_that_are_run_each_second(tmp_path)}
scrape_configs:
  - job_name: celery-results
    static_configs:
      - targets: ["{exporter.address}"]
        labels: {{cluster: demo, namespace: shop}}
""")
            wait_until(lambda: watching.query("up"), "Prometheus's first scrape")
            yield Demo(worker, database.engine(), watching)


def config(result_backend: str, beat_database: str) -> dict[str, Any]:
    """Read the same results twice: in full, and with less room."""
    demo = {
        "name": "demo",
        "result_backend": result_backend,
        "beat_database": beat_database,
        "expected": [{"task": "orders.place", "within": "1h"}],
    }
    crowded = {
        "name": "crowded",
        "result_backend": result_backend,
        "series_limit": 20,
        "labels": [{"action": "drop", "source": "task", "regex": "newsletters.*"}],
    }
    return {
        "checkpoint": {"path": "checkpoint.sqlite"},
        "defaults": {"poll_interval": "500ms", "first_zero": "2s", "start": "beginning"},
        "backends": [demo, crowded],
    }


@contextmanager
def schedules(broker: str, folder: Path) -> Iterator[str]:
    """Let a beat send orders to the demo's worker, from a database whose URL is returned."""
    url = f"sqlite:///{folder}/db.sqlite3"
    settings = {"beat_sync_every": 1}
    calculator = Calculator(folder, make_url(url), broker, settings=settings)
    order = {"task": "orders.place", "queue": "orders"}
    calculator.schedule(
        {"name": "an order", "interval": {"every": 2, "period": "seconds"}, **order},
        {"name": "at night", "crontab": {"hour": "3"}, "enabled": False, **order},
    )
    with calculator.beat():
        yield url


def rules_that_are_run_each_second(folder: Path) -> list[str]:
    copies = []
    for file in FILES:
        copy = folder / file
        copied = [group | {"interval": "1s"} for group in groups(file)]
        copy.write_text(yaml.safe_dump({"groups": copied}))
        copies.append(str(copy))
    return copies


def work(worker: Worker, results: Engine, turn: int) -> None:
    """Have something of everything that is shown."""
    worker.send("orders.place")
    worker.send("mail.send", "TimeoutError", task_id=f"mail {turn}")
    worker.send("mail.send", task_id=f"mail {turn - 1}")  # replaces the failure before
    with results.begin() as connection:
        connection.execute(TASKS.delete().where(TASKS.c.name == "reports.lost"))
        insert(connection, "STARTED", name="reports.lost")
    for _ in range(5):
        worker.send("mail.send", "TimeoutError")
    worker.send("payments.charge", 1)
    worker.send("newsletters.send", 1)
    worker.app.control.revoke(worker.send("orders.place", countdown=1))


# --- what is run --------------------------------------------------------------------------------


def of_dashboards() -> Iterator[Expression]:
    for query in QUERIES:
        over = "now" if query.instant else "range"
        name, text = f"dashboard {query}", substituted(query.expression, {})
        yield Expression(name, text, name not in NOT_THERE, query.legend, over)


def of_rules() -> Iterator[Expression]:
    """What is recorded; and of alerts whether they can fire, and on what.

    With each comparison made to return 0 or 1, an expression is empty only if the exporter lacks
    a metric, or two sides do not match.
    """
    for file in FILES:
        for group in groups(file):
            for rule in group["rules"]:
                if "record" in rule:
                    yield Expression(f"recorded {rule['record']}", rule["record"])
                else:
                    fires = rule["alert"] in FIRE
                    yield Expression(f"alert {rule['alert']}", rule["expr"], has_data=fires)
                    text = _COMPARISON.sub(r"\1 bool ", rule["expr"])
                    yield Expression(f"alert {rule['alert']}, without its thresholds", text)


def of_the_mixin() -> Iterator[Expression]:
    for number, (text, has_data) in enumerate(mixin.QUERIES, 1):
        yield Expression(f"celery-exporter's mixin {number}", substituted(text, CHOSEN), has_data)


EXPRESSIONS = [*of_dashboards(), *of_rules(), *of_the_mixin()]


def test_every_expression_returns_data(demo: Demo) -> None:
    worker, results, prometheus = demo
    turns = count()
    waiting = {one for one in EXPRESSIONS if one.has_data}
    worker.send("reports.archive", 4.0, queue="reports")
    worker.send("payments.charge", 9)

    def all_have_data() -> bool:
        work(worker, results, next(turns))
        time.sleep(1.0)
        waiting.difference_update([one for one in waiting if filled(one, run(prometheus, one))])
        return not waiting

    try:
        wait_until(all_have_data, "data for every expression", timeout=90)
    except pytest.fail.Exception:
        pytest.fail(f"no data for {sorted(map(str, waiting))}; {health(prometheus)}")
    print_table(prometheus)
    assert not health(prometheus)
    active = {alert["labels"]["alertname"] for alert in prometheus.api("alerts")["alerts"]}
    assert FIRE <= active <= FIRE | MAY_FIRE
    heed_the_variables(prometheus)
    offer_values(prometheus)
    has_exemplars(prometheus)


def heed_the_variables(prometheus: Prometheus) -> None:
    """A panel is empty where the variables name nobody."""
    for query, one in zip(QUERIES, of_dashboards(), strict=True):
        nobody = dict.fromkeys(variables(query.dashboard), "nobody")
        text = substituted(query.expression, nobody)
        assert run(prometheus, one._replace(text=text)) == [], f"{query} heeds no variable"


def offer_values(prometheus: Prometheus) -> None:
    """The drop-downs of our dashboards; and of the mixin's, once changed as docs/alerts.md says."""
    for name in DASHBOARDS:
        for variable in variables(name).values():
            if variable["type"] == "query":
                query = variable["query"]["query"]
                assert offered(prometheus, query, {}), (name, variable["name"])
    (change,) = re.findall(r"^sed -E '(.*)' ", DOCUMENT.read_text(), re.MULTILINE)
    for name, query in mixin.VARIABLES.items():
        changed = subprocess.run(
            ["sed", "-E", change], input=query, capture_output=True, text=True, check=True
        )
        assert offered(prometheus, changed.stdout, CHOSEN), name


def offered(prometheus: Prometheus, query: str, chosen: dict[str, str]) -> list[str]:
    metric, label = VARIABLE.fullmatch(query).groups()
    return prometheus.api(f"label/{label}/values", **{"match[]": substituted(metric, chosen)})


def has_exemplars(prometheus: Prometheus) -> None:
    """With the task's id, for a query that a panel asks."""
    (query,) = [one for one in QUERIES if one.panel == "Failures per minute by exception"]
    now = time.time()
    found = prometheus.api(
        "query_exemplars",
        query=substituted(query.expression, {}),
        start=str(now - 60),
        end=str(now),
    )
    assert all("task_id" in one["labels"] for series in found for one in series["exemplars"])
    assert found


def run(prometheus: Prometheus, expression: Expression) -> list[dict[str, str]]:
    """Ask Prometheus; return the labels of the series that have a number."""
    if expression.over == "now":
        found = prometheus.api("query", query=expression.text)["result"]
        return [one["metric"] for one in found if one["value"][1] != "NaN"]
    now = time.time()
    times = {"start": str(now - 60), "end": str(now), "step": "1"}
    found = prometheus.api("query_range", query=expression.text, **times)["result"]
    return [one["metric"] for one in found if any(value != "NaN" for _, value in one["values"])]


def filled(expression: Expression, found: Iterable[dict[str, str]]) -> bool:
    """Tell whether a series has each label that the legend names."""
    wanted = set(re.findall(r"\{\{(\w+)\}\}", expression.legend))
    return any(wanted <= labels.keys() for labels in found)


def health(prometheus: Prometheus) -> dict[str, Any]:
    """Return the rules that Prometheus could not evaluate, with its reasons."""
    return {
        rule["name"]: rule["lastError"]
        for group in prometheus.api("rules")["groups"]
        for rule in group["rules"]
        if rule["health"] != "ok"
    }


def print_table(prometheus: Prometheus) -> None:
    """Show with `pytest -s` how many series each expression returns."""
    for one in EXPRESSIONS:
        sys.stdout.write(f"{len(run(prometheus, one)):5d}  {one}\n")
