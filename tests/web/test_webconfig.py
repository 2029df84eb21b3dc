"""Files for --web.config.file: the good ones load, the bad ones say why, where and what to do.

A bad file's first line is the line and the message that it must bring.
"""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from cryptography.hazmat.primitives import serialization

from exporter.errors import ConfigError
from exporter.web.webconfig import load
from tests.servers.process import require
from tests.web.certificates import Authority

FILES = Path(__file__).with_name("webconfig")
WARNED = {"everything": ["curve_preferences"], "http2": ["http2"]}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Certificates that the files name."""
    path = tmp_path_factory.mktemp("web")
    authority = Authority()
    (path / "ca.crt").write_text(authority.cert)
    pair = authority.pair("127.0.0.1")
    pair.write(path, "server")
    authority.pair("127.0.0.1").write(path, "other")
    key = serialization.load_pem_private_key(pair.key.encode(), None)
    encrypted = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.BestAvailableEncryption(b"hunter2"),
    )
    (path / "encrypted.key").write_bytes(encrypted)
    return path


def named(pattern: str) -> list[str]:
    return sorted(path.name.removesuffix(pattern) for path in FILES.glob(f"*{pattern}"))


@pytest.mark.parametrize("name", named(".good.yaml"))
def test_good(name: str, folder: Path) -> None:
    """For promtool, too."""
    path = Path(shutil.copy(FILES / f"{name}.good.yaml", folder))
    config = load(path)
    keys = [warning.split(": ")[1].split(" ")[0].rpartition(".")[2] for warning in config.warnings]
    assert keys == WARNED.get(name, [])
    path.write_text(yaml.safe_dump(without_what_is_newer(yaml.safe_load(path.read_text()))))
    promtool = require("promtool", "prometheus")
    run = subprocess.run(
        [promtool, "check", "web-config", str(path)], capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr


def without_what_is_newer(config: dict[str, Any] | None) -> dict[str, Any]:
    """Leave out what Debian's promtool does not know yet."""
    known = {key: value for key, value in (config or {}).items() if key != "rate_limit"}
    known.get("tls_server_config", {}).pop("client_allowed_sans", None)
    return known


@pytest.mark.parametrize("name", named(".bad.yaml"))
def test_bad(name: str, folder: Path) -> None:
    path = Path(shutil.copy(FILES / f"{name}.bad.yaml", folder))
    with pytest.raises(ConfigError) as raised:
        load(path)
    (fault,) = raised.value.faults
    expected = path.read_text().splitlines()[0].removeprefix("# ")
    assert fault.startswith(f"{path}:{expected}")
    assert "hunter2" not in fault
