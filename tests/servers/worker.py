"""Real Celery workers of the demo app, and the tasks they are sent."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from celery import Celery

from tests import djangoshop
from tests.servers.forkserver import CELERY
from tests.servers.process import Process

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from tests.servers.database import Database

DEMO = Path(__file__).parents[2] / "examples" / "demo"
QUEUES = ("orders", "reports")


@dataclass(frozen=True)
class Worker:
    """A running worker: one node with its pool of processes."""

    name: str  # the value of the worker column, e.g. "w1@host"
    app: Celery  # to send tasks and control commands; it knows the broker and no task
    process: Process

    def send(self, task: str, *args: object, queue: str = "orders", **options: Any) -> str:
        """Send a task by name and return its id."""
        return self.app.send_task(task, args, queue=queue, **options).id


#: The fixture ``celery_worker``: `celery_worker` below with broker and folder filled in.
Workers = Callable[..., AbstractContextManager[Worker]]


@contextlib.contextmanager
def celery_worker(
    database: Database,
    broker: str,
    folder: Path,
    *,
    name: str = "w1@host",
    processes: int = 2,
    extended: bool = True,
    track_started: bool = True,
    **settings: Any,
) -> Iterator[Worker]:
    """Run a worker of the demo app; in the end it has 10 s to finish what it runs.

    ``settings`` are any other of Celery's settings, e.g. ``timezone="Asia/Tokyo"``.
    """
    settings |= {"result_extended": extended, "task_track_started": track_started}
    environment = os.environ | {
        "CELERY_BROKER_URL": broker,
        "CELERY_RESULT_BACKEND": database.celery_url,
        "DEMO_SETTINGS": json.dumps(settings),
        "PYTHONPATH": str(DEMO),
    }
    with running_worker("celery_app", environment, broker, folder, name, processes) as worker:
        yield worker


@contextlib.contextmanager
def django_worker(
    database: Database, broker: str, folder: Path, *, processes: int = 2, **settings: Any
) -> Iterator[Worker]:
    """Run a worker of the Django project, with any of Django's settings."""
    settings["CELERY_BROKER_URL"] = broker
    environment = djangoshop.environment(database.owner, **settings)
    app = "tests.djangoshop.celery"
    with running_worker(app, environment, broker, folder, "w1@host", processes) as worker:
        yield worker


@contextlib.contextmanager
def running_worker(
    app: str,
    environment: Mapping[str, str],
    broker: str,
    folder: Path,
    name: str,
    processes: int,
) -> Iterator[Worker]:
    """Run a worker of an app until the end."""
    process = Process(
        [
            *(f"--app={app}", "worker"),
            f"--hostname={name}",
            f"--queues={','.join(QUEUES)}",
            f"--concurrency={processes}",
            "--loglevel=INFO",
            *("--without-gossip", "--without-mingle"),  # there is no other to talk to
        ],
        folder / f"{name}.log",
        env=environment,
        program=CELERY,
    )
    sender = Celery(broker=broker, set_as_current=False)
    try:
        process.wait_until(lambda: f"{name} ready." in process.tail(), f"worker {name}")
        yield Worker(name, sender, process)
    finally:
        sender.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.stop(signal.SIGTERM, timeout=10)
