"""Starts of a program that share its imports, which are most of what a start costs.

One process imports it and forks for each start, as multiprocessing's forkserver does; what is
forked has arguments, environment, folder and streams of its own, and ends as any Python does.
"""

from __future__ import annotations

import atexit
import functools
import gc
import importlib
import json
import os
import selectors
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

_LARGEST = 1 << 20  # bytes of a request


class Child(Protocol):
    """What of a `subprocess.Popen` is asked for."""

    pid: int
    returncode: int | None

    def poll(self) -> int | None: ...
    def wait(self, timeout: float | None = None) -> int: ...
    def send_signal(self, how: int) -> None: ...
    def kill(self) -> None: ...


class Forked:
    """A child of the fork server."""

    def __init__(self, status: socket.socket) -> None:
        self.returncode: int | None = None
        self._status = status  # sends the pid, then how it ended
        self.pid = int(status.recv(32))
        self._pidfd = os.pidfd_open(self.pid)

    def poll(self) -> int | None:
        """Return how it ended; None: it runs."""
        try:
            return self.wait(0)
        except subprocess.TimeoutExpired:
            return None

    def wait(self, timeout: float | None = None) -> int:
        """Return how it ended; raise TimeoutExpired if it runs for longer."""
        if self.returncode is None:
            self._status.settimeout(timeout)
            try:
                self.returncode = int(self._status.recv(32))
            except (TimeoutError, BlockingIOError):
                raise subprocess.TimeoutExpired("exporter", timeout or 0) from None
            self._status.close()
            os.close(self._pidfd)
        return self.returncode

    def send_signal(self, how: int) -> None:
        """Send a signal; nothing happens if it has ended."""
        if self.poll() is None:
            signal.pidfd_send_signal(self._pidfd, how)

    def kill(self) -> None:
        """End it."""
        self.send_signal(signal.SIGKILL)


@dataclass(frozen=True)
class ForkServer:
    """What starts one program; its process ends with ours."""

    main: str  # "module:function", what is run unless another one is asked for
    preloaded: tuple[str, ...]  # modules that it imports sooner or later

    def start(
        self,
        arguments: Sequence[str],
        stdout: int,
        stderr: int,
        env: Mapping[str, str],
        folder: Path | None = None,
        main: str = "",
    ) -> Forked:
        """Start the program, in a session of its own; it writes to these files."""
        ours, status = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        request = {
            "main": main or self.main,
            "arguments": [*arguments],
            "env": {**env},
            "folder": str(folder or Path.cwd()),
        }
        with status:
            files = [stdout, stderr, status.fileno()]
            socket.send_fds(self._requests(), [json.dumps(request).encode()], files)
        return Forked(ours)

    @functools.cache  # noqa: B019 - as many as there are programs
    def _requests(self) -> socket.socket:
        ours, requests = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with requests:
            fd = requests.fileno()
            modules = [self.main.partition(":")[0], *self.preloaded]
            command = [sys.executable, "-m", __name__, str(fd), *modules]
            child = subprocess.Popen(command, pass_fds=[fd], stdin=subprocess.DEVNULL)
        atexit.register(child.wait)
        atexit.register(ours.close)  # runs before
        return ours


EXPORTER = ForkServer(
    "exporter.cli:main",
    (
        "exporter.commands.backfill",
        "exporter.commands.check",
        "exporter.commands.once",
        "exporter.commands.run",
        "exporter.commands.verify",
        "exporter.runtime.service",
        "psycopg",
        "pymysql",
        "sqlalchemy.dialects.mysql",
        "sqlalchemy.dialects.postgresql",
        "sqlalchemy.dialects.sqlite",
    ),
)
CELERY = ForkServer(
    "celery.__main__:main",
    (
        "celery.apps.worker",
        "celery.backends.database",
        "celery.bin.beat",
        "celery.bin.celery",
        "celery.bin.worker",
        "celery.concurrency.prefork",
        "celery.worker.consumer",
        "kombu.transport.redis",
        "psycopg",
        "pymysql",
        "sqlalchemy.dialects.mysql",
        "sqlalchemy.dialects.postgresql",
        "sqlalchemy.dialects.sqlite",
    ),
)


DJANGO = ForkServer(
    "django.core.management:execute_from_command_line",
    (
        "celery.app",
        "django.contrib.contenttypes.management",
        "django.core.management.commands.migrate",
        "django.db.backends.postgresql.base",
        "django.db.backends.sqlite3.base",
        "django.db.models",
        "psycopg",
    ),
)


@dataclass(frozen=True)
class _Start:
    main: str
    arguments: list[str]
    env: dict[str, str]
    folder: str
    files: list[int]  # what stdout and stderr become

    def become(self) -> None:
        """Make of this process one that has just started, but for what is imported."""
        os.setsid()
        for fd, file in enumerate(self.files, start=1):
            os.dup2(file, fd)
        os.closerange(3, os.sysconf("SC_OPEN_MAX"))
        os.environ.clear()
        os.environ.update(self.env)
        time.tzset()
        os.chdir(self.folder)
        sys.path[:0] = self.env.get("PYTHONPATH", "").split(os.pathsep)
        sys.argv[1:] = self.arguments


def _serve(requests: socket.socket) -> _Start | None:
    """Fork for each request; return in the child with what was asked for, else None in the end."""
    children: dict[int, tuple[int, socket.socket]] = {}  # by pidfd: pid, and whom to tell
    with selectors.SelectSelector() as selector:  # it has no descriptor of its own
        selector.register(requests, selectors.EVENT_READ)
        while True:
            for key, _ in selector.select():
                if key.fileobj is not requests:
                    selector.unregister(key.fd)
                    pid, status = children.pop(key.fd)
                    _, how = os.waitpid(pid, 0)
                    os.close(key.fd)
                    with status:
                        status.send(str(os.waitstatus_to_exitcode(how)).encode())
                    continue
                message, files, _, _ = socket.recv_fds(requests, _LARGEST, 3)
                if not message:
                    return None
                status = socket.socket(fileno=files.pop())
                if not (pid := os.fork()):
                    for sock in (requests, status, *(sock for _, sock in children.values())):
                        sock.detach()  # what is open is about to be closed
                    return _Start(**json.loads(message), files=files)
                status.send(str(pid).encode())
                pidfd = os.pidfd_open(pid)
                children[pidfd] = pid, status
                selector.register(pidfd, selectors.EVENT_READ)
                for file in files:
                    os.close(file)


def main() -> int | None:
    """Serve, and in each child be the program."""
    fd, *preloaded = sys.argv[1:]
    for each in preloaded:
        importlib.import_module(each)
    gc.freeze()  # what is shared stays so
    started = _serve(socket.socket(fileno=int(fd)))
    if started is None:
        return 0
    started.become()
    module, function = started.main.split(":")
    run: Callable[[], int | None] = getattr(importlib.import_module(module), function)
    return run()


if __name__ == "__main__":
    sys.exit(main())
