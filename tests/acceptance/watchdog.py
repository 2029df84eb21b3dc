"""A scraper that looks all the time, and sees every counter that goes back."""

from __future__ import annotations

import contextlib
import threading
import time
from collections import Counter, defaultdict
from itertools import pairwise
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from tests.acceptance.process import Exporter

UNFINISHED = "celery_task_unfinished"
LAST_POLL = "celery_backend_last_poll_timestamp_seconds"


class Watchdog:
    """Scrapes whatever exporter is running; remembers counters that went back, and the polls."""

    def __init__(self, every: float = 0.05) -> None:
        self.exporter: Exporter | None = None
        self.highest: dict[str, float] = {}
        self.went_back: list[str] = []
        self.scrapes = 0
        self.polls: dict[str, list[float]] = defaultdict(list)  # when, Unix time, by backend
        self.most_unfinished: Counter[str] = Counter()  # seen at once, by backend
        self._every = every
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def intervals(self, backend: str, since: float = 0.0) -> list[float]:
        """Return the seconds between the polls of a backend that worked, since then."""
        polls = [moment for moment in self.polls[backend] if moment >= since]
        return [after - before for before, after in pairwise(polls)]

    def _run(self) -> None:
        while not self._stop.wait(self._every):
            exporter = self.exporter
            if exporter is not None:
                with contextlib.suppress(OSError):
                    answer = exporter.get("/metrics", "text/plain")
                    if answer.status == 200:
                        self._compare(answer.body)

    def _compare(self, body: str) -> None:
        """Read the lines as they are: this is done often."""
        self.scrapes += 1
        unfinished: Counter[str] = Counter()
        for line in body.splitlines():
            series, _, value = line.rpartition(" ")
            name = series.partition("{")[0]
            if name == LAST_POLL:
                polls = self.polls[_backend(series)]
                if not polls or polls[-1] != float(value):
                    polls.append(float(value))
            elif name == UNFINISHED:
                unfinished[_backend(series)] += int(float(value))
            elif name.startswith(("celery_task_", "celery_group_")) and name.endswith("_total"):
                before = self.highest.get(series, 0.0)
                if float(value) < before:
                    self.went_back.append(f"{time.time():.2f} {series}: {before} -> {value}")
                self.highest[series] = max(float(value), before)
        self.most_unfinished |= unfinished


def _backend(series: str) -> str:
    return series.partition('backend="')[2].partition('"')[0]
