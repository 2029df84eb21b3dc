"""The dashboard: its form, and each of its queries run by a real Prometheus."""

from __future__ import annotations

import json
import re
import signal
import sys
import time
from itertools import combinations, count
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.error import URLError
from urllib.request import urlopen

import pytest

from tests.deploy.promql import family, faults, selectors
from tests.follow import TASKS, insert
from tests.servers.database import SQLite
from tests.servers.process import HOST, Process, free_port, wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from sqlalchemy import Engine

    from tests.servers.prometheus import Prometheus
    from tests.servers.worker import Worker, Workers

FILE = Path(__file__).parents[2] / "deploy" / "grafana" / "celery-results.json"
ALERTS = Path(__file__).parents[2] / "deploy" / "prometheus" / "alerts.yml"
DASHBOARD = json.loads(FILE.read_text())
PANELS = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
VARIABLES = {variable["name"]: variable for variable in DASHBOARD["templating"]["list"]}
#: The label that each variable filters by.
FILTERS = ("backend", "task", "queue", "worker")
#: What Grafana puts in place of its macros, with a scrape every second.
MACROS = {"$__rate_interval": "10s", "$__range": "60s"}


class Query(NamedTuple):
    panel: str
    ref: str
    expression: str
    legend: str
    instant: bool  # one moment; otherwise over the time range

    def __str__(self) -> str:
        return f"{self.panel} {self.ref}"


QUERIES = [
    Query(
        panel["title"],
        target["refId"],
        target["expr"],
        target.get("legendFormat", ""),
        target["instant"],
    )
    for panel in PANELS
    for target in panel["targets"]
]
every_panel = pytest.mark.parametrize("panel", PANELS, ids=lambda panel: panel["title"])
every_query = pytest.mark.parametrize("query", QUERIES, ids=str)


def substituted(expression: str, **values: str) -> str:
    """Do what Grafana does before it asks Prometheus; a variable left out is "All"."""
    for name in FILTERS:
        expression = re.sub(
            rf"\${name}\b", values.get(name, VARIABLES[name]["allValue"]), expression
        )
    for macro, value in MACROS.items():
        expression = expression.replace(macro, value)
    assert "$" not in expression
    return expression


@every_panel
def test_panel_says_what_it_shows(panel: dict[str, Any]) -> None:
    assert panel["title"]
    assert panel["description"].endswith(".")
    assert panel["fieldConfig"]["defaults"]["unit"]
    assert {one["datasource"]["uid"] for one in [panel, *panel["targets"]]} == {"${datasource}"}


@every_panel
def test_table_names_each_of_its_columns(panel: dict[str, Any]) -> None:
    """What a query returns is a column with a heading, or left out on purpose."""
    organize = [one for one in panel.get("transformations", []) if one["id"] == "organize"]
    assert bool(organize) == (panel["type"] == "table")
    for transformation in organize:
        options = transformation["options"]
        values = {f"Value #{target['refId']}" for target in panel["targets"]}
        left_out = {name for name, hidden in options["excludeByName"].items() if hidden}
        assert values <= options["renameByName"].keys() | left_out
        assert options["indexByName"].keys() == options["renameByName"].keys()
        for override in panel["fieldConfig"]["overrides"]:
            if override["matcher"]["id"] == "byName":
                assert override["matcher"]["options"] in options["renameByName"].values()


def test_panels_have_ids_of_their_own_and_do_not_overlap() -> None:
    ids = [panel["id"] for panel in DASHBOARD["panels"]]
    assert len(set(ids)) == len(ids)
    places = [panel["gridPos"] for panel in DASHBOARD["panels"]]
    assert all(place["x"] + place["w"] <= 24 for place in places)
    for one, other in combinations(places, 2):
        assert (
            one["x"] + one["w"] <= other["x"]
            or other["x"] + other["w"] <= one["x"]
            or one["y"] + one["h"] <= other["y"]
            or other["y"] + other["h"] <= one["y"]
        ), (one, other)


@every_query
def test_query_asks_only_for_what_the_exporter_serves(query: Query) -> None:
    assert faults(query.expression) == []


@every_query
def test_query_heeds_the_variables(query: Query) -> None:
    """Each metric is filtered by every variable whose label it has."""
    for selector in selectors(query.expression):
        metric = family(selector.metric)
        if metric is not None:
            wanted = {f'{name}=~"${name}"' for name in FILTERS if name in metric.label_names}
            assert wanted <= selector.matchers


@pytest.mark.parametrize("name", FILTERS)
def test_variable_narrows_down(name: str) -> None:
    """Its values come from our metrics, narrowed by the variables before it; All is everything."""
    variable = VARIABLES[name]
    metric, label = re.fullmatch(
        r"label_values\((.*), (\w+)\)", variable["query"]["query"]
    ).groups()
    assert label == name
    assert faults(f"{metric}[1m]" if metric != "celery_backend_up" else metric) == []
    before = FILTERS[: FILTERS.index(name)]
    (selector,) = selectors(metric)
    assert selector.matchers == {f'{one}=~"${one}"' for one in before}
    assert variable["multi"]
    assert variable["includeAll"]
    assert variable["allValue"] == ".*"  # .+ would lose tasks without a name


