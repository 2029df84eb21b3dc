"""The queries of the dashboards, as Grafana sends them."""

from __future__ import annotations

import json
import re
from typing import Any, NamedTuple

from scripts.dashboards.files import FILES

DASHBOARDS: dict[str, dict[str, Any]] = {
    file.stem.removeprefix("celery-results-"): json.loads(file.read_text()) for file in FILES
}
VARIABLE = re.compile(r"label_values\((.*), (\w+)\)")
#: What Grafana puts in place of its macros, with a scrape every second.
MACROS = {"$__rate_interval": "10s", "$__range": "60s"}


class Query(NamedTuple):
    dashboard: str
    panel: str
    ref: str
    expression: str
    legend: str
    instant: bool  # one moment; otherwise over the time range
    exemplar: bool

    def __str__(self) -> str:
        return f"{self.dashboard}: {self.panel} {self.ref}"


def panels(name: str) -> list[dict[str, Any]]:
    """Return the panels of a dashboard, without its rows."""
    return [panel for panel in DASHBOARDS[name]["panels"] if panel["type"] != "row"]


def variables(name: str) -> dict[str, dict[str, Any]]:
    """Return the variables of a dashboard by name."""
    return {one["name"]: one for one in DASHBOARDS[name]["templating"]["list"]}


QUERIES = [
    Query(
        name,
        panel["title"],
        target["refId"],
        target["expr"],
        target.get("legendFormat", ""),
        target.get("instant", False),
        target.get("exemplar", False),
    )
    for name in DASHBOARDS
    for panel in panels(name)
    for target in panel["targets"]
]


def substituted(expression: str, values: dict[str, str]) -> str:
    """Do what Grafana does before it asks Prometheus; a variable left out is "All"."""
    for macro, value in MACROS.items():
        expression = expression.replace(macro, value)
    expression = re.sub(r"\$(\w+)", lambda found: values.get(found[1], ".*"), expression)
    assert "$" not in expression
    return expression
