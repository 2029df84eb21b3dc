"""Write results as Celery's workers do, with Celery's own backend, until told to stop.

Each process writes its share of ROWS results, or goes on until its standard input is closed;
"writing" is printed then, when there is a first result and group. Most are tracked: STARTED,
perhaps RETRY, then the end, in the same row. Now and then it saves a group. With OPEN it begins
with that many tasks and leaves them unfinished while it works at others, ends the oldest as others
begin, and all in the end. With a ledger it survives a database that is away: it stores the same
state again until that works, and notes what is stored. With TABLES it writes those of another
family, with what stores results there.
"""

from __future__ import annotations

import json
import random
import sys
import time
from argparse import ArgumentParser, Namespace
from collections import Counter, deque
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TextIO
from uuid import uuid4

import billiard  # Celery's own multiprocessing: after its fork the backend keeps its connections
from celery import Celery
from celery.app.task import Context
from celery.result import GroupResult
from sqlalchemy import event
from sqlalchemy.engine import Engine

if TYPE_CHECKING:
    from celery.backends.database import DatabaseBackend

TASKS = [f"shop.task{number}" for number in range(5)]
QUEUES = ["orders", "reports"]
PAUSE = 0.05  # seconds until the next try
GROUP_EVERY = 20  # results


class Ledger:
    """What one process has stored, a line for each finished result, and what it met on the way."""

    def __init__(self, folder: Path, number: int) -> None:
        self.errors: Counter[str] = Counter()
        self._lines: TextIO = (folder / f"{number}.ledger").open("w", buffering=1)
        self._groups: TextIO = (folder / f"{number}.groups").open("w", buffering=1)
        self._summary = folder / f"{number}.errors"
        event.listen(Engine, "handle_error", self._note)

    def _note(self, context: object) -> None:
        """Note every error of the driver, also those that Celery gets over by itself."""
        self.errors[str(getattr(context, "original_exception", context))] += 1

    def stored(self, request: Context, state: str) -> None:
        labels = (request.task, state, request.hostname, request.delivery_info["routing_key"])
        self._lines.write("\t".join((request.id, *labels)) + "\n")

    def saved(self, group_id: str) -> None:
        self._groups.write(f"{group_id}\n")

    def close(self) -> None:
        self._lines.close()
        self._groups.close()
        self._summary.write_text(json.dumps(self.errors))


class Task(NamedTuple):
    """A task that a worker has begun, and how it will end."""

    request: Context
    states: list[str]  # to store from now on
    counts_as: str


