"""Acts when something takes too long: one thread for any number, and only while there are some."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

INTERVAL = 0.5  # seconds between looks; so late an alarm may be

_lock = threading.Lock()
_alarms: dict[object, tuple[float, Callable[[], None]]] = {}  # when, monotonic, and what
_watched = False  # by a thread


@contextmanager
def alarm(seconds: float, act: Callable[[], None]) -> Iterator[None]:
    """Act, from another thread, once what is inside has taken so long; quickly."""
    global _watched  # noqa: PLW0603
    me = object()
    with _lock:
        _alarms[me] = time.monotonic() + seconds, act
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
            for me, (moment, act) in list(_alarms.items()):
                if moment <= now:
                    del _alarms[me]
                    with suppress(Exception):  # the others' moment comes, too
                        act()
