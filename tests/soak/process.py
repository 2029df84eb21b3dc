"""What a process takes, as the kernel counts it."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from tests.acceptance.process import Exporter


class Footprint(NamedTuple):
    """Threads and open files."""

    threads: int
    files: int


def at_rest(exporter: Exporter) -> Footprint:
    """Count between polls and scrapes: each of these takes a thread or a file for a moment."""
    found = []
    for _ in range(20):
        time.sleep(0.05)
        found.append([_entries(exporter.pid, "task"), _entries(exporter.pid, "fd")])
    threads, files = zip(*found, strict=True)
    return Footprint(min(threads), min(files))


def _entries(pid: int, folder: str) -> int:
    return sum(1 for _ in Path(f"/proc/{pid}/{folder}").iterdir())
