"""Results are deleted by Celery's own means, but only such as the exporter has surely counted."""

from __future__ import annotations

import random
import time
from typing import TYPE_CHECKING

from tests.soak.written import CELERY, Written

if TYPE_CHECKING:
    from tests.acceptance.watchdog import Watchdog
    from tests.servers.database import Database
    from tests.soak.load import Labels, Load

EXPIRES = 6  # seconds
# A poll counts what was stored before it, but rows on the watch list or in a gap a little later:
# after a tenth of the time that they were unfinished.
MARGIN = 3.0  # seconds
AT_ONCE = 20


class Deleter:
    """`backend.cleanup()` and `forget()` for one database, while it is written to and polled."""

    def __init__(
        self,
        database: Database,
        writing: Load,
        watchdog: Watchdog,
        name: str,
        *,
        written: Written = CELERY,
        expires: float = EXPIRES,
        margin: float = MARGIN,
    ) -> None:
        self._backend = written.deleting(database.celery_url, expires)
        self._expires = expires
        self._margin = margin
        self._writing = writing
        self._polls = watchdog.polls[name]
        self._dice = random.Random(11)  # noqa: S311
        self._seen: tuple[float, list[tuple[str, Labels]]] = (time.time(), [])
        self._forgotten: set[str] = set()
        self.cleanups = 0

    @property
    def forgotten(self) -> int:
        """How many results were forgotten, one by one."""
        return len(self._forgotten)

    def forget(self, task_id: str) -> None:
        """Delete one result."""
        self._backend.forget(task_id)
        self._forgotten.add(task_id)

    def step(self) -> None:
        """Delete some of what was counted, the newest too."""
        last = self._polls[-1] if self._polls else 0.0
        when, entries = self._seen
        if last > when + self._margin:
            counted = [task_id for task_id, _ in entries if task_id not in self._forgotten]
            for task_id in self._dice.sample(counted, min(AT_ONCE, len(counted) // 20)):
                self.forget(task_id)
            self._seen = (time.time(), self._writing.entries())
        if last > time.time() - self._expires + self._margin + 1.0:  # MySQL keeps whole seconds
            self._backend.cleanup()
            self.cleanups += 1
