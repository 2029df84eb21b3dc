"""Replicas that share a checkpoint, the load they count, and what scrapes of them must show."""

from __future__ import annotations

import contextlib
import random
import signal
import sqlite3
import string
import threading
import time
import uuid
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from itertools import chain, pairwise
from typing import TYPE_CHECKING, Self

from tests.acceptance.process import EXPORTER, FAST, QUICK_LEASES, Exporter, running
from tests.follow import create_tables
from tests.servers.database import SQLite

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Mapping
    from pathlib import Path
    from typing import Any

    from tests.servers.database import Database

RESULTS = "celery_task_results_total"
LEADER = "celery_results_exporter_leader"
INSERT = """INSERT INTO celery_taskmeta (task_id, status, date_done, name, worker, queue, retries)
    VALUES (?, ?, datetime('now'), 'app.add', 'w1@host', 'celery', 0)"""
EVERY = 0.15  # seconds between scrapes of a replica


class Load:
    """Many result backends in files, to which results are written all the while."""

    def __init__(self, folder: Path, count: int, pause: float) -> None:
        self.files: dict[str, Path] = {}
        self._pause = pause  # seconds after each result
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)
        with contextlib.ExitStack() as stack:
            for number in range(count):
                database = stack.enter_context(SQLite(folder).fresh_database())
                create_tables(database)
                self.files[f"backend-{number}"] = folder / str(database.owner.database)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def config(self, checkpoint: Database) -> dict[str, Any]:
        """Return a configuration of all of them."""
        return {
            "checkpoint": {"url": checkpoint.owner.render_as_string(hide_password=False)},
            "defaults": FAST | {"poll_interval": "500ms"},
            "backends": [
                {"name": name, "result_backend": f"sqlite:///{file}"}
                for name, file in self.files.items()
            ],
        }

    def stop(self) -> None:
        self._stop.set()
        self._thread.join()

    def results(self) -> Counter[str]:
        """Count the rows of each: the truth."""
        counts: Counter[str] = Counter()
        for name, file in self.files.items():
            with contextlib.closing(sqlite3.connect(file)) as connection:
                query = "SELECT count(*) FROM celery_taskmeta"
                counts[name] = connection.execute(query).fetchone()[0]
        return +counts

    def _run(self) -> None:
        dice = random.Random(5)  # noqa: S311
        names = [*self.files]
        while not self._stop.wait(self._pause):
            file = self.files[dice.choice(names)]
            state = dice.choice(["SUCCESS", "SUCCESS", "FAILURE"])
            # A reader that is paused in the middle of a poll keeps its lock.
            with contextlib.closing(sqlite3.connect(file, timeout=120)) as connection, connection:
                connection.execute(INSERT, (str(uuid.uuid4()), state))


class Replica:
    """A process that is started again and again in a folder of its own."""

    def __init__(self, folder: Path, config: Mapping[str, Any], program: tuple[str, ...]) -> None:
        self.name = folder.name
        self.exporter: Exporter | None = None
        self._folder = folder
        self._config = config
        self._program = program
        self._running = contextlib.ExitStack()
        folder.mkdir()

    def start(self) -> Exporter:
        self._running.close()
        context = running(self._folder, self._config, program=self._program)
        self.exporter = self._running.enter_context(context)
        return self.exporter

    @property
    def process(self) -> Exporter:
        """The one that runs."""
        assert self.exporter is not None
        return self.exporter

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *failure: object) -> None:
        # After a failure it is killed: it may be paused.
        self._running.__exit__(*failure)  # type: ignore[arg-type]


@dataclass
class Scrapes:
    """When a process was seen to serve a backend: runs of scrapes without one between them."""

    runs: list[list[tuple[float, float]]] = field(default_factory=list)  # began and ended
    goes_on: bool = False

    def note(self, began: float, ended: float, *, serves: bool) -> None:
        if serves and not self.goes_on:
            self.runs.append([])
        if serves:
            self.runs[-1].append((began, ended))
        self.goes_on = serves


class Watch:
    """Scrapes all replicas all the while."""

    def __init__(self, replicas: Collection[Replica], backends: Collection[str]) -> None:
        self.went_back: list[str] = []
        self.scrapes = 0
        self.leads: dict[str, frozenset[str]] = {}  # by replica, as of its last scrape
        self._backends = backends
        self._seen: dict[tuple[str, str], Scrapes] = defaultdict(Scrapes)  # backend, replica
        self._highest: dict[str, float] = {}
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._run, args=(each,)) for each in replicas]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def doubly_served(self) -> list[str]:
        """Find scrapes in which one process served what another served before and after."""
        return [
            f"{backend} by {by} at {began:.2f}, by {replica} from {since:.2f} to {until:.2f}"
            for (backend, replica), seen in self._seen.items()
            for since, until in [(run[0][1], run[-1][0]) for run in seen.runs]
            for (other, by), scrapes in self._seen.items()
            if other == backend and by != replica
            for began, ended in chain.from_iterable(scrapes.runs)
            if since <= began and ended <= until
        ]

    def longest_unserved(self, since: float, until: float) -> float:
        """Return the longest time, in seconds, in which no scrape showed some backend."""
        longest = 0.0
        for backend in self._backends:
            seen = [each.runs for (name, _), each in self._seen.items() if name == backend]
            moments = [ended for _, ended in chain.from_iterable(chain.from_iterable(seen))]
            edges = [since, *(each for each in sorted(moments) if since <= each <= until), until]
            longest = max(longest, *(after - before for before, after in pairwise(edges)))
        return longest

    def followers(self) -> dict[str, str]:
        """Name the replica that follows each backend, where exactly one says so."""
        found = defaultdict(list)
        for replica, led in [*self.leads.items()]:
            for backend in led:
                found[backend].append(replica)
        return {backend: names[0] for backend, names in found.items() if len(names) == 1}

    def _run(self, replica: Replica) -> None:
        while not self._stop.wait(EVERY):
            with self._lock:
                before = dict(self._highest)
            began, exporter = time.monotonic(), replica.exporter
            try:
                assert exporter is not None
                body = exporter.get("/metrics", "text/plain").body
            except (OSError, AssertionError):
                body = ""
            with self._lock:
                self._note(replica.name, began, body, before)

    def _note(self, replica: str, began: float, body: str, before: Mapping[str, float]) -> None:
        ended, served, led = time.monotonic(), set(), set()
        self.scrapes += bool(body)
        for line in body.splitlines():
            series, _, value = line.rpartition(" ")
            name, _, labels = series.partition("{")
            if name == LEADER:
                led |= {_backend(labels)} if value == "1.0" else set()
            elif name.startswith(("celery_task_", "celery_backend_")):
                served.add(_backend(labels))
                if name.endswith("_total") and name.startswith("celery_task_"):
                    if float(value) < before.get(series, 0.0):
                        self.went_back.append(f"{replica} {series}: {before[series]} -> {value}")
                    self._highest[series] = max(float(value), self._highest.get(series, 0.0))
        for backend in self._backends:
            self._seen[backend, replica].note(began, ended, serves=backend in served)
        self.leads[replica] = frozenset(led)


