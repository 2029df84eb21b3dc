"""Lets one poll compute at a time, while any number of them wait for their databases.

Python runs one thread at a time, and each thread that is ready wakes every switch interval to ask
for that. Two hundred polls that fall due together, after the machine was suspended or starved,
spend all there is on asking, take longer than their interval, and so never come apart again.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from sqlalchemy import Dialect, Engine, event

ASIDE = 0.05  # seconds that a poll stands aside, each time it would go on: scrapes may never cease
STUCK_AFTER = 1.0  # seconds; whoever keeps a turn for longer delays nobody any more


class _Mine(threading.local):
    turn = False  # whether this thread has it


_mine = _Mine()
_turn = threading.Lock()
_calm = threading.Event()  # nobody is in a hurry
_calm.set()
_taken = 0  # times, so far


@contextmanager
def turn() -> Iterator[None]:
    """Compute what is inside by turns with all others, but where it waits for a database."""
    _take()
    try:
        yield
    finally:
        _give()


@contextmanager
def waiting() -> Iterator[None]:
    """Let others compute what is inside another's business."""
    had = _give()
    try:
        yield
    finally:
        if had:
            _take()


@contextmanager
def urgent() -> Iterator[None]:
    """Compute what is inside at once, while polls stand aside. One thread at a time."""
    _calm.clear()
    try:
        yield
    finally:
        _calm.set()


def _take() -> None:
    """Take the turn as soon as it is free; go on without it where it stays with one thread."""
    global _taken  # noqa: PLW0603  # read without the lock, and only compared
    _calm.wait(ASIDE)
    seen = _taken
    while not _turn.acquire(timeout=STUCK_AFTER):
        if seen == _taken:
            return
        seen = _taken
    _taken += 1
    _mine.turn = True


def _give() -> bool:
    """Give the turn back; say whether this thread had it."""
    had, _mine.turn = _mine.turn, False
    if had:
        _turn.release()
    return had


def _connect(dialect: Dialect, _record: Any, args: Any, kwargs: Any) -> Any:
    with waiting():
        return dialect.connect(*args, **kwargs)


def _execute(cursor: Any, statement: str, parameters: Any, context: Any) -> bool:
    if not _mine.turn:
        return False
    with waiting():
        context.dialect.do_execute(cursor, statement, parameters, context)
    return True


# For every engine, since nothing changes for a thread that has no turn.
event.listen(Engine, "do_connect", _connect)
event.listen(Engine, "do_execute", _execute)