class Writer:
    """One process: it stores results, one transaction for each state."""

    def __init__(self, backend: DatabaseBackend, number: int, options: Namespace) -> None:
        self._backend = backend
        self._number = number
        self._options = options
        self._dice = random.Random(number)  # noqa: S311
        self._ledger = Ledger(options.ledger, number) if options.ledger else None
        self._open: deque[Task] = deque()

    def write(self, rows: int, begun: billiard.Event, stop: billiard.Event) -> None:
        for row in range(rows):
            if stop.is_set():
                break
            task = self._task(row)
            if self._options.open and (row < self._options.open or row % 2):
                self._store(task.request, "STARTED", row)
                self._open.append(task)
                if len(self._open) <= self._options.open:
                    continue  # at once: the others are to find as many as that
                task = self._open.popleft()
            self._finish(task, row)
            if row % GROUP_EVERY == 0:
                self._save_group()
            begun.set()
            time.sleep(self._options.pause)
        for task in self._open:
            self._finish(task, rows)
        if self._ledger:
            self._ledger.close()

    def _task(self, row: int) -> Task:
        dice = self._dice
        queues = QUEUES if self._options.tables == "celery" else [""]  # others have no such column
        request = Context(
            id=str(uuid4()),
            task=dice.choice(TASKS),
            hostname=f"w{self._number}@host",
            retries=dice.choice([0, 0, 1]),
            delivery_info={"routing_key": dice.choice(queues)},
            args=(),
            kwargs={},
        )
        first = [] if self._options.tables == "django" else ["SUCCESS"]  # that it does not keep
        states = dice.choice([first, ["STARTED"], ["STARTED", "RETRY", "STARTED"]])
        end = dice.choice(["SUCCESS"] * 8 + ["FAILURE", "REVOKED"])
        states = [*states[: len(states) * (row % 3 > 0)], end]
        # Celery keeps the first SUCCESS, whatever another run of the task stores after it.
        return Task(request, states, "SUCCESS" if "SUCCESS" in states else end)

    def _finish(self, task: Task, row: int) -> None:
        for state in task.states:
            self._store(task.request, state, row)
        if self._ledger:
            self._ledger.stored(task.request, task.counts_as)

    def _store(self, request: Context, state: str, row: int) -> None:
        result = ValueError("no") if state in ("FAILURE", "RETRY") else row
        store = self._backend.store_result
        self._insist(partial(store, request.id, result, state, request=request))

    def _save_group(self) -> None:
        group_id = str(uuid4())

        def save() -> None:
            # It may be there, although the server went away before it could say so.
            if self._backend.restore_group(group_id) is None:
                self._backend.save_group(group_id, GroupResult(results=[]))

        self._insist(save)
        if self._ledger:
            self._ledger.saved(group_id)

    def _insist(self, call: Callable[[], object]) -> None:
        (persistently if self._ledger else once)(call)


def once(call: Callable[[], object]) -> None:
    """Try it, and fail where it does."""
    call()


def persistently(call: Callable[[], object]) -> None:
    """Try until it works, as often as the database is away."""
    while True:
        try:
            call()
        except Exception:  # noqa: BLE001 - each one is in the ledger
            time.sleep(PAUSE)
        else:
            return


def celery_backend(url: str) -> DatabaseBackend:
    """Return Celery's own."""
    app = Celery(broker="memory://", backend=url)
    app.conf.result_extended = True
    return app.backend


def jobs_backend(url: str) -> Any:
    """Return what stores the same in the tables of `tests.backends.jobs`."""
    from tests.backends.jobs import Backend  # noqa: PLC0415 - most run this file by its path

    return Backend(url)


def django_backend(url: str) -> Any:
    """Return that of django-celery-results, in a project of ours."""
    from tests.djangoshop.backend import Backend  # noqa: PLC0415 - likewise

    return Backend(url)


BACKENDS = {"celery": celery_backend, "jobs": jobs_backend, "django": django_backend}


def main() -> None:
    """Write from several processes at once."""
    parser = ArgumentParser()
    parser.add_argument("url")
    parser.add_argument("processes", type=int)
    parser.add_argument("rows", type=int, nargs="?", help="in all; else until told to stop")
    parser.add_argument("--ledger", type=Path, help="folder for what was stored")
    parser.add_argument("--pause", type=float, default=0.0, help="seconds after each result")
    parser.add_argument("--open", type=int, default=0, help="unfinished tasks of each process")
    parser.add_argument("--tables", choices=BACKENDS, default="celery", help="whose")
    options = parser.parse_args()
    backend = BACKENDS[options.tables](options.url)
    begun, stop = billiard.Event(), billiard.Event()
    share = 10**9 if options.rows is None else options.rows // options.processes
    children = [
        billiard.Process(target=Writer(backend, number, options).write, args=(share, begun, stop))
        for number in range(options.processes)
    ]
    for child in children:
        child.start()
    if options.rows is None:
        while not begun.wait(0.1) and all(child.is_alive() for child in children):
            pass
        print("writing", flush=True)  # noqa: T201 - who started it waits for this
        sys.stdin.read()
        stop.set()
    for child in children:
        child.join()
    sys.exit(any(child.exitcode for child in children))


if __name__ == "__main__":
    main()