def _backend(labels: str) -> str:
    return labels.partition('backend="')[2].partition('"')[0]


class Fleet:
    """Replicas that come and go, and what that moves."""

    def __init__(self, replicas: list[Replica], load: Load, watch: Watch, calm: float) -> None:
        self.moves: list[tuple[int, float]] = []  # at each join, and the fair share
        self.takeovers: dict[str, list[float]] = defaultdict(list)  # seconds, by what happened
        self._replicas = replicas
        self._backends = set(load.files)
        self._watch = watch
        self._calm = calm  # seconds

    def add(self, replica: Replica) -> None:
        """Start one more, and wait until it has its share."""
        before = self._watch.followers()
        replica.start()
        self._joins(replica, before)

    def remove(self, replica: Replica, how: str, resume: float = 0.0) -> None:
        """Kill, stop, or pause one, for so many seconds; wait until others follow all."""
        self.settled()
        began, process = time.monotonic(), replica.process
        match how:
            case "killed":
                process.kill()
            case "ended":
                process.stop()
            case _:
                process.send(signal.SIGSTOP)
        others = {each.name for each in self._replicas} - {replica.name}

        def taken() -> bool:
            led = [self._watch.leads.get(name, frozenset()) for name in others]
            return set().union(*led) == self._backends

        _wait(taken, "others follow all")
        self.takeovers[how].append(time.monotonic() - began)
        if how == "paused":
            time.sleep(max(0.0, began + resume - time.monotonic()))
            self._watch.leads[replica.name] = frozenset()  # its last scrape still waits
            before = self.settled()
            process.send(signal.SIGCONT)
            self._joins(replica, before)

    def _joins(self, replica: Replica, before: Mapping[str, str]) -> None:
        _wait(lambda: self._watch.leads.get(replica.name), f"{replica.name} follows something")
        after = self.settled()
        if before:
            moved = sum(after[name] != before[name] for name in before)
            self.moves.append((moved, len(self._backends) / len(set(after.values()))))

    def settled(self) -> dict[str, str]:
        """Wait until all are followed, and by the same for a while."""
        since, last = time.monotonic(), self._watch.followers()
        deadline = since + 90
        while (now := time.monotonic()) < since + self._calm:
            assert now < deadline, f"not settled: {self._watch.leads}"
            found = self._watch.followers()
            if found != last or found.keys() != self._backends:
                since, last = now, found
            time.sleep(0.05)
        return last


def assert_all_counts(replicas: Collection[Replica], load: Load) -> int:
    """Insist that what all replicas serve, in sum, is what is in the tables."""
    expected = load.results()

    def served() -> Counter[str]:
        sums: Counter[str] = Counter()
        for replica in replicas:
            for (name,), count in replica.process.scrape().sums(RESULTS, "backend").items():
                sums[name] += count
        return sums

    _wait(lambda: served() == expected, f"all {expected.total()} results count")
    for replica in replicas:
        replica.process.poll_again()
    assert served() == expected
    return expected.total()


@contextlib.contextmanager
def fleet_of(
    count: int, folder: Path, load: Load, checkpoint: Database, *, quick: bool
) -> Iterator[tuple[list[Replica], Fleet, Watch]]:
    """Make replicas, none of which runs yet, and look what they serve; judge it in the end."""
    config, program = load.config(checkpoint), QUICK_LEASES if quick else EXPORTER
    with contextlib.ExitStack() as stack:
        replicas = [
            stack.enter_context(Replica(folder / letter, config, program))
            for letter in string.ascii_lowercase[:count]
        ]
        with load, Watch(replicas, load.files) as watch:
            fleet = Fleet(replicas, load, watch, 1.5 if quick else 6.0)
            yield replicas, fleet, watch
    assert watch.went_back == []
    assert watch.doubly_served() == []
    for moved, share in fleet.moves:
        assert moved <= 1.5 * share, fleet.moves


def _wait(condition: Callable[[], object], what: str, timeout: float = 60.0) -> None:
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline, f"{timeout:g} s passed before {what}"
        time.sleep(0.05)
