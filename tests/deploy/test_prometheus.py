"""The example configuration and rules, judged by promtool, and their runbook."""

from __future__ import annotations

import re
import subprocess
import tomllib
from pathlib import Path

import pytest
import yaml

from exporter import durations
from exporter.config.settings import Settings
from scripts.dashboards.parts import DOCS
from tests.deploy.promql import RULES, faults, groups
from tests.servers.process import require

ROOT = Path(__file__).parents[2]
FILES = ("alerts.yml", "objectives.yml", "compatibility.yml")
ALERTS = {
    rule["alert"]: (file, rule)
    for file in FILES
    for group in groups(file)
    for rule in group["rules"]
    if "alert" in rule
}
RECORDS = [
    (file, rule)
    for file in FILES
    for group in groups(file)
    for rule in group["rules"]
    if "record" in rule
]
RUNBOOK = (ROOT / "docs" / "runbook.md").read_text()
every_alert = pytest.mark.parametrize("alert", ALERTS)


@pytest.mark.parametrize(
    "arguments",
    [
        ("check", "config", "prometheus.yml"),
        *(("check", "rules", "--lint-fatal", file) for file in FILES),
        *(("test", "rules", file.replace(".yml", "_test.yml")) for file in FILES),
    ],
    ids=" ".join,
)
def test_promtool_accepts_and_the_alerts_fire_when_they_should(arguments: tuple[str, ...]) -> None:
    done = subprocess.run(
        [require("promtool", "prometheus"), *arguments],
        cwd=RULES,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "SUCCESS" in done.stdout


def test_rules_ask_only_for_what_is_there() -> None:
    found = {alert: faults(rule["expr"]) for alert, (_, rule) in ALERTS.items()}
    assert {alert: wrong for alert, wrong in found.items() if wrong} == {}
    for _, rule in RECORDS:
        wrong = faults(rule["expr"])
        # Rules may copy a counter under another name, or set a number.
        assert not [one for one in wrong if not one.endswith(("ranged=False", "selects nothing"))]


@every_alert
def test_is_complete(alert: str) -> None:
    _, rule = ALERTS[alert]
    assert rule["for"]
    assert rule["labels"]["severity"] in {"critical", "warning"}
    assert set(rule["annotations"]) == {"summary", "description", "runbook_url"}


@every_alert
def test_is_seen_firing_and_not_firing(alert: str) -> None:
    """Each alert has at least one case where it fires and one where it must not."""
    file, _ = ALERTS[alert]
    fires, quiet = 0, 0
    for case in cases(file):
        for moment in case.get("alert_rule_test", ()):
            if moment["alertname"] == alert:
                fires += bool(moment.get("exp_alerts"))
                quiet += not moment.get("exp_alerts")
        for moment in case.get("promql_expr_test", ()):
            if alert in moment["expr"]:
                fires += bool(moment.get("exp_samples"))
                quiet += not moment.get("exp_samples")
    assert fires
    assert quiet


def test_what_is_recorded_is_seen_or_alerted_on() -> None:
    for file, rule in RECORDS:
        seen = [moment["expr"] for case in cases(file) for moment in case["promql_expr_test"]]
        asked = [other["expr"] for _, other in (*RECORDS, *ALERTS.values())]
        assert any(rule["record"] in expression for expression in seen + asked), rule["record"]


def test_every_alert_has_its_section_of_the_runbook() -> None:
    """And each section its alert; the table at its beginning says what they are."""
    documentation = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["urls"]
    assert documentation["Documentation"] == DOCS
    for alert, (_, rule) in ALERTS.items():
        assert rule["annotations"]["runbook_url"] == f"{DOCS}runbook/#{alert.lower()}"
    sections = re.findall(r"^## (Celery\w+)\n(.*?)(?=^## |\Z)", RUNBOOK, re.MULTILINE | re.DOTALL)
    assert {name for name, _ in sections} == ALERTS.keys()
    for name, section in sections:
        parts = re.findall(r"^\*\*([\w ]+)\.\*\*", section, re.MULTILINE)
        assert parts == ["Meaning", "Impact", "Look at", "Do"], name
    told = re.findall(r"^\| \[(\w+)\]\(#(\w+)\) \| (\w+) \|", RUNBOOK, re.MULTILINE)
    assert told == [
        (alert, alert.lower(), rule["labels"]["severity"]) for alert, (_, rule) in ALERTS.items()
    ]


def test_scrapes_more_often_than_new_series_stay_at_zero() -> None:
    """Otherwise the first failure of a task would be no increase."""
    config = yaml.safe_load((RULES / "prometheus.yml").read_text())
    first_zero = Settings.model_fields["first_zero"].default
    assert durations.parse(config["global"]["scrape_interval"]) * 2 <= first_zero


def cases(file: str) -> list[dict]:
    return yaml.safe_load((RULES / file.replace(".yml", "_test.yml")).read_text())["tests"]
