"""Clocks that can be put ahead, so that nobody has to wait for what is due in a minute."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager


class Clock:
    """How far this process's clocks are ahead. `time.perf_counter` measures on, undisturbed."""

    def __init__(self) -> None:
        self.ahead = 0.0

    def forward(self, seconds: float) -> None:
        """Put the clocks ahead."""
        self.ahead += seconds


@contextmanager
def clock() -> Iterator[Clock]:
    """Let the clocks be put ahead until the end of the block."""
    real_time, real_monotonic = time.time, time.monotonic
    ours = Clock()
    time.time = lambda: real_time() + ours.ahead
    time.monotonic = lambda: real_monotonic() + ours.ahead
    try:
        yield ours
    finally:
        time.time, time.monotonic = real_time, real_monotonic
