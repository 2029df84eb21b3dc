"""The Dockerfiles, as far as reading tells; `make image` builds the images and runs them."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DOCKERFILES = (ROOT / "Dockerfile", ROOT / "deploy" / "compose" / "shop.Dockerfile")
DOCKERFILE = DOCKERFILES[0].read_text()
HADOLINT = Path(sys.executable).with_name("hadolint")


@pytest.mark.skipif(not HADOLINT.exists(), reason="hadolint has no wheel for this platform")
def test_hadolint_has_nothing_to_say() -> None:
    done = subprocess.run([HADOLINT, *DOCKERFILES], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")


def test_everything_the_package_is_built_from_reaches_the_build() -> None:
    """.dockerignore lets through what pyproject.toml names and the Dockerfile needs."""
    let_through = set(re.findall(r"^!(.+)$", (ROOT / ".dockerignore").read_text(), re.MULTILINE))
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert let_through == {
        "celery_results_exporter",
        "constraints.txt",
        "exporter",
        "pyproject.toml",
        project["readme"],
        *project["license-files"],
    }
    assert all((ROOT / name).exists() for name in let_through)


def test_every_extra_is_installed() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    (extras,) = re.findall(r'"\.\[(.*)\]"', DOCKERFILE)
    assert set(extras.split(",")) == set(project["optional-dependencies"])
