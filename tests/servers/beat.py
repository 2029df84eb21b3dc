"""A real celery beat whose schedules are in a database, and a worker for what it sends."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sqlalchemy import URL

from tests.servers.forkserver import CELERY
from tests.servers.process import Process

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

PROJECT = Path(__file__).parent / "calculator"
DJANGO = "django_celery_beat.schedulers:DatabaseScheduler"
SQLALCHEMY = "sqlalchemy_celery_beat.schedulers:DatabaseScheduler"
ENGINES = {"sqlite": "sqlite3", "postgresql": "postgresql", "mysql": "mysql"}


@dataclass(frozen=True)
class Calculator:
    """The project in `calculator`, with its own databases."""

    folder: Path  # for logs
    database: URL  # of Django
    broker: str = "memory://"
    results: str = ""  # result_backend
    settings: Mapping[str, Any] | None = None  # of Celery

    @property
    def environment(self) -> dict[str, str]:
        url = self.database
        database = {
            "ENGINE": f"django.db.backends.{ENGINES[url.get_backend_name()]}",
            "NAME": url.database,
            "USER": url.username or "",
            "PASSWORD": url.password or "",
            "HOST": url.host or "",
            "PORT": str(url.port or ""),
        }
        return os.environ | {
            "CALCULATOR_DATABASE": json.dumps(database),
            "CALCULATOR_SETTINGS": json.dumps(self.settings or {}),
            "CELERY_BROKER_URL": self.broker,
            **({"CELERY_RESULT_BACKEND": self.results} if self.results else {}),
            "DJANGO_SETTINGS_MODULE": "settings",
            "PYTHONPATH": str(PROJECT),
        }

    def schedule(self, *entries: Mapping[str, Any]) -> None:
        """Make the tables and these entries."""
        self.run("schedule", stdin=json.dumps(entries))

    def run(self, module: str, *arguments: str, stdin: str = "") -> None:
        """Run one of the project's scripts to its end."""
        subprocess.run(
            [sys.executable, "-m", module, *arguments],
            input=stdin,
            env=self.environment,
            text=True,
            check=True,
            timeout=60,
        )

    @contextlib.contextmanager
    def beat(self, scheduler: str = DJANGO) -> Iterator[Process]:
        """Run beat; in the end it writes what it has sent."""
        pid = self.folder / "beat.pid"
        command = ("beat", f"--scheduler={scheduler}", f"--pidfile={pid}", "--loglevel=INFO")
        with self._celery("beat", command, "beat: Starting...") as process:
            yield process

    @contextlib.contextmanager
    def worker(self) -> Iterator[Process]:
        """Run a worker with one process."""
        command = ("worker", "--hostname=w1@host", "--concurrency=1", "--loglevel=INFO")
        with self._celery("worker", command, "w1@host ready.") as process:
            yield process

    @contextlib.contextmanager
    def _celery(self, name: str, command: Iterable[str], ready: str) -> Iterator[Process]:
        log = self.folder / f"{name}.log"
        log.unlink(missing_ok=True)
        arguments = ("--app=celery_app", *command)
        process = Process(arguments, log, env=self.environment, program=CELERY)
        try:
            process.wait_until(lambda: ready in log.read_text(), name)
            yield process
        finally:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.stop(signal.SIGTERM, timeout=10)
