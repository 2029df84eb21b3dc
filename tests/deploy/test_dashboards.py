"""The form of the dashboards, and that they are as the code makes them."""

from __future__ import annotations

import json
from itertools import combinations
from typing import Any

import pytest
from grafana_foundation_sdk.models.dashboard import Dashboard

from scripts.dashboards.files import FILES, FOLDER, text
from scripts.dashboards.parts import DOCS
from tests.deploy.promql import RECORDED, family, faults, selectors
from tests.deploy.queries import DASHBOARDS, QUERIES, VARIABLE, panels, variables
from tests.deploy.test_prometheus import ALERTS

every_dashboard = pytest.mark.parametrize("name", DASHBOARDS)
PANELS = [(name, panel) for name in DASHBOARDS for panel in panels(name)]


def test_files_are_what_the_code_makes() -> None:
    assert {file.name for file in FOLDER.glob("*.json")} == {file.name for file in FILES}
    for file, dashboard in FILES.items():
        assert file.read_text() == text(dashboard), "run: python -m scripts.dashboards"


@every_dashboard
def test_is_read_by_the_library_without_loss(name: str) -> None:
    """So no key is misspelt or in the wrong place."""
    again = json.loads(text(Dashboard.from_json(DASHBOARDS[name])))
    assert lost(DASHBOARDS[name], again) == []


def lost(before: Any, after: Any, path: str = "") -> list[str]:
    """Return the paths of what is in one and not in the other."""
    if isinstance(before, dict) and isinstance(after, dict):
        return [
            fault
            for key, value in before.items()
            for fault in lost(value, after.get(key), f"{path}.{key}")
        ]
    if isinstance(before, list) and isinstance(after, list) and len(before) == len(after):
        pairs = zip(before, after, strict=True)
        return [f for n, pair in enumerate(pairs) for f in lost(*pair, f"{path}[{n}]")]
    return [] if before == after else [path]


def test_panels_say_what_they_show() -> None:
    for name, panel in PANELS:
        where = f"{name}: {panel['title']}"
        assert panel["description"].endswith("."), where
        assert panel["fieldConfig"]["defaults"]["unit"], where
        sources = {one["datasource"]["uid"] for one in [panel, *panel["targets"]]}
        assert sources == {"${datasource}"}, where


def test_titles_are_unique() -> None:
    for name in DASHBOARDS:
        titles = [panel["title"] for panel in panels(name)]
        assert len(titles) == len(set(titles)), name


def test_tables_name_each_of_their_columns() -> None:
    """What a query returns is a column with a heading, or left out on purpose."""
    for _, panel in PANELS:
        if panel["type"] == "table":
            (options,) = (
                one["options"] for one in panel["transformations"] if one["id"] == "organize"
            )
            refs = [target["refId"] for target in panel["targets"]]
            values = {f"Value #{ref}" for ref in refs} if len(refs) > 1 else {"Value"}
            assert values <= options["renameByName"].keys()
            assert options["indexByName"].keys() == options["renameByName"].keys()
            for override in panel["fieldConfig"]["overrides"]:
                assert override["matcher"]["options"] in options["renameByName"].values()


@every_dashboard
def test_panels_have_ids_of_their_own_and_do_not_overlap(name: str) -> None:
    every = DASHBOARDS[name]["panels"]
    ids = [panel["id"] for panel in every]
    assert len(set(ids)) == len(ids)
    places = [panel["gridPos"] for panel in every]
    assert all(place["x"] + place["w"] <= 24 for place in places)
    for one, other in combinations(places, 2):
        assert (
            one["x"] + one["w"] <= other["x"]
            or other["x"] + other["w"] <= one["x"]
            or one["y"] + one["h"] <= other["y"]
            or other["y"] + other["h"] <= one["y"]
        ), (one, other)


def test_queries_ask_only_for_what_there_is() -> None:
    found = {str(query): faults(query.expression) for query in QUERIES}
    assert {query: wrong for query, wrong in found.items() if wrong} == {}


def test_queries_heed_the_variables() -> None:
    """Each selector is filtered by every variable of its dashboard whose label it has."""
    for query in QUERIES:
        for selector in selectors(query.expression):
            metric = family(selector.metric)
            labels = {"cluster", "namespace", "job"}
            labels |= {*metric.label_names} if metric else RECORDED.get(selector.metric, set())
            if selector.metric == "celery_task:success_objective:ratio":
                labels = {"task"}  # it is the same everywhere
            wanted = {f'{one}=~"${one}"' for one in variables(query.dashboard) if one in labels}
            assert wanted <= selector.matchers, query


@every_dashboard
def test_variables_narrow_down(name: str) -> None:
    """Their values come from our metrics, narrowed by those before them; All is everything."""
    names = [one for one in variables(name) if one != "datasource"]
    assert names[:4] == ["cluster", "namespace", "job", "backend"]
    for position, one in enumerate(names):
        variable = variables(name)[one]
        metric, label = VARIABLE.fullmatch(variable["query"]["query"]).groups()
        assert label == one
        (selector,) = selectors(metric)
        assert selector.matchers == {f'{before}=~"${before}"' for before in names[:position]}
        assert variable["multi"]
        assert variable["includeAll"]
        assert variable["allValue"] == ".*"  # .+ would lose tasks without a name


def test_links_lead_to_sections_of_the_runbook() -> None:
    links = [link["url"] for _, panel in PANELS for link in panel.get("links", ())]
    sections = {f"{DOCS}runbook/#{alert.lower()}" for alert in ALERTS}
    assert links
    assert set(links) <= sections
    for dashboard in DASHBOARDS.values():
        assert f"{DOCS}runbook/" in {link.get("url") for link in dashboard["links"]}


def test_a_task_on_the_overview_leads_to_its_dashboard() -> None:
    """By a row of the table, and by each graph of tasks; with the variables of both."""
    found = json.dumps(DASHBOARDS["overview"]).count("/d/celery-results-task/")
    assert found >= 5
    assert DASHBOARDS["task"]["uid"] == "celery-results-task"
    assert {"backend", "task", "job", "cluster", "namespace"} <= variables("task").keys()


def test_exemplars_are_asked_for_where_the_exporter_has_them() -> None:
    for query in QUERIES:
        asked = {selector.metric for selector in selectors(query.expression)}
        has = asked & {"celery_task_results_total", "celery_task_failures_total"}
        assert query.exemplar == (bool(has) and not query.instant), query
