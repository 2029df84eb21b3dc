"""Looks after what may take too long: one thread for any number, and only while there are some."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Protocol

INTERVAL = 0.2  # seconds between looks; so late an alarm may be


class Look(Protocol):
    """What is done now and then."""

    def __call__(self, *, late: bool) -> bool:
        """Look, for the last time where it is `late`; return whether no other look is wanted."""


_lock = threading.Lock()
_alarms: dict[object, tuple[float, Look]] = {}  # when, monotonic, and what
_watched = False  # by a thread


@contextmanager
def alarm(seconds: float, look: Look) -> Iterator[None]:
    """Look, from another thread, now and then, and a last time once what is inside takes so long.

    Looks are quick: all others wait for them.
    """
    global _watched  # noqa: PLW0603
    me = object()
    with _lock:
        _alarms[me] = time.monotonic() + seconds, look
        if not _watched:
            _watched = True
            threading.Thread(target=_watch, name="alarm", daemon=True).start()
    try:
        yield
    finally:
        with _lock:
            _alarms.pop(me, None)


def _watch() -> None:
    global _watched  # noqa: PLW0603
    while True:
        time.sleep(INTERVAL)
        with _lock:
            if not _alarms:
                _watched = False
                return
            now = time.monotonic()
            for me, (moment, look) in list(_alarms.items()):
                late = over = moment <= now
                with suppress(Exception):  # the others' turn comes, too
                    over |= look(late=late)
                if over:
                    del _alarms[me]
