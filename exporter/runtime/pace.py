"""How many rows are read at once: as many as a snapshot of a backlog may be held open for."""

from __future__ import annotations

from collections.abc import Iterable

from exporter.backends import chunks
from exporter.counting.step import CHUNK_ROWS, Batch

CHUNK_SECONDS = 0.25  # that a snapshot of a backlog is held open, about
SMALLEST_CHUNK = 500  # rows
LARGEST_CHUNK = 1_000_000  # rows; most of them come as groups


class Pace:
    """Learns from each step."""

    def __init__(self) -> None:
        self.chunk = CHUNK_ROWS

    def note(self, batches: Iterable[Batch], spent: float) -> None:
        """Fit the next chunk to what these took, in seconds and room, if there was more to read."""
        fitting = [
            batch.plan.chunk
            / max(
                spent / CHUNK_SECONDS,
                batch.fetched / chunks.MOST_ROWS,
                len(batch.groups) / chunks.MOST_GROUPS,
                0.25,
            )
            for batch in batches
            if batch.goes_on
        ]
        if fitting:
            self.chunk = round(min(max(min(fitting), SMALLEST_CHUNK), LARGEST_CHUNK))

    def slow_down(self) -> None:
        """Read less at once: it may have been too much."""
        self.chunk = max(self.chunk // 10, SMALLEST_CHUNK)
