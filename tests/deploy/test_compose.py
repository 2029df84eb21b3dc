"""The demo for Compose: read by Compose itself, each service's configuration by its own checker."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml
from sqlalchemy.engine import make_url

from exporter import __version__
from exporter.config.loading import load
from tests.deploy.test_image import DOCKERFILES
from tests.servers.process import require

if TYPE_CHECKING:
    from exporter.config.settings import Config

DEPLOY = Path(__file__).parents[2] / "deploy"
FOLDER = DEPLOY / "compose"
COMPOSE = Path(sys.executable).with_name("docker-compose")

pytestmark = pytest.mark.skipif(
    not COMPOSE.exists(), reason="Compose has no package for this platform"
)


@cache
def services() -> dict[str, Any]:
    """Return the services as Compose understands them: aliases resolved, paths absolute."""
    done = subprocess.run(
        [COMPOSE, "--file", FOLDER / "compose.yaml", "config", "--format=json"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stderr == ""
    found: dict[str, Any] = json.loads(done.stdout)["services"]
    return found


def mounts(service: str) -> dict[str, str]:
    """Return what is mounted where, of files and folders of the repository."""
    volumes = services()[service].get("volumes", [])
    return {one["target"]: one["source"] for one in volumes if one["type"] == "bind"}


def laid_out(service: str, folder: Path) -> Path:
    """Lay out what a service has mounted, and return the file that its --config.file names."""
    for target, source in mounts(service).items():
        (folder / target[1:]).parent.mkdir(parents=True, exist_ok=True)
        (folder / target[1:]).symlink_to(source)
    (flag,) = (one for one in services()[service]["command"] if one.startswith("--config.file="))
    return folder / flag.removeprefix("--config.file=/")


def configuration(folder: Path) -> Config:
    return load(laid_out("exporter", folder), {})


def test_services_are_locked_down() -> None:
    for name, service in services().items():
        assert service["read_only"] is True, name
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert "privileged" not in service, name
        for port in service.get("ports", []):
            assert port["host_ip"] == "127.0.0.1", name


def test_images_have_a_version() -> None:
    for name, service in services().items():
        _, _, tag = service["image"].rpartition(":")
        assert re.match(r"v?\d+\.\d+|\d+-", tag), name
    assert services()["exporter"]["image"] == f"celery-results-exporter:{__version__}"


def test_files_that_are_mounted_are_there() -> None:
    for name, service in services().items():
        for volume in service.get("volumes", []):
            if volume["type"] == "bind":
                assert Path(volume["source"]).exists(), name
                assert volume["read_only"] is True, name
        if "build" in service:
            context = Path(service["build"]["context"])
            assert (context / service["build"]["dockerfile"]).resolve() in DOCKERFILES


def test_exporter_reads_what_the_worker_writes_with_an_account_that_only_reads(
    tmp_path: Path,
) -> None:
    (backend,) = configuration(tmp_path).backends
    written = make_url(
        services()["worker"]["environment"]["CELERY_RESULT_BACKEND"].removeprefix("db+")
    )
    assert (backend.url.host, backend.url.database) == (written.host, written.database)
    sql = (FOLDER / "postgres" / "reader.sql").read_text()
    assert f"CREATE ROLE {backend.url.username} LOGIN PASSWORD '{backend.url.password}'" in sql
    assert f"FOR ROLE {written.username} " in sql
    postgres = services()["postgres"]["environment"]
    assert (postgres["POSTGRES_USER"], postgres["POSTGRES_DB"]) == (
        written.username,
        written.database,
    )
    checkpoint = configuration(tmp_path / "again").checkpoint
    assert isinstance(checkpoint, Path)
    kept = [one["target"] for one in services()["exporter"]["volumes"] if one["type"] == "volume"]
    assert kept == [str(checkpoint.parent)]


def test_promtool_accepts_prometheus_with_its_rules(tmp_path: Path) -> None:
    file = laid_out("prometheus", tmp_path)
    promtool = require("promtool", "prometheus")
    done = subprocess.run(
        [promtool, "check", "config", file], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    config, plain = (
        yaml.safe_load(path.read_text())
        for path in (file, DEPLOY / "prometheus" / "prometheus.yml")
    )
    assert config["rule_files"] == [f"rules/{name}" for name in plain["rule_files"]]
    assert config["global"] == plain["global"]
    (job,) = config["scrape_configs"]
    assert job["static_configs"] == [{"targets": ["exporter:10224"]}]
    assert "exporter" in services()
    (managers,) = config["alerting"]["alertmanagers"]
    assert managers["static_configs"] == [{"targets": ["alertmanager:9093"]}]


def test_amtool_accepts_alertmanager(tmp_path: Path) -> None:
    amtool = require("amtool", "prometheus-alertmanager")
    done = subprocess.run(
        [amtool, "check-config", laid_out("alertmanager", tmp_path)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_grafana_finds_prometheus_and_the_dashboards() -> None:
    """There is no checker of Grafana's; the fields are those of its manual on provisioning."""
    datasources = yaml.safe_load((FOLDER / "grafana" / "datasources.yaml").read_text())
    (source,) = datasources["datasources"]
    assert source["url"] == "http://prometheus:9090"
    scrapes = yaml.safe_load((FOLDER / "prometheus.yml").read_text())["global"]["scrape_interval"]
    assert source["jsonData"]["timeInterval"] == scrapes
    dashboards = yaml.safe_load((FOLDER / "grafana" / "dashboards.yaml").read_text())
    (provider,) = dashboards["providers"]
    folder = mounts("grafana")[provider["options"]["path"]]
    assert list(Path(folder).glob("*.json"))


def test_the_shop_has_the_versions_that_are_tested() -> None:
    pinned = re.findall(r'"(\S+?)(?:\[\w+\])?==(\S+)"', (FOLDER / "shop.Dockerfile").read_text())
    tested = (FOLDER.parents[1] / "constraints.txt").read_text().splitlines()
    assert len(pinned) == 4
    assert {f"{name}=={version}" for name, version in pinned} <= set(tested)
