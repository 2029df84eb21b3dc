"""The example configuration and alerts, judged by promtool."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest
import yaml

from exporter import durations
from exporter.config.settings import Settings
from tests.deploy.promql import faults
from tests.servers.process import require

FOLDER = Path(__file__).parents[2] / "deploy" / "prometheus"
RULES = [
    rule
    for group in yaml.safe_load((FOLDER / "alerts.yml").read_text())["groups"]
    for rule in group["rules"]
]
every_alert = pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule["alert"])


@pytest.mark.parametrize(
    "arguments",
    [
        ("check", "config", "prometheus.yml"),
        ("check", "rules", "--lint-fatal", "alerts.yml"),
        ("test", "rules", "alerts_test.yml"),
    ],
    ids=" ".join,
)
def test_promtool_accepts_and_the_alerts_fire_when_they_should(arguments: tuple[str, ...]) -> None:
    done = subprocess.run(
        [require("promtool", "prometheus"), *arguments],
        cwd=FOLDER,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "SUCCESS" in done.stdout


@every_alert
def test_asks_only_for_what_the_exporter_serves(rule: dict) -> None:
    assert faults(rule["expr"]) == []


@every_alert
def test_is_complete(rule: dict) -> None:
    assert rule["for"]
    assert rule["labels"]["severity"] in {"critical", "warning"}
    assert set(rule["annotations"]) == {"summary", "description"}


@every_alert
def test_is_seen_firing_and_not_firing(rule: dict) -> None:
    """Each alert has at least one case where it fires and one where it must not."""
    fires, quiet = 0, 0
    for case in yaml.safe_load((FOLDER / "alerts_test.yml").read_text())["tests"]:
        for moment in case.get("alert_rule_test", ()):
            if moment["alertname"] == rule["alert"]:
                fires += bool(moment.get("exp_alerts"))
                quiet += not moment.get("exp_alerts")
        for moment in case.get("promql_expr_test", ()):
            if rule["alert"] in moment["expr"]:
                fires += bool(moment.get("exp_samples"))
                quiet += not moment.get("exp_samples")
    assert fires
    assert quiet


def test_every_alert_is_told() -> None:
    readme = (FOLDER.parent / "README.md").read_text()
    told = re.findall(r"^\| `(\w+)` \| (\w+) \|", readme, re.MULTILINE)
    assert told == [(rule["alert"], rule["labels"]["severity"]) for rule in RULES]


def test_scrapes_more_often_than_new_series_stay_at_zero() -> None:
    """Otherwise the first failure of a task would be no increase."""
    config = yaml.safe_load((FOLDER / "prometheus.yml").read_text())
    first_zero = Settings.model_fields["first_zero"].default
    assert durations.parse(config["global"]["scrape_interval"]) * 2 <= first_zero
