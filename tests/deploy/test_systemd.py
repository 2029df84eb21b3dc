"""The unit, judged by systemd itself."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from exporter.config.loading import load
from tests.servers.process import require

ROOT = Path(__file__).parents[2]
UNIT = ROOT / "deploy" / "systemd" / "celery-results-exporter.service"
PAGE = (ROOT / "docs" / "installation.md").read_text()
PROGRAM = "/opt/celery-results-exporter/bin/celery-results-exporter"
#: As systemd-analyze has it: from 0, locked up, to 10, no protection at all.
EXPOSURE = 1.1


@pytest.fixture
def unit(tmp_path: Path) -> Path:
    """The unit with a program that is installed here."""
    text = UNIT.read_text()
    assert f"ExecStart={PROGRAM} " in text
    file = tmp_path / UNIT.name
    file.write_text(text.replace(PROGRAM, sys.executable))
    return file


def test_systemd_has_nothing_to_say(unit: Path) -> None:
    done = subprocess.run(
        [require("systemd-analyze", "systemd"), "verify", unit],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_exposure_is_as_documented(unit: Path) -> None:
    done = subprocess.run(
        [require("systemd-analyze", "systemd"), "security", "--offline=true", unit],
        capture_output=True,
        text=True,
        check=True,
    )
    (exposure,) = re.findall(r"Overall exposure level for .*: ([\d.]+) ", done.stdout)
    assert float(exposure) <= EXPOSURE
    assert f"`systemd-analyze security` says {EXPOSURE}" in PAGE


def test_configuration_on_the_page_loads_with_what_systemd_sets(tmp_path: Path) -> None:
    (example,) = re.findall(r"^```yaml\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)
    (tmp_path / "config.yaml").write_text(example)
    (credential,) = re.findall(r"^#LoadCredential=(\w+):", UNIT.read_text(), re.MULTILINE)
    (tmp_path / credential).write_text("postgresql+psycopg://reader:secret@db.example/orders\n")
    variables = {
        "STATE_DIRECTORY": "/var/lib/celery-results-exporter",
        "CREDENTIALS_DIRECTORY": str(tmp_path),
    }
    config = load(tmp_path / "config.yaml", variables)
    assert config.checkpoint == Path("/var/lib/celery-results-exporter/checkpoint.sqlite")
    (backend,) = config.backends
    assert backend.url.password == "secret"  # noqa: S105 - the example's
