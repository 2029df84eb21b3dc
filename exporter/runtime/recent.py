"""What a backend has done of late, in memory: the status page shows it, no metric does."""

from __future__ import annotations

import time
from collections.abc import Mapping

from exporter.backends.reader import Health
from exporter.counting.minutes import Minutes
from exporter.counting.trends import CatchUp, Trend


class Recent:
    """Fed by the polls; read by the web server's threads."""

    def __init__(self) -> None:
        self.minutes = Minutes()
        self.catch_up = CatchUp()
        self.ids: dict[str, Trend] = {}  # how much of their space is used, by kind of table
        self.oldest: Mapping[tuple[str, str], float] = {}  # unfinished, by task and state

    def looked(self, health: Mapping[str, Health]) -> None:
        """Take what the tables say of themselves."""
        now = time.monotonic()
        for kind, found in health.items():
            if found.id_used_ratio is not None:
                trend = self.ids.setdefault(kind, Trend(over=3600.0, least=600.0))
                trend.note(found.id_used_ratio, now)


def minute() -> int:
    """Return the number of the minute that runs, by a clock that is never set back."""
    return int(time.monotonic() // 60)
