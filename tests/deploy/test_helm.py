"""The chart, as Helm's own engine renders it: valid, locked down, fit for the exporter."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import tarfile
import tomllib
from functools import cache
from pathlib import Path
from typing import Any
from urllib.error import URLError
from urllib.request import urlopen

import pytest
import yaml

from exporter.web import webconfig
from tests.deploy import chart_readme
from tests.deploy.chart_readme import CHART
from tests.deploy.manifests import LOCKED_DOWN, Manifests, validate
from tests.servers.process import HOST, Process, free_port
from tests.web.certificates import Authority

helm = pytest.importorskip("helm_python", reason="Helm's library has no wheel for this platform")

ROOT = CHART.parents[2]
VALUES = {
    path.stem: yaml.safe_load(path.read_text())
    for path in sorted((Path(__file__).parent / "values").glob("*.yaml"))
}
#: What Secrets hold that are not the chart's.
ELSEWHERE = {
    "url": "postgresql+psycopg://celery_reader:change-me@db.example/orders",
    "counts": "postgresql+psycopg://celery_counts:change-me@db.example/counts",
    "password": "change-me",
    "ORDERS_URL": "postgresql+psycopg://celery_reader:change-me@db.example/orders",
}
every_case = pytest.mark.parametrize("case", VALUES)


def render(values: dict[str, Any], name: str = "shop") -> dict[str, str]:
    with helm.Chart.load(CHART) as chart:
        chart.validate_schema(values)
        texts: dict[str, str] = chart.render(values, name=name, namespace="celery")
    return {path: text for path, text in texts.items() if path.endswith(".yaml")}


@cache
def rendered(case: str) -> Manifests:
    return Manifests(render(VALUES[case]).values())


@every_case
def test_lint_has_nothing_to_say(case: str) -> None:
    report = helm.lint(CHART, VALUES[case], strict=True)
    assert report["errors"] == []
    assert [one["error"] for one in report["messages"]] == ["icon is recommended"]


@every_case
def test_objects_are_valid_and_fit_for_the_exporter(case: str, tmp_path: Path) -> None:
    found = rendered(case)
    for one in found.objects:
        validate(one)
    found.check(found.configuration(tmp_path, ELSEWHERE))
    names = [(one["kind"], one["metadata"]["name"]) for one in found.objects]
    assert len(set(names)) == len(names)


def test_every_switch_is_seen_on_and_off() -> None:
    """So that no template is left out of the table of values."""
    defaults = yaml.safe_load((CHART / "values.yaml").read_text())
    for key, default in defaults.items():
        if isinstance(default, dict) and "enabled" in default:
            assert {values.get(key, {}).get("enabled", False) for values in VALUES.values()} == {
                True,
                False,
            }, key
    kinds = {values.get("checkpoint", {}).get("kind", "volume") for values in VALUES.values()}
    assert kinds == {"volume", "database", "none"}


def test_web_configuration_is_one_that_the_exporter_takes(tmp_path: Path) -> None:
    authority = Authority()
    pair = authority.pair("localhost")
    pair.write(tmp_path, "server")
    both = {
        "tls.crt": (tmp_path / "server.crt").read_text(),
        "tls.key": (tmp_path / "server.key").read_text(),
    }
    file = rendered("secured").lay_out("--web.config.file", tmp_path, both)
    config = webconfig.load(file)
    assert config.tls is not None
    assert (config.users or {}).keys() == {"prometheus"}
    probe = rendered("secured").exporter["livenessProbe"]
    assert probe["tcpSocket"] == {"port": "metrics"}
    assert rendered("memory").exporter["livenessProbe"]["httpGet"]["scheme"] == "HTTPS"


def test_rules_and_dashboards_are_the_plain_ones() -> None:
    """All that deploy/prometheus and deploy/grafana have, byte for byte, and no tests of rules."""
    rules = {
        path.stem: yaml.safe_load(path.read_text())
        for path in (ROOT / "deploy" / "prometheus").glob("*.yml")
        if "groups" in yaml.safe_load(path.read_text())
    }
    prefix = "shop-celery-results-exporter-"
    found = rendered("replicas").of("PrometheusRule")
    assert {name.removeprefix(prefix): one["spec"] for name, one in found.items()} == rules
    dashboards = {
        path.name: path.read_text() for path in (ROOT / "deploy" / "grafana").glob("*.json")
    }
    data = [
        one["data"]
        for one in rendered("replicas").of("ConfigMap").values()
        if one["metadata"]["labels"].get("grafana_dashboard") == "1"
    ]
    assert {name: text for one in data for name, text in one.items()} == dashboards


def test_archive_has_the_rules_themselves(tmp_path: Path) -> None:
    """The symbolic links end at the checkout."""
    with tarfile.open(helm.package(CHART, destination=tmp_path)) as archive:
        inside = {Path(one.name).name: one for one in archive.getmembers() if "/files/" in one.name}
        assert all(one.isfile() for one in inside.values())
        assert "alerts.yml" in inside
        assert not {"alerts_test.yml", "prometheus.yml"} & inside.keys()


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"config": {"backends": []}}, "config.backends is empty"),
        ({"replicas": 2}, "set checkpoint.kind to database"),
        ({"web": {"config": {"tls_server_config": {}}}}, "set web.tls to true"),
        ({"web": {"config": {"x": {}}, "existingSecret": "x"}}, "exclude each other"),
        (
            {"serviceMonitor": {"enabled": True}, "podMonitor": {"enabled": True}},
            "scraped twice",
        ),
        ({"config": {"backends": [{}], "checkpoint": {}}}, "config"),
        ({"checkpoint": {"kind": "redis"}}, "checkpoint/kind"),
        ({"image": {"tagg": "1"}}, "tagg"),
        ({"replica": 2}, "replica"),
        ({"existingSecrets": [{"name": "orders-db"}]}, "items"),
        ({"secret": {"files": {"../orders": "x"}}}, "orders"),
    ],
    ids=str,
)
def test_values_that_make_no_sense_are_refused(values: dict[str, Any], reason: str) -> None:
    with pytest.raises(helm.HelmError, match=reason):
        render(VALUES["one"] | values)


def test_names_stay_names_however_long_the_release_is() -> None:
    for one in Manifests(render(VALUES["replicas"], "a" * 53).values()).objects:
        assert len(one["metadata"]["name"]) <= 63


def test_example_in_the_readme_is_fit_for_the_exporter(tmp_path: Path) -> None:
    (example,) = re.findall(
        r"^```yaml\n(.*?)^```$", chart_readme.README.read_text(), re.DOTALL | re.MULTILINE
    )
    found = Manifests(render(yaml.safe_load(example)).values())
    for one in found.objects:
        validate(one)
    found.check(found.configuration(tmp_path, ELSEWHERE))


def test_readme_has_each_value() -> None:
    assert chart_readme.renewed(chart_readme.README.read_text()) == (
        chart_readme.README.read_text()
    ), "run: python -m tests.deploy.chart_readme"
    told = chart_readme.explained()

    def untold(values: dict[str, Any], path: str = "") -> set[str]:
        """Return the keys that neither have a comment nor are below or above one."""
        found: set[str] = set()
        for key, value in values.items():
            here = f"{path}{key}"
            if here not in told:
                inner = isinstance(value, dict) and value
                found |= untold(value, f"{here}.") if inner else {here}
        return found

    assert untold(yaml.safe_load((CHART / "values.yaml").read_text())) == set()


def test_schema_knows_the_values_and_no_others() -> None:
    schema = json.loads((CHART / "values.schema.json").read_text())
    del schema["properties"]["global"]  # what a chart around this one gives to all of its charts

    def compare(known: dict[str, Any], values: dict[str, Any]) -> None:
        assert known.get("additionalProperties") is False
        assert known["properties"].keys() == values.keys()
        for key, inner in known["properties"].items():
            if "properties" in inner and key != "config":  # the exporter checks that itself
                compare(inner, values[key])

    compare(schema, yaml.safe_load((CHART / "values.yaml").read_text()))


def test_versions_are_the_package_s() -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    assert chart["version"] == chart["appVersion"] == version
    (image,) = yaml.safe_load((ROOT / "deploy/kubernetes/kustomization.yaml").read_text())["images"]
    assert image["newTag"] == version


def test_helm_test_asks_what_it_says(tmp_path: Path) -> None:
    """The command of the pod that `helm test` starts, run beside a real exporter."""
    port = free_port()
    values = VALUES["one"] | {"fullnameOverride": "localhost", "service": {"port": port}}
    pod = Manifests(render(values).values()).of("Pod")["localhost-test"]
    serves, check = pod["spec"]["containers"]
    assert serves["securityContext"] == check["securityContext"] == LOCKED_DOWN
    _, *command = serves["command"]
    failed = subprocess.run([sys.executable, *command], capture_output=True, check=False)
    assert failed.returncode != 0
    program = [sys.executable, "-m", "exporter"]
    url = f"sqlite:///{tmp_path / 'results.sqlite'}"
    env = os.environ | {"CELERY_RESULT_BACKEND": url, "PYTHONPATH": str(ROOT)}
    exporter = Process([*program, f"--web.listen-address={HOST}:{port}"], tmp_path / "log", env=env)

    def healthy() -> bool:
        try:
            return bool(urlopen(f"http://{HOST}:{port}/-/healthy", timeout=1))
        except URLError:
            return False

    try:
        exporter.wait_until(healthy, "the exporter")
        subprocess.run([sys.executable, *command], capture_output=True, check=True)
    finally:
        exporter.stop(signal.SIGTERM)
    assert check["args"][0] == "check"
