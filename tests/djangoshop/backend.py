"""The result backend of django-celery-results, for those who write with it and are no worker.

Run as a program, `python -m tests.djangoshop.backend`, it obeys a word a line: `cleanup`, or the id
of a task to forget.
"""

from __future__ import annotations

import os
import subprocess
import sys
import weakref
from functools import partial
from typing import TYPE_CHECKING, Any

from tests.djangoshop import environment

if TYPE_CHECKING:
    from collections.abc import Callable


class Backend:
    """It drops its connection after an error, as Celery's worker does between two tasks."""

    def __init__(self, url: str) -> None:
        """A process has one database."""
        os.environ.update(environment(url.removeprefix("db+")))
        from tests.djangoshop.celery import app  # noqa: PLC0415 - it needs the environment

        self._backend = app.backend

    def __getattr__(self, name: str) -> Callable[..., Any]:
        return partial(self._call, getattr(self._backend, name))

    def _call(self, method: Callable[..., Any], *given: Any, **named: Any) -> Any:
        from django.db import connections  # noqa: PLC0415 - likewise

        try:
            return method(*given, **named)
        except Exception:
            connections.close_all()
            raise


class Deleting:
    """Has another process delete results: that is of one database, and this one of many."""

    def __init__(self, url: str, expires: float) -> None:
        expiring = environment(url.removeprefix("db+"), CELERY_RESULT_EXPIRES=expires)
        self._child = subprocess.Popen(
            [sys.executable, "-m", __name__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=expiring,
            text=True,
            bufsize=1,
        )
        weakref.finalize(self, self._child.communicate)  # it ends with its input

    def forget(self, task_id: str) -> None:
        """Delete one result."""
        self._ask(task_id)

    def cleanup(self) -> None:
        """Delete what has expired."""
        self._ask("cleanup")

    def _ask(self, what: str) -> None:
        assert self._child.stdin is not None
        assert self._child.stdout is not None
        self._child.stdin.write(f"{what}\n")
        assert self._child.stdout.readline() == "done\n", what


def main() -> None:
    """Obey until nobody asks any more."""
    from django.db import close_old_connections  # noqa: PLC0415 - as above

    from tests.djangoshop.celery import app  # noqa: PLC0415

    for line in sys.stdin:
        close_old_connections()  # as before each request: the server may have gone since
        if line == "cleanup\n":
            app.backend.cleanup()
        else:
            app.backend.forget(line.strip())
        sys.stdout.write("done\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
