"""Tells others how a thread gets on with its database: when it waits, and that it goes on."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from sqlalchemy import Dialect, Engine, event

Tell = Callable[[int], None]  # takes by how many threads more compute now: -1 or 1
Mind = Callable[[float], None]  # takes how many seconds the wait that now begins may take


class _Mine(threading.local):
    tell: Tell | None = None  # nobody shares with this thread, or it waits already
    mind: Mind | None = None
    limit = 0.0  # seconds that one wait may take


_mine = _Mine()


def share(tell: Tell) -> None:
    """Let `tell` know whenever this thread begins to wait, and when it has waited."""
    _mine.tell = tell


@contextmanager
def minded(mind: Mind, limit: float) -> Iterator[None]:
    """Let `mind` know whenever this thread turns to a database, and for how long at most."""
    before, _mine.mind = _mine.mind, mind
    try:
        with limited(limit):
            yield
    finally:
        _mine.mind = before


@contextmanager
def limited(seconds: float) -> Iterator[None]:
    """Let each wait inside take so long, the one for one's turn, too."""
    before, _mine.limit = _mine.limit, seconds
    _goes_on()
    try:
        yield
    finally:
        _mine.limit = before
        _goes_on()


@contextmanager
def waiting() -> Iterator[None]:
    """Let others compute meanwhile."""
    tell, _mine.tell = _mine.tell, None
    if tell is None:
        yield
        return
    tell(-1)
    try:
        yield
    finally:
        tell(1)
        _mine.tell = tell


def _connect(dialect: Dialect, _record: Any, args: Any, kwargs: Any) -> Any:
    _goes_on()
    with waiting():
        return dialect.connect(*args, **kwargs)


def _execute(cursor: Any, statement: str, parameters: Any, context: Any) -> bool:
    _goes_on()
    if _mine.tell is None:
        return False
    with waiting():
        context.dialect.do_execute(cursor, statement, parameters, context)
    return True


def _goes_on() -> None:
    if _mine.mind is not None:
        _mine.mind(_mine.limit)


# For every engine, since nothing changes for a thread that shares with nobody.
event.listen(Engine, "do_connect", _connect)
event.listen(Engine, "do_execute", _execute)