# --- run for real -------------------------------------------------------------------------------


class Demo(NamedTuple):
    worker: Worker
    results: Engine
    prometheus: Prometheus


@pytest.fixture
def demo(
    celery_worker: Workers, prometheus: Callable[[str], Prometheus], tmp_path: Path
) -> Iterator[Demo]:
    """Run the demo's worker, the exporter on its results, and Prometheus on the exporter."""
    port = free_port()
    with SQLite(tmp_path).fresh_database() as database, celery_worker(database) as worker:
        worker.send(
            "orders.place"
        )  # so that the first look at ids and ages, a minute apart, finds some
        database.wait_for({"SUCCESS": 1})
        (tmp_path / "config.yaml").write_text(f"""
checkpoint: {{path: checkpoint.sqlite}}
defaults: {{poll_interval: 500ms, first_zero: 1s, start: beginning}}
backends:
  - {{name: demo, result_backend: "{database.reader_url}"}}
  - {{name: crowded, result_backend: "{database.reader_url}", series_limit: 20}}
""")
        exporter = Process(
            [
                *(sys.executable, "-m", "exporter", f"--config.file={tmp_path}/config.yaml"),
                f"--web.listen-address={HOST}:{port}",
            ],
            tmp_path / "exporter.log",
        )
        try:
            exporter.wait_until(lambda: answers(f"http://{HOST}:{port}/-/ready"), "the exporter")
            yield Demo(
                worker,
                database.engine(),
                prometheus(f"""
global: {{scrape_interval: 1s, evaluation_interval: 1s}}
rule_files: ["{ALERTS}"]
scrape_configs:
  - job_name: celery-results
    static_configs: [{{targets: ["{HOST}:{port}"]}}]
"""),
            )
        finally:
            exporter.stop(signal.SIGTERM)


def answers(url: str) -> bool:
    try:
        with urlopen(url, timeout=30):  # noqa: S310 - ours, on loopback
            return True
    except (URLError, ConnectionError):
        return False


def work(worker: Worker, results: Engine, turn: int) -> None:
    """Have something of everything that the dashboard shows."""
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


def test_every_query_returns_data(demo: Demo) -> None:
    worker, results, prometheus = demo
    turns = count()
    waiting = set(QUERIES)
    worker.send("reports.archive", 4.0, queue="reports")

    def all_have_data() -> bool:
        work(worker, results, next(turns))
        time.sleep(0.5)
        for query in list(waiting):
            if any(legend_filled(query, labels) for labels in series(prometheus, query)):
                waiting.remove(query)
        return not waiting and alert_states(prometheus)["CeleryTaskFailureRatioHigh"] != "inactive"

    try:
        wait_until(all_have_data, "data in every panel", timeout=60)
    except pytest.fail.Exception:
        states = alert_states(prometheus)
        pytest.fail(f"no data for {sorted(map(str, waiting))}; alerts: {states}")
    for query in QUERIES:
        if any("backend" in selector.labels for selector in selectors(query.expression)):
            assert series(prometheus, query, backend="nobody") == [], f"{query} heeds no backend"
    for name in FILTERS:
        assert variable_values(prometheus, name), name
    active = {name for name, state in alert_states(prometheus).items() if state != "inactive"}
    assert active == {"CeleryTaskFailureRatioHigh"}  # most mails fail, if not for five minutes yet


def series(prometheus: Prometheus, query: Query, **values: str) -> list[dict[str, str]]:
    """Run the query as its panel does; return the labels of the series that have a number."""
    expression = substituted(query.expression, **values)
    now = time.time()
    if query.instant:
        result = prometheus.api("query", query=expression)["result"]
        return [one["metric"] for one in result if one["value"][1] != "NaN"]
    result = prometheus.api(
        "query_range", query=expression, start=str(now - 60), end=str(now), step="1"
    )["result"]
    return [one["metric"] for one in result if any(value != "NaN" for _, value in one["values"])]


def legend_filled(query: Query, labels: dict[str, str]) -> bool:
    """Tell whether the series has each label that the legend names."""
    return set(re.findall(r"\{\{(\w+)\}\}", query.legend)) <= labels.keys()


def variable_values(prometheus: Prometheus, name: str) -> list[str]:
    """Return what the drop-down of the variable offers, asked as Grafana asks."""
    query = VARIABLES[name]["query"]["query"]
    metric, label = re.fullmatch(r"label_values\((.*), (\w+)\)", query).groups()
    return prometheus.api(f"label/{label}/values", **{"match[]": substituted(metric)})


def alert_states(prometheus: Prometheus) -> dict[str, str]:
    """Return what Prometheus makes of each alert, all of which it must be able to evaluate."""
    (group,) = prometheus.api("rules")["groups"]
    assert {rule["health"] for rule in group["rules"]} == {"ok"}
    return {rule["name"]: rule["state"] for rule in group["rules"]}
