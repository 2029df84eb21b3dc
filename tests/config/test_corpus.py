"""good/ and bad/: adding a case is adding a file with `# expect:` (and `# env:`) lines in it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from exporter.config import loading
from exporter.config.settings import Config
from exporter.errors import ConfigError

HERE = Path(__file__).parent
GOOD, BAD = sorted(HERE.glob("good/*.yaml")), sorted(HERE.glob("bad/*.yaml"))


def comments(path: Path, word: str) -> list[str]:
    return re.findall(rf"^# {word}: (.*)$", path.read_text(encoding="utf-8"), re.MULTILINE)


def env_of(path: Path) -> dict[str, str]:
    return dict(line.split("=", 1) for line in comments(path, "env"))


def identifier(path: Path) -> str:
    return path.stem


def test_there_are_cases() -> None:
    assert len(GOOD) >= 5
    assert len(BAD) >= 20


def vars_of(settings: Config) -> dict[str, object]:
    return {"backends": settings.backends, "checkpoint": settings.checkpoint}


@pytest.mark.parametrize("path", GOOD, ids=identifier)
def test_good_file_means_what_it_says(path: Path) -> None:
    settings = loading.load(path, env_of(path))
    expectations = comments(path, "expect")
    assert expectations
    for expression, value in (line.split(" = ", 1) for line in expectations):
        # The expressions come from our own files beside this one.
        actual = eval(expression, vars_of(settings))  # noqa: S307
        assert value == repr(actual), expression


@pytest.mark.parametrize("path", BAD, ids=identifier)
def test_bad_file_has_exactly_these_faults(path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        loading.load(path, env_of(path))
    faults = [fault.removeprefix(f"{path}:").strip() for fault in caught.value.faults]
    assert sorted(comments(path, "expect")) == sorted(faults)
    assert "hunter2" not in str(caught.value)
    assert all("\n" not in fault for fault in faults)
