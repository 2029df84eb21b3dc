"""--web.config.file with the real tools: curl, and a Prometheus that scrapes all the time."""

from __future__ import annotations

import subprocess
import time
from typing import TYPE_CHECKING, Any

import bcrypt
import pytest
import yaml

from tests.acceptance.process import Exporter, one_backend, refusal, running
from tests.follow import create_tables
from tests.servers.database import SQLite
from tests.servers.process import require, wait_until
from tests.web.certificates import Authority

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.servers.prometheus import Prometheus

RIGHT = ("--user", "prometheus:p@ss")
ROTATIONS = 5
SCRAPING = """
scrape_configs:
  - job_name: secured
    scrape_interval: 2s
    scheme: https
    basic_auth: {{username: prometheus, password: p@ss}}
    tls_config: {{ca_file: {0}/ca.crt, cert_file: {0}/client.crt, key_file: {0}/client.key}}
    static_configs: [{{targets: ["{1}"]}}]
  - job_name: without-certificate
    scrape_interval: 2s
    scheme: https
    basic_auth: {{username: prometheus, password: p@ss}}
    tls_config: {{ca_file: {0}/ca.crt}}
    static_configs: [{{targets: ["{1}"]}}]
  - job_name: without-password
    scrape_interval: 2s
    scheme: https
    tls_config: {{ca_file: {0}/ca.crt, cert_file: {0}/client.crt, key_file: {0}/client.key}}
    static_configs: [{{targets: ["{1}"]}}]
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A server's, a client's and a stranger's certificates."""
    authority = Authority()
    (tmp_path / "ca.crt").write_text(authority.cert)
    authority.pair("127.0.0.1").write(tmp_path, "server")
    authority.pair("127.0.0.1").write(tmp_path, "next")
    authority.pair("prometheus").write(tmp_path, "client")
    authority.pair("somebody").write(tmp_path, "somebody")
    Authority().pair("prometheus").write(tmp_path, "stranger")
    return tmp_path


@pytest.fixture
def exporter(folder: Path) -> Iterator[Exporter]:
    config: dict[str, Any] = {
        "tls_server_config": {
            "cert_file": "server.crt",
            "key_file": "server.key",
            "client_ca_file": "ca.crt",
            "client_auth_type": "RequireAndVerifyClientCert",
            "client_allowed_sans": ["prometheus"],
        },
        "basic_auth_users": {"prometheus": bcrypt.hashpw(b"p@ss", bcrypt.gensalt(10)).decode()},
    }
    (folder / "web.yaml").write_text(yaml.safe_dump(config))
    with SQLite(folder).fresh_database() as database:
        create_tables(database)
        backend = one_backend(database.reader_url)
        with running(folder, backend, f"--web.config.file={folder / 'web.yaml'}") as exporter:
            yield exporter


def curl(exporter: Exporter, folder: Path, *arguments: str, path: str = "/metrics") -> str:
    """Return the status, "000" where there was no answer."""
    command = [require("curl", "curl"), "--silent", "--output", "/dev/null", "--max-time", "20"]
    command += ["--cacert", str(folder / "ca.crt"), "--write-out", "%{http_code}", *arguments]
    url = f"https://{exporter.address}{path}"
    return subprocess.run([*command, url], capture_output=True, text=True, check=False).stdout


def test_curl(exporter: Exporter, folder: Path) -> None:
    def certificate(name: str) -> tuple[str, ...]:
        return "--cert", str(folder / f"{name}.crt"), "--key", str(folder / f"{name}.key")

    ours = certificate("client")
    assert curl(exporter, folder, *ours, *RIGHT) == "200"
    assert curl(exporter, folder, *ours, *RIGHT, "--tls-max", "1.2") == "200"
    assert curl(exporter, folder, *ours, *RIGHT, "--tlsv1.3") == "200"
    assert curl(exporter, folder, *ours, "--user", "prometheus:wrong") == "401"
    assert curl(exporter, folder, *ours, "--user", "nobody:p@ss") == "401"
    assert curl(exporter, folder, *ours) == "401"
    assert curl(exporter, folder, *ours, path="/-/healthy") == "200"
    for stranger in ((), certificate("stranger"), certificate("somebody")):
        assert curl(exporter, folder, *stranger, *RIGHT) == "000"


def test_prometheus_misses_no_scrape_while_certificates_change(
    exporter: Exporter, folder: Path, prometheus: Callable[[str], Prometheus]
) -> None:
    watching = prometheus(SCRAPING.format(folder, exporter.address))
    up = {"secured": 1, "without-certificate": 0, "without-password": 0}

    def found() -> dict[str, float]:
        return {dict(of)["job"]: value for of, value in watching.query("up").items()}

    wait_until(lambda: found() == up, f"{up}")
    for _ in range(ROTATIONS):
        for suffix in ("crt", "key"):  # not at once: as people copy them
            server, after = folder / f"server.{suffix}", folder / f"next.{suffix}"
            old = server.read_bytes()
            server.write_bytes(after.read_bytes())
            after.write_bytes(old)
            time.sleep(0.7)
        time.sleep(1.2)
    exporter.wait_for_log("the web configuration was read again")
    (least,) = watching.query('min_over_time(up{job="secured"}[5m])').values()
    (scrapes,) = watching.query('count_over_time(up{job="secured"}[5m])').values()
    assert least == 1
    assert scrapes >= ROTATIONS


def test_bad_file_is_refused_at_start(tmp_path: Path) -> None:
    path = tmp_path / "web.yaml"
    path.write_text("basic_auth_users:\n  alice: hunter2\n")
    url = f"--celery.result-backend=sqlite:///{tmp_path}/x.sqlite"
    line = refusal(url, f"--web.config.file={path}")
    assert f"{path}:2: basic_auth_users.alice: is no bcrypt hash" in line
    assert "hunter2" not in line
    missing = refusal(url, f"--web.config.file={tmp_path}/none.yaml")
    assert missing.endswith("none.yaml: cannot be read: No such file or directory")
