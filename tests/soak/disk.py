"""A disk that can be filled up: a small file system where we may mount one, else a limit."""

from __future__ import annotations

import contextlib
import resource
import subprocess
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.acceptance.process import Exporter

ROOM = 8_000_000  # bytes; the log of SQLite takes up to 4 MB before it is used again


class Disk(ABC):
    """A folder to write to until there is no room."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @abstractmethod
    def fill(self, exporter: Exporter) -> None:
        """Leave no room."""

    @abstractmethod
    def free(self, exporter: Exporter) -> None:
        """Make room again."""


class Mounted(Disk):
    """A file system of its own, in memory."""

    def fill(self, exporter: Exporter) -> None:
        del exporter
        with contextlib.suppress(OSError), (self.folder / "full").open("wb", buffering=0) as file:
            while file.write(bytes(1024)):
                pass

    def free(self, exporter: Exporter) -> None:
        del exporter
        (self.folder / "full").unlink()


class Limited(Disk):
    """No file of the process may grow; its log is the shortest, and still can."""

    def fill(self, exporter: Exporter) -> None:
        longest = max(path.stat().st_size for path in self.folder.iterdir())
        self._limit(exporter, longest)

    def free(self, exporter: Exporter) -> None:
        with contextlib.suppress(ProcessLookupError):  # its end has freed it
            self._limit(exporter, resource.RLIM_INFINITY)

    @staticmethod
    def _limit(exporter: Exporter, size: int) -> None:
        _, most = resource.prlimit(exporter.pid, resource.RLIMIT_FSIZE)
        resource.prlimit(exporter.pid, resource.RLIMIT_FSIZE, (size, most))


@contextlib.contextmanager
def small_disk(folder: Path) -> Iterator[Disk]:
    """Give an empty disk with little room."""
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={ROOM}", "tmpfs", folder]
    if subprocess.run(mount, check=False, capture_output=True).returncode:
        yield Limited(folder)
        return
    try:
        yield Mounted(folder)
    finally:
        subprocess.run(["umount", folder], check=True)
