"""The short-lived process in which user code is loaded: ``… celery shop.celery:app "" PIPE``."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

from celery_results_exporter import celeryapp
from celery_results_exporter.answers import answered, send
from celery_results_exporter.celeryapp import hand_over

_ENDS_AFTER = 60  # seconds; whoever asked has ended us long before, if it still runs


def main(kind: str, name: str, database: str, end: str) -> None:
    """Read what is asked for, and write it to the pipe."""
    pipe = int(end)
    signal.alarm(_ENDS_AFTER)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())  # the exporter blocks some for itself
    os.set_inheritable(pipe, False)  # noqa: FBT003 - the only argument there is
    sys.argv[1:] = []  # the code may look there
    # Only now, as Celery does it: a project's own celery.py is not to be taken for Celery.
    sys.path.insert(0, str(Path.cwd()))

    if kind == "celery":
        hand_over(lambda: celeryapp.named(name), pipe)
    else:
        send(answered(lambda: celeryapp.of_project(name, database)), pipe)


if __name__ == "__main__":
    main(*sys.argv[1:])
