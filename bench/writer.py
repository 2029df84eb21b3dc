"""``python -m bench.writer URL SHAPE RATE``: insert RATE rows a second, until stopped.

Each row is a transaction of its own, as Celery's workers have it. A process of its own, so that
it takes no turn of the interpreter of the one that measures.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

from sqlalchemy import create_engine

from bench.tables import Shape, append
from tests.servers.database import Database

BEAT = 0.02  # seconds


def main(url: str, shape: Shape, rate: float) -> None:
    """Write until killed."""
    engine = create_engine(url)
    row = shape.rows
    begun = time.monotonic()
    with engine.connect() as connection:
        while True:
            while row - shape.rows < rate * (time.monotonic() - begun):
                row += 1
                append(connection, shape, row, row)
                connection.commit()
            print(row, time.time(), flush=True)
            time.sleep(BEAT)


@contextmanager
def writing(
    database: Database, shape: Shape, rate: float, log: Path | None = None
) -> Iterator[None]:
    """Write in another process until the end of the block; log the last row and time of beats."""
    url = database.owner.render_as_string(hide_password=False)
    command = [sys.executable, "-m", "bench.writer", url, json.dumps(asdict(shape)), str(rate)]
    with (
        (log or Path(os.devnull)).open("wb") as output,
        subprocess.Popen(command, stdout=output) as child,
    ):
        try:
            yield
            if child.poll() is not None:
                raise RuntimeError("the writer has ended")
        finally:
            child.kill()


if __name__ == "__main__":
    main(sys.argv[1], Shape(**json.loads(sys.argv[2])), float(sys.argv[3]))
