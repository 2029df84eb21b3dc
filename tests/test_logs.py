"""Log lines, as a process writes them to stderr."""

from __future__ import annotations

import json
import re
import subprocess
import sys

import pytest

PRELUDE = """
import logging, sys, threading, warnings
from exporter import logs, redaction
redaction.remember('hunter2"x')
logs.configure("info", FORMAT)
log = logging.getLogger("exporter.poller")
"""


def lines(log_format: str, script: str, code: int = 0) -> list[str]:
    run = subprocess.run(
        [sys.executable, "-c", PRELUDE.replace("FORMAT", repr(log_format)) + script],
        capture_output=True,
        encoding="utf-8",
        env={"PYTHONIOENCODING": "utf-8"},
        check=False,
    )
    assert code == run.returncode, run.stderr
    assert run.stdout == ""
    return run.stderr.splitlines()


SCRIPT = """
log.debug("not shown")
log.info("polled")
log.warning("poll failed: %s", 'hunter2"x', extra={"backend": "or ders", "seconds": 0.5,
    "task": 'a\\nlevel=error "x"\\x1b[31m\\x9b\\u2028\\u202e', "up": False, "table": None,
    "empty": "", "name_": "日本", "error": ValueError('hunter2"x'), "ratio": float("nan")})
log.info("%d", "no number")
try:
    raise ValueError("mysql://u:hunter3@h/d")
except ValueError:
    log.exception("oops")
"""

TIME = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z"


def test_logfmt() -> None:
    polled, failed, unfit, oops = lines("logfmt", SCRIPT)
    assert re.fullmatch(rf"time={TIME} level=info logger=exporter.poller msg=polled", polled)
    assert failed.partition(" ")[2] == (
        'level=warning logger=exporter.poller msg="poll failed: ***" backend="or ders" seconds=0.5 '
        r'task="a\\nlevel=error \"x\"\\x1b[31m\\x9b\\u2028\\u202e" up=false table=null empty="" '
        "name_=日本 error=*** ratio=nan"
    )
    assert unfit.endswith('msg="%d (its arguments do not fit)"')
    assert 'level=error logger=exporter.poller msg=oops exception="Traceback (most' in oops
    assert oops.endswith(r'\nValueError: mysql://u:***@h/d"')


def test_json() -> None:
    polled, failed, _, oops = (json.loads(line) for line in lines("json", SCRIPT))
    assert re.fullmatch(TIME, polled.pop("time"))
    assert polled == {"level": "info", "logger": "exporter.poller", "msg": "polled"}
    del failed["time"]
    assert failed == {
        "level": "warning",
        "logger": "exporter.poller",
        "msg": "poll failed: ***",
        "backend": "or ders",
        "seconds": 0.5,
        "task": r'a\nlevel=error "x"\x1b[31m\x9b\u2028\u202e',
        "up": False,
        "table": None,
        "empty": "",
        "name_": "日本",
        "error": "***",
        "ratio": "nan",
    }
    assert oops["exception"].endswith("ValueError: mysql://u:***@h/d")


@pytest.mark.parametrize("log_format", ["logfmt", "json"])
def test_lines_are_bounded_and_hold_nothing_that_a_terminal_obeys(log_format: str) -> None:
    """A traceback, too, and what a viewer makes of JSON."""
    script = """
hostile = "\\x1b]0;owned\\x07\\u202e\\udc80" + "x" * 100_000
try:
    raise ValueError(hostile)
except ValueError:
    log.exception(hostile, extra={"task": hostile})
"""
    (line,) = lines(log_format, script)
    assert len(line) < 5_000
    shown = line if log_format == "logfmt" else "".join(json.loads(line).values())
    assert shown.replace("\n", "").isprintable()
    assert shown.count("]0;owned") == 3


@pytest.mark.parametrize("log_format", ["logfmt", "json"])
def test_nothing_bypasses_them(log_format: str) -> None:
    """Warnings and crashes, of threads too, are lines like others, without passwords."""
    script = """
warnings.warn('hunter2"x')
def fail(): raise RuntimeError('hunter2"x')
thread = threading.Thread(target=fail, name="poller")
thread.start()
thread.join()
fail()
"""
    warning, thread, main = lines(log_format, script, code=1)
    for line in (warning, thread, main):
        assert "hunter2" not in line
        assert "***" in line
        assert log_format == "logfmt" or json.loads(line)
    assert "UserWarning" in warning
    assert "poller" in thread
    assert "RuntimeError" in main
