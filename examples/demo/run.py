"""Run the demo: a Celery worker, beat, and the exporter that reads their results.

Everything they write goes to a temporary folder, which is removed at the end.
CELERY_RESULTS_EXPORTER_WEB_LISTEN_ADDRESS says where the exporter listens.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.request import urlopen

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

HERE = Path(__file__).resolve().parent
LISTEN = "CELERY_RESULTS_EXPORTER_WEB_LISTEN_ADDRESS"
PATIENCE = 3.0  # seconds; a worker would rather finish its tasks first
CELERY = ("celery", "--app=celery_app")
PARTS = {
    "worker": (
        *CELERY,
        "worker",
        "--hostname=shop@%h",
        "--queues=orders,reports",
        "--concurrency=2",
        "--loglevel=INFO",
        # What workers tell each other would only fill the folder that is the broker here.
        "--without-gossip",
        "--without-mingle",
        "--without-heartbeat",
    ),
    "beat": (*CELERY, "beat", "--schedule=beat", "--loglevel=INFO"),
    "exporter": ("exporter", f"--config.file={HERE / 'config.yaml'}"),
}


def main() -> int:
    """Start the parts, say where to look, wait; end them all and leave nothing behind."""
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: stop.set())
    children: dict[str, subprocess.Popen[bytes]] = {}
    with tempfile.TemporaryDirectory(prefix="celery-demo-") as name:
        folder = Path(name)
        (folder / "queue").mkdir()
        (folder / "control").mkdir()
        env = environment(folder)
        try:
            for part, arguments in PARTS.items():
                children[part] = start(part, arguments, folder, env)
            return watch(children, folder, env[LISTEN], stop)
        finally:
            end(children.values())


def environment(folder: Path) -> dict[str, str]:
    """Return the parts' environment: nobody's broker or backend but the demo's own."""
    env = {name: value for name, value in os.environ.items() if not name.startswith("CELERY_")}
    env["DEMO_DIR"] = str(folder)
    env["PYTHONPATH"] = str(HERE)
    env["TMPDIR"] = str(folder)  # through which kombu moves the messages it takes
    env[LISTEN] = os.environ.get(LISTEN, "127.0.0.1:10224")
    return env


def start(
    part: str, arguments: Iterable[str], folder: Path, env: dict[str, str]
) -> subprocess.Popen[bytes]:
    """Start a part in a session of its own, so that Ctrl-C reaches only us."""
    with (folder / f"{part}.log").open("wb") as log:
        return subprocess.Popen(  # noqa: S603 - our own programs
            [sys.executable, "-m", *arguments],
            cwd=folder,
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


def watch(
    children: dict[str, subprocess.Popen[bytes]], folder: Path, address: str, stop: threading.Event
) -> int:
    """Say where to look once the exporter answers; return when told to stop or a part ends."""
    url = "http://" + (address if address.rpartition(":")[0] else f"127.0.0.1{address}")
    say("The demo is starting; Ctrl-C ends it.")
    announced = False
    while not stop.wait(0.2):
        for part, child in children.items():
            if child.poll() is not None:
                say(f"The {part} ended with {child.returncode}. The end of its log:")
                say(tail(folder / f"{part}.log"))
                return 1
        if not announced and answers(f"{url}/-/healthy"):
            say(f"Status page: {url}/")
            say(f"Metrics:     {url}/metrics")
            say(f"Logs:        {folder}")
            announced = True
    say("Stopping.")
    return 0


def answers(url: str) -> bool:
    """Tell whether the URL answers 200."""
    try:
        with urlopen(url, timeout=1):  # noqa: S310 - our own exporter
            return True
    except OSError:
        return False


def tail(log: Path, lines: int = 20) -> str:
    """Return the last lines of a log."""
    return "\n".join(log.read_text(errors="replace").splitlines()[-lines:])


def end(children: Collection[subprocess.Popen[bytes]]) -> None:
    """End the parts and whatever they started: politely, then surely."""
    for child in children:
        child.terminate()
    for child in children:
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.wait(PATIENCE)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGKILL)
        child.wait()


def say(text: str) -> None:
    """Print at once, also into a pipe."""
    print(text, flush=True)  # noqa: T201 - for the person at the terminal


if __name__ == "__main__":
    sys.exit(main())
