"""Where the exporter listens beside ports: a unix socket, and what systemd hands over."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

from tests.acceptance.process import one_backend, refusal, running
from tests.follow import create_tables
from tests.servers.database import SQLite
from tests.servers.process import HOST, require

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

FILES = 50  # that may be open
# What systemd does before it starts a service: sd_listen_fds(3).
ACTIVATE = f"""
import os, socket, sys
port, path = socket.create_server(("{HOST}", 0)), socket.socket(socket.AF_UNIX)
path.bind(sys.argv[1])
path.listen()
os.dup2(port.fileno(), 13)
os.dup2(path.fileno(), 14)
os.dup2(13, 3)
os.dup2(14, 4)
os.environ |= {{"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": "2"}}
os.execv(sys.executable, [sys.executable, "-m", "exporter", *sys.argv[2:]])
"""


@pytest.fixture
def backend(tmp_path: Path) -> Iterator[dict[str, Any]]:
    with SQLite(tmp_path).fresh_database() as database:
        create_tables(database)
        yield one_backend(database.reader_url)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "exporter.sock"


def status(path: Path) -> str:
    """Return the status of a scrape; "000" where there was no answer."""
    command = [require("curl", "curl"), "--silent", "--output", "/dev/null", "--max-time", "20"]
    command += [
        "--write-out",
        "%{http_code}",
        "--unix-socket",
        str(path),
        "http://exporter/metrics",
    ]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout


def test_unix_socket(backend: dict[str, Any], path: Path, tmp_path: Path) -> None:
    """It outlives a kill, and is taken over; but not from who uses it."""
    flag = f"--web.listen-address=unix:{path}"
    with running(tmp_path, backend, flag) as exporter:
        exporter.wait_for_log("listening", f"unix:{path}")
        assert status(path) == "200"
        line = refusal("--celery.result-backend=sqlite:////x", flag)
        assert f"cannot listen on unix:{path}: address already in use; is another exporter" in line
        assert status(path) == "200"
        exporter.kill()
    assert path.exists()
    with running(tmp_path, backend, flag):
        assert status(path) == "200"
    assert not path.exists()


def test_systemd_socket(backend: dict[str, Any], path: Path, tmp_path: Path) -> None:
    """Ports and paths as the .socket unit has them; its files are its own."""
    program = (sys.executable, "-c", ACTIVATE, str(path))
    with running(tmp_path, backend, "--web.systemd-socket", program=program) as exporter:
        assert exporter.get("/metrics").status == 200
        assert exporter.logged("listening", f"unix:{path}")
        assert status(path) == "200"
    assert path.exists()


def test_open_files_run_out(backend: dict[str, Any], tmp_path: Path) -> None:
    """Silent connections make room then, too; and the log does not fill the disk."""
    program = ("sh", "-c", f'ulimit -n {FILES}; exec "$0" -m exporter "$@"', sys.executable)
    with running(tmp_path, backend, program=program) as exporter, contextlib.ExitStack() as stack:
        for _ in range(2 * FILES):
            host, _, port = exporter.address.partition(":")
            stack.enter_context(socket.create_connection((host, int(port))))
        for _ in range(3):
            assert exporter.get("/metrics").status == 200
            assert exporter.get("/-/healthy").status == 200
        assert len(exporter.logs()) < 20


def test_without_systemd() -> None:
    line = refusal(
        "--celery.result-backend=sqlite:////x", CELERY_RESULTS_EXPORTER_WEB_SYSTEMD_SOCKET="true"
    )
    assert "--web.systemd-socket: systemd handed over no socket; start its .socket unit" in line
