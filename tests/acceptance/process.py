"""The exporter as its users have it: a process with a configuration, seen from outside."""

from __future__ import annotations

import contextlib
import http.client
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, BinaryIO

import pytest
import yaml
from sqlalchemy import URL

from tests.scrape import Scrape
from tests.servers import forkserver
from tests.servers.process import HOST
from tests.soak.sizes import LONG

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path

    from tests.servers.forkserver import Child

EXPORTER = (sys.executable, "-m", "exporter")
QUICK_LEASES = (sys.executable, "-m", "tests.acceptance.quick_leases")
QUICK_LOOKS = (sys.executable, "-m", "tests.acceptance.quick_looks")
FORKED: dict[tuple[str, ...], str] = {
    EXPORTER: forkserver.EXPORTER.main,
    QUICK_LEASES: "tests.acceptance.quick_leases:main",
    QUICK_LOOKS: "tests.acceptance.quick_looks:main",
}
OPENMETRICS = "application/openmetrics-text; version=1.0.0"
PROMISED_END = 5.0  # seconds from the signal to the end
#: Seconds between polls: `make test` shares two cores with other tests, `make soak` does not.
EVERY = 0.1 if LONG else 0.2
FAST = {"poll_interval": f"{EVERY * 1000:g}ms", "first_zero": "0s", "start": "beginning"}
_PREFIX = "celery-results-exporter: error: "


@dataclass(frozen=True)
class Answer:
    """What the web server answered."""

    status: int
    body: str


class Exporter:
    """A running exporter."""

    def __init__(self, child: Child, stdout: Path, stderr: Path) -> None:
        self._child = child
        self._stdout = stdout
        self._stderr = stderr
        self.address = ""

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._child.pid

    def is_running(self) -> bool:
        """Whether it has not ended yet."""
        return self._child.poll() is None

    def logs(self) -> list[str]:
        """Return what it has logged so far, by line."""
        return self._stderr.read_text().splitlines()

    def printed(self) -> str:
        """Return everything it has written to either stream so far."""
        return self._stdout.read_text() + self._stderr.read_text()

    def logged(self, *parts: str) -> str:
        """Return the first line with all these parts, or an empty string."""
        return next((line for line in self.logs() if all(part in line for part in parts)), "")

    def wait_for_log(self, *parts: str, timeout: float = 30.0) -> str:
        """Wait for a line with all these parts and return it."""
        self.wait_until(lambda: self.logged(*parts), f"a log line with {parts}", timeout)
        return self.logged(*parts)

    def get(self, path: str, accept: str = "*/*") -> Answer:
        """Ask its web server."""
        connection = http.client.HTTPConnection(self.address, timeout=10)
        with contextlib.closing(connection):
            connection.request("GET", path, headers={"Accept": accept})
            answer = connection.getresponse()
            return Answer(answer.status, answer.read().decode())

    def scrape(self) -> Scrape:
        """Return the metrics of this moment."""
        answer = self.get("/metrics", "text/plain")
        assert answer.status == 200
        return Scrape(answer.body)

    def wait_until(self, condition: Callable[[], object], what: str, timeout: float = 30.0) -> None:
        """Return once the condition holds; fail with the logs when it does not, or it ends."""
        deadline = time.monotonic() + timeout
        while not condition():
            ended = self._child.poll() is not None
            if ended or time.monotonic() > deadline:
                why = f"ended with {self._child.returncode}" if ended else f"{timeout:g} s passed"
                pytest.fail(f"{why} before {what}:\n" + "\n".join(self.logs()[-20:]))
            time.sleep(0.1)

    def wait_for(self, name: str, value: float, timeout: float = 30.0, **labels: str) -> None:
        """Wait for a sample to have this value."""
        self.wait_until(
            lambda: self.scrape().value(name, **labels) == value, f"{name} is {value}", timeout
        )

    def poll_again(self, times: int = 3) -> None:
        """Wait for that many more polls of each backend, so that what they change has changed."""
        wanted = {key: n + times for key, n in self.polls().items()}
        self.wait_until(
            lambda: all(n >= wanted[key] for key, n in self.polls().items()), f"{times} polls", 30
        )

    def polls(self) -> Counter[tuple[str, ...]]:
        """Return the polls of each backend so far."""
        return self.scrape().sums("celery_backend_polls_total", "backend")

    def send(self, how: signal.Signals) -> None:
        """Send it a signal."""
        self._child.send_signal(how)

    def stop(self, how: signal.Signals = signal.SIGTERM, within: float = PROMISED_END) -> None:
        """Stop it as an orchestrator does, and insist that it ends well in time."""
        self.send(how)
        assert self.ended(within) == 0, self.printed()

    def ended(self, within: float = PROMISED_END) -> int:
        """Wait for its end, and return its exit code."""
        try:
            return self._child.wait(within)
        except subprocess.TimeoutExpired:
            pytest.fail(f"it did not end within {within:g} s:\n" + "\n".join(self.logs()[-20:]))

    def autopsy(self) -> str:
        """End it with the stack of each of its threads, and return its last lines."""
        self._child.send_signal(signal.SIGABRT)
        self._child.send_signal(signal.SIGCONT)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._child.wait(5)
        return "\n".join(self.logs()[-200:])

    def kill(self) -> None:
        """End it whatever it does."""
        self._child.kill()
        self._child.wait()


