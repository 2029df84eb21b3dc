"""A server process: started, waited for, stopped, started again on the same port and folder."""

from __future__ import annotations

import contextlib
import os
import pwd
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from abc import ABC, abstractmethod
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn, Self

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from tests.servers.forkserver import Child, ForkServer

HOST = "127.0.0.1"


def require(program: str, package: str, *folders: Path) -> str:
    """Path of a program. Without it the test is skipped, or fails where REQUIRE_SERVERS is set."""
    path = os.pathsep.join([*map(str, folders), os.environ["PATH"], "/usr/local/sbin", "/usr/sbin"])
    found = shutil.which(program, path=path)
    if found is None:
        missing(f"{program} is not installed (Debian package {package})")
    return found


def missing(what: str) -> NoReturn:
    """Skip the test for want of something, or fail it where REQUIRE_SERVERS is set."""
    if os.environ.get("REQUIRE_SERVERS"):
        pytest.fail(f"REQUIRE_SERVERS is set and {what}")
    pytest.skip(f"{what}: run scripts/install-system-packages")


def free_port() -> int:
    """Return a free port below those the kernel lends to clients.

    So none of them takes it while a test has the server stopped.
    """
    while True:
        port = 20000 + secrets.randbelow(12000)
        with socket.socket() as probe:
            try:
                probe.bind((HOST, port))
            except OSError:
                continue
            return port


def wait_until(condition: Callable[[], object], what: str, timeout: float = 30.0) -> None:
    """Return once the condition holds; fail the test when it does not in time."""
    deadline = time.monotonic() + timeout
    while not condition():
        if time.monotonic() > deadline:
            pytest.fail(f"waited {timeout:g} s in vain for {what}")
        time.sleep(0.05)


class Process:
    """A child process in a session of its own, with everything it prints in a file."""

    def __init__(
        self,
        command: Sequence[str],
        log: Path,
        *,
        env: Mapping[str, str] | None = None,
        user: str | None = None,
        program: ForkServer | None = None,
    ) -> None:
        """`program`: what starts the command, which is its arguments then."""
        self.log = log
        self._child: Child
        with log.open("ab") as output:
            if program:
                files = output.fileno(), output.fileno()
                self._child = program.start(command, *files, env or os.environ, log.parent)
                return
            self._child = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd=log.parent,
                env=env,
                start_new_session=True,
                user=user,
                group=pwd.getpwnam(user).pw_gid if user else None,
                extra_groups=[] if user else None,
            )

    def wait_until(self, ready: Callable[[], object], what: str, timeout: float = 30.0) -> None:
        """Wait for the process to be ready; when it ends or is late, fail with its last lines."""

        def ready_or_dead() -> bool:
            if self._child.poll() is not None:
                pytest.fail(f"{what} ended with {self._child.returncode}:\n{self.tail()}")
            return bool(ready())

        try:
            wait_until(ready_or_dead, what, timeout)
        except BaseException:
            self.stop(signal.SIGKILL)
            raise

    def stop(self, how: signal.Signals, timeout: float = 30.0) -> None:
        """Signal the process and wait for its end; then end what is left of its session."""
        self._child.send_signal(how)
        try:
            self._child.wait(timeout)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._child.pid, signal.SIGKILL)
            self._child.wait()

    def tail(self, lines: int = 20) -> str:
        """Return the last lines of what the process printed."""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])


class Server(ABC):
    """A server with a folder and a port of its own; a context manager."""

    name: str
    stop_signal = signal.SIGTERM
    user: str | None = None

    def __init__(self) -> None:
        self.port = free_port()
        self.folder = Path(tempfile.mkdtemp(prefix=f"celery-results-exporter-{self.name}-"))
        self._process: Process | None = None

    @abstractmethod
    def prepare(self) -> None:
        """Fill the new folder."""

    @abstractmethod
    def command(self) -> list[str]:
        """Return what starts the server in the foreground."""

    @abstractmethod
    def ready(self) -> bool:
        """Tell whether the server answers."""

    def start(self) -> None:
        """Start the server and wait until it answers; does nothing when it runs already."""
        if self._process is None:
            process = Process(self.command(), self.folder / "log", user=self.user)
            process.wait_until(self.ready, self.name)
            self._process = process

    def stop(self, how: signal.Signals | None = None) -> None:
        """Stop the server, keeping port and data; SIGKILL makes it an accident."""
        if self._process is not None:
            self._process.stop(how or self.stop_signal)
            self._process = None

    def __enter__(self) -> Self:
        try:
            self.prepare()
            self.start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
        shutil.rmtree(self.folder)


def accepts_connections(port: int) -> bool:
    """Tell whether something listens on the port."""
    try:
        socket.create_connection((HOST, port), timeout=1).close()
    except OSError:
        return False
    return True
