"""Tells whoever shares a processor with this thread when it waits for a database."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from sqlalchemy import Dialect, Engine, event

Tell = Callable[[int], None]  # takes by how many threads more compute now: -1 or 1


class _Mine(threading.local):
    tell: Tell | None = None  # nobody shares with this thread, or it waits already


_mine = _Mine()


def share(tell: Tell) -> None:
    """Let `tell` know whenever this thread begins to wait, and when it has waited."""
    _mine.tell = tell


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
    with waiting():
        return dialect.connect(*args, **kwargs)


def _execute(cursor: Any, statement: str, parameters: Any, context: Any) -> bool:
    if _mine.tell is None:
        return False
    with waiting():
        context.dialect.do_execute(cursor, statement, parameters, context)
    return True


# For every engine, since nothing changes for a thread that shares with nobody.
event.listen(Engine, "do_connect", _connect)
event.listen(Engine, "do_execute", _execute)
