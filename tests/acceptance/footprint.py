"""What a process takes, as the kernel counts it."""

from __future__ import annotations

import re
import time
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from tests.acceptance.process import Exporter


class Footprint(NamedTuple):
    """Threads and open files."""

    threads: int
    files: int


def footprint(exporter: Exporter) -> Footprint:
    """Count them now."""
    return Footprint(_entries(exporter.pid, "task"), _entries(exporter.pid, "fd"))


def at_rest(exporter: Exporter) -> Footprint:
    """Count between polls and scrapes: each of these takes a thread or a file for a moment."""
    found = []
    for _ in range(20):
        time.sleep(0.05)
        found.append(footprint(exporter))
    threads, files = zip(*found, strict=True)
    return Footprint(min(threads), min(files))


def rss(pid: int, *, peak: bool = False) -> float:
    """Return the resident memory of a process in MiB, as it is or was at most."""
    status = Path(f"/proc/{pid}/status").read_text()
    name = "VmHWM" if peak else "VmRSS"
    found = re.search(rf"^{name}:\s+(\d+) kB$", status, re.MULTILINE)
    if found is None:
        raise RuntimeError(f"process {pid} has ended")
    return int(found[1]) / 1024


def _entries(pid: int, folder: str) -> int:
    return sum(1 for _ in Path(f"/proc/{pid}/{folder}").iterdir())
