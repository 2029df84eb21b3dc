"""Real load, the ledger of what it has stored, and what the exporter must make of it."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.acceptance.process import FAST
from tests.acceptance.test_kill import LABELS
from tests.soak.written import CELERY, Written

if TYPE_CHECKING:
    from collections.abc import Container, Iterable, Iterator, Mapping

    from tests.acceptance.process import Exporter
    from tests.servers.database import Database

Labels = tuple[str, ...]  # task, state, worker, queue
RESULTS = "celery_task_results_total"
GROUPS = "celery_group_results_total"
ROOT = Path(__file__).parents[2]
#: The exporter that reads every family that is written; to be run with PYTHONPATH=ROOT.
WITH_JOBS = (sys.executable, "-m", "tests.backends.with_jobs")


class Load:
    """Writers at work."""

    def __init__(self, child: subprocess.Popen[bytes], folder: Path) -> None:
        self._child = child
        self._folder = folder
        self.started = time.monotonic()

    def entries(self) -> list[tuple[str, Labels]]:
        """List the finished results that were stored so far: task id and labels."""
        found = []
        for path in sorted(self._folder.glob("*.ledger")):
            lines = path.read_text().split("\n")[:-1]  # the last may be half a line, or nothing
            fields = [line.split("\t") for line in lines]
            found += [(task_id, tuple(labels)) for task_id, *labels in fields]
        return found

    def stored(self) -> Counter[Labels]:
        """Count the finished results that were stored so far by their labels."""
        return Counter(labels for _, labels in self.entries())

    def groups(self) -> int:
        """Count the groups that were saved so far."""
        return sum(path.read_text().count("\n") for path in self._folder.glob("*.groups"))

    def errors(self) -> Counter[str]:
        """Count the errors of the writers' drivers; complete once they have ended."""
        found: Counter[str] = Counter()
        for path in self._folder.glob("*.errors"):
            found += Counter(json.loads(path.read_text()))
        return found

    def wait(self, timeout: float = 1800.0) -> float:
        """Wait for all rows to be written; return the seconds since the beginning."""
        assert self._child.wait(timeout) == 0
        return time.monotonic() - self.started

    def end(self) -> None:
        """Let the writers begin nothing more."""
        assert self._child.stdin is not None
        self._child.stdin.close()

    def stop(self) -> Counter[Labels]:
        """Let the writers finish what they are at; return what was stored in all."""
        self.end()
        assert self._child.wait(180) == 0  # each ends all that it has begun
        return self.stored()


@contextlib.contextmanager
def load(
    url: str,
    folder: Path,
    processes: int,
    rows: int | None = None,
    pause: float = 0.0,
    *,
    unfinished: int = 0,
    written: Written = CELERY,
) -> Iterator[Load]:
    """Write `rows` results, or until stopped or the end; leave so many unfinished meanwhile."""
    ledger = folder / f"ledger{sum(1 for _ in folder.glob('ledger*'))}"
    ledger.mkdir()
    command = [sys.executable, "-m", "tests.acceptance.writer", url, str(processes)]
    command += [] if rows is None else [str(rows)]
    command += [f"--ledger={ledger}", f"--pause={pause}", *written.flags]
    command += [f"--open={-(-unfinished // processes)}"]
    pipe, null = subprocess.PIPE, subprocess.DEVNULL
    with subprocess.Popen(
        command, stdin=pipe, stdout=null, start_new_session=True, cwd=ROOT
    ) as child:
        try:
            writing = Load(child, ledger)
            yield writing
            writing.stop()
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGKILL)  # its processes, too


def backend(name: str, url: str, **settings: Any) -> dict[str, Any]:
    """Return the settings of one backend."""
    return {"name": name, "result_backend": url, **FAST, **settings}


def config(folder: Path, *backends: dict[str, Any]) -> dict[str, Any]:
    """Return a configuration that keeps its counts."""
    checkpoint = {"path": str(folder / "checkpoint.sqlite")}
    return {"checkpoint": checkpoint, "backends": list(backends)}


def counted(exporter: Exporter, name: str = "shop") -> Counter[Labels]:
    """Return what the exporter has counted of a backend."""
    return exporter.scrape().sums(RESULTS, *LABELS, backend=name)


def assert_counts(
    exporter: Exporter,
    expected: Mapping[str, Mapping[Labels, int]],
    timeout: float = 60.0,
    groups: Mapping[str, int] | None = None,
) -> None:
    """Every result of each backend is counted, once, under its labels; and so it stays.

    And so is every group of those backends that `groups` names.
    """
    wanted = {name: Counter(stored) for name, stored in expected.items()}
    for name, saved in (groups or {}).items():
        wanted[name][GROUPS,] = saved
    deadline = time.monotonic() + timeout
    while (found := _found(exporter, wanted, groups or ())) != wanted:
        if time.monotonic() > deadline:
            break
        time.sleep(0.1)
    if found == wanted:
        exporter.poll_again()
        found = _found(exporter, wanted, groups or ())
    missed = {name: wanted[name] - found[name] for name in wanted if wanted[name] - found[name]}
    twice = {name: found[name] - wanted[name] for name in wanted if found[name] - wanted[name]}
    log = "\n".join(exporter.logs()[-20:])
    assert (missed, twice) == ({}, {}), f"{missed=} {twice=}\n{log}"


def _found(
    exporter: Exporter, names: Iterable[str], groups: Container[str]
) -> dict[str, Counter[Labels]]:
    found = {name: counted(exporter, name) for name in names}
    saved = exporter.scrape().sums(GROUPS, "backend")
    for name, counts in found.items():
        if name in groups:
            counts[GROUPS,] = saved[name,]
    return found


def assert_table(
    database: Database, expected: Mapping[Labels, int], groups: int, written: Written = CELERY
) -> None:
    """The ledger tells what the tables hold, where nothing was deleted."""
    table, wanted = written.results(database), Counter(expected)
    more, fewer = table - wanted, wanted - table
    assert (more.total(), fewer.total()) == (0, 0), f"{more=} {fewer=}"
    assert written.groups(database) == groups