@contextlib.contextmanager
def running(
    folder: Path,
    config: Mapping[str, Any] | None,
    *flags: str,
    tracebacks: int | None = 0,
    program: Sequence[str] = EXPORTER,
    **env: str,
) -> Iterator[Exporter]:
    """Run an exporter until the end of the test; it must then end well, without a traceback."""
    with beginning(folder, config, *flags, program=program, **env) as exporter:
        listening = exporter.wait_for_log("listening")
        found = re.search(rf"{re.escape(HOST)}:\d+", listening)
        assert found, listening
        exporter.address = found[0]
        yield exporter
        if exporter.is_running():
            exporter.stop(within=30)
    assert tracebacks in (None, exporter.printed().count("Traceback"))


@contextlib.contextmanager
def beginning(
    folder: Path,
    config: Mapping[str, Any] | None,
    *flags: str,
    program: Sequence[str] = EXPORTER,
    **env: str,
) -> Iterator[Exporter]:
    """Begin an exporter, which may not serve yet, and end it with the test.

    `config`: what is in its file; None: it is given none.
    """
    file = [f"--config.file={write(folder, config)}"] if config is not None else []
    stdout, stderr = folder / "exporter.out", folder / "exporter.err"
    arguments = [*file, f"--web.listen-address={HOST}:0", *flags]
    with stdout.open("wb") as out, stderr.open("wb") as err:
        child = start(program, arguments, out, err, env)
    exporter = Exporter(child, stdout, stderr)
    try:
        yield exporter
    except BaseException:
        print(exporter.autopsy())  # noqa: T201 - shown beside the failure
        raise
    finally:
        exporter.kill()


def run(*arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
    """Run the exporter to its end."""
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        child = start(EXPORTER, arguments, out, err, env)
        try:
            code = child.wait(30)
        finally:
            child.kill()
        out.seek(0)
        err.seek(0)
        said = out.read().decode(), err.read().decode()
    return subprocess.CompletedProcess([*EXPORTER, *arguments], code, *said)


def start(
    program: Sequence[str],
    arguments: Sequence[str],
    stdout: BinaryIO,
    stderr: BinaryIO,
    env: Mapping[str, str],
) -> Child:
    """Start a program; the exporter from the fork server, unless Python is told something, too."""
    main = FORKED.get((*program,))
    if main and not any(name.startswith("PYTHON") for name in env):
        files = stdout.fileno(), stderr.fileno()
        return forkserver.EXPORTER.start(arguments, *files, environment(env), main=main)
    return subprocess.Popen(
        [*program, *arguments],
        stdin=subprocess.DEVNULL,
        stdout=stdout,
        stderr=stderr,
        env=environment(env),
    )


def refusal(*arguments: str, **env: str) -> str:
    """Run what must be refused with exit code 2, and return the one line that says why."""
    ended = run(*arguments, f"--web.listen-address={HOST}:0", **env)
    assert (ended.returncode, ended.stdout) == (2, ""), ended
    (line,) = ended.stderr.splitlines()
    assert line.startswith(_PREFIX)
    return line


def write(folder: Path, config: Mapping[str, Any]) -> Path:
    """Write the configuration file."""
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(dict(config)))
    return path


def one_backend(result_backend: str, **settings: Any) -> dict[str, Any]:
    """Return a configuration of one backend that is read quickly and from its beginning."""
    backend = {"name": "shop", "result_backend": result_backend}
    return {"backends": [backend | FAST | settings]}


def without_password(url: URL) -> str:
    """Return the URL as it stands beside a password that is given otherwise."""
    return URL.create(
        url.drivername, url.username, None, url.host, url.port, url.database
    ).render_as_string()


def environment(more: Mapping[str, str]) -> dict[str, str]:
    """Return the tester's environment without what would configure Celery or the exporter."""
    return {k: v for k, v in os.environ.items() if not k.startswith("CELERY")} | dict(more)
