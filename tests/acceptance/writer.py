"""Write results as Celery's workers do, with Celery's own backend, until told to stop.

Each process writes its share of ROWS results, or goes on until its standard input is closed. Most
are tracked: STARTED, perhaps RETRY, then the end, in the same row. Now and then it saves a group.
With a ledger it survives a database that is away: it stores the same state again until that works,
and notes what is stored.
"""

from __future__ import annotations

import json
import random
import sys
import time
from argparse import ArgumentParser, Namespace
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, TextIO
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
        self._summary = folder / f"{number}.errors"
        event.listen(Engine, "handle_error", self._note)

    def _note(self, context: object) -> None:
        """Note every error of the driver, also those that Celery gets over by itself."""
        self.errors[str(getattr(context, "original_exception", context))] += 1

    def stored(self, request: Context, state: str) -> None:
        labels = (request.task, state, request.hostname, request.delivery_info["routing_key"])
        self._lines.write("\t".join((request.id, *labels)) + "\n")

    def close(self) -> None:
        self._lines.close()
        self._summary.write_text(json.dumps(self.errors))


def write(
    backend: DatabaseBackend, number: int, rows: int, stop: billiard.Event, options: Namespace
) -> None:
    """Store results, one transaction for each state."""
    ledger = Ledger(options.ledger, number) if options.ledger else None
    insist = persistently if ledger else once
    dice = random.Random(number)  # noqa: S311
    for row in range(rows):
        if stop.is_set():
            break
        request = Context(
            id=str(uuid4()),
            task=dice.choice(TASKS),
            hostname=f"w{number}@host",
            retries=dice.choice([0, 0, 1]),
            delivery_info={"routing_key": dice.choice(QUEUES)},
            args=(),
            kwargs={},
        )
        states = dice.choice([["SUCCESS"], ["STARTED"], ["STARTED", "RETRY", "STARTED"]])
        end = dice.choice(["SUCCESS"] * 8 + ["FAILURE", "REVOKED"])
        states = [*states[: len(states) * (row % 3 > 0)], end]
        for state in states:
            result = ValueError("no") if state in ("FAILURE", "RETRY") else row
            insist(partial(backend.store_result, request.id, result, state, request=request))
        if ledger:
            # Celery keeps the first SUCCESS, whatever another run of the task stores after it.
            ledger.stored(request, "SUCCESS" if "SUCCESS" in states else end)
        if row % GROUP_EVERY == 0:
            insist(lambda: backend.save_group(str(uuid4()), GroupResult(results=[])))
        time.sleep(options.pause)
    if ledger:
        ledger.close()


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


def main() -> None:
    """Write from several processes at once."""
    parser = ArgumentParser()
    parser.add_argument("url")
    parser.add_argument("processes", type=int)
    parser.add_argument("rows", type=int, nargs="?", help="in all; else until told to stop")
    parser.add_argument("--ledger", type=Path, help="folder for what was stored")
    parser.add_argument("--pause", type=float, default=0.0, help="seconds after each result")
    options = parser.parse_args()
    app = Celery(broker="memory://", backend=options.url)
    app.conf.result_extended = True
    stop = billiard.Event()
    share = 10**9 if options.rows is None else options.rows // options.processes
    children = [
        billiard.Process(target=write, args=(app.backend, number, share, stop, options))
        for number in range(options.processes)
    ]
    for child in children:
        child.start()
    if options.rows is None:
        sys.stdin.read()
        stop.set()
    for child in children:
        child.join()
    sys.exit(any(child.exitcode for child in children))


if __name__ == "__main__":
    main()
