"""What one would run instead: SQL exporters with a GROUP BY, on the same table as ours."""

from __future__ import annotations

import shutil
import subprocess
import venv
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from bench.figures import Figure, Finding, count, power, seconds, typical
from bench.lab import Lab
from bench.process import LONGEST, Scraper, exporter, plain, series
from bench.tables import Shape
from tests.acceptance.footprint import rss
from tests.servers.database import Database
from tests.servers.process import HOST, accepts_connections, free_port, wait_until

ENVIRONMENT = Path(__file__).parent.parent / ".venv-bench"
LABELS = ["task", "state", "worker", "queue"]
TASKS = 200  # in two states at ten workers: 4,000 label sets
QUERY = (
    "SELECT name AS task, status AS state, worker, queue, count(*) AS results"
    " FROM celery_taskmeta GROUP BY 1, 2, 3, 4"
)
SCRAPES = 20
A_DAY = 86_400  # seconds


@dataclass(frozen=True)
class Weights:
    """What a running exporter takes."""

    series: int
    scrape: float  # seconds, of what was read before
    memory: float  # MiB
    asking: float | None = None  # seconds a scrape that runs the query, where there is such a thing


class Peer(ABC):
    """An SQL exporter."""

    name: str
    asks_when_scraped: bool  # or in a loop of its own

    @abstractmethod
    def install(self) -> str:
        """See that it is there; return its version, or "" if it cannot be had."""

    @abstractmethod
    def config(self, database: Database, interval: int) -> dict[str, Any]:
        """Return a configuration that asks every so many seconds; 0: when scraped."""

    @abstractmethod
    def command(self, config: Path, port: int) -> list[str]:
        """Return what runs it."""


class SQLExporter(Peer):
    """Debian's package prometheus-sql-exporter, in Go."""

    name = "sql_exporter"
    asks_when_scraped = False

    def install(self) -> str:
        if shutil.which("prometheus-sql-exporter") is None:
            return ""
        return _run(["dpkg-query", "--show", "--showformat=${Version}", "prometheus-sql-exporter"])

    def config(self, database: Database, interval: int) -> dict[str, Any]:
        url = database.reader.set(drivername="postgres", query={"sslmode": "disable"})
        query = {"name": "results", "help": "Results.", "labels": LABELS, "values": ["results"]}
        job = {
            "name": "celery",
            "interval": f"{interval}s",
            "connections": [url.render_as_string(hide_password=False)],
            "queries": [query | {"query": QUERY}],
        }
        return {"jobs": [job]}

    def command(self, config: Path, port: int) -> list[str]:
        address = f"-web.listen-address={HOST}:{port}"
        return ["prometheus-sql-exporter", f"-config.file={config}", address]


class QueryExporter(Peer):
    """From PyPI, in an environment of its own."""

    name = "query-exporter"
    asks_when_scraped = True

    def install(self) -> str:
        python = str(ENVIRONMENT / "bin" / "python")
        if not (ENVIRONMENT / "bin" / "query-exporter").exists():
            venv.create(ENVIRONMENT, with_pip=True)
            (ENVIRONMENT / ".gitignore").write_text("*\n")
            _run([python, "-m", "pip", "install", "query-exporter", "psycopg[binary]"])
        ask = "from importlib.metadata import version; print(version('query-exporter'))"
        return _run([python, "-c", ask]).strip()

    def config(self, database: Database, interval: int) -> dict[str, Any]:
        query = {"databases": ["celery"], "metrics": ["results"], "sql": QUERY}
        return {
            "databases": {"celery": {"dsn": database.reader_url}},
            "metrics": {"results": {"type": "gauge", "labels": LABELS}},
            "queries": {"results": query | ({"interval": interval} if interval else {})},
        }

    def command(self, config: Path, port: int) -> list[str]:
        program = str(ENVIRONMENT / "bin" / "query-exporter")
        return [program, "--host", HOST, "--port", str(port), "--config", str(config)]


def run(lab: Lab) -> Iterator[Finding]:
    """Run ours and the others, one after the other."""
    rows = lab.sizes.backlog
    database = lab.database("postgresql", Shape(rows, tasks=TASKS))
    ours = _ours(lab, database)
    for peer in (SQLExporter(), QueryExporter()):
        version = peer.install()
        if not version:
            yield Figure(f"{peer.name} is not installed", "")
            continue
        lab.versions.add(f"{peer.name} {version}")
        yield from _compared(ours, _theirs(lab, peer, database), peer.name, rows)


def _compared(ours: Weights, theirs: Weights, name: str, rows: int) -> Iterator[Finding]:
    mine, other = f"{count(ours.series)} series", f"{name}, {count(theirs.series)} series"
    if theirs.asking is not None:
        yield Figure(
            f"scrape that knows the present, {power(rows)} rows",
            f"{seconds(ours.scrape)}, {mine}",
            f"{other}: {seconds(theirs.asking)}",
            ours.scrape / theirs.asking,
        )
    yield Figure(
        "scrape of what was read before",
        f"{seconds(ours.scrape)}, {mine}",
        f"{other}: {seconds(theirs.scrape)}",
        ours.scrape / theirs.scrape,
    )
    yield Figure(
        "memory then",
        f"{ours.memory:.0f} MiB",
        f"{name}: {theirs.memory:.0f} MiB",
        ours.memory / theirs.memory,
    )


def _ours(lab: Lab, database: Database) -> Weights:
    with exporter(lab, database, poll_interval="1s") as process:
        number = series(plain(process.address).scrape())
        return Weights(number, _scrape(process.address), rss(process.pid))


def _theirs(lab: Lab, peer: Peer, database: Database) -> Weights:
    with _running(lab, peer, database, A_DAY) as (address, pid):
        wait_until(lambda: series(plain(address).scrape()) > TASKS, f"{peer.name} to ask", LONGEST)
        number = series(plain(address).scrape())
        weights = Weights(number, _scrape(address), rss(pid))
    if not peer.asks_when_scraped:
        return weights
    with _running(lab, peer, database, 0) as (address, _):
        return replace(weights, asking=_scrape(address))


@contextmanager
def _running(lab: Lab, peer: Peer, database: Database, interval: int) -> Iterator[tuple[str, int]]:
    """Run it until the end of the block; give its address and process id."""
    folder = lab.new_folder()
    config, log, port = folder / "config.yaml", folder / "log", free_port()
    config.write_text(yaml.safe_dump(peer.config(database, interval)))
    with (
        log.open("wb") as output,
        subprocess.Popen(peer.command(config, port), stdout=output, stderr=output) as child,
    ):
        try:
            wait_until(lambda: child.poll() is not None or accepts_connections(port), peer.name)
            if child.poll() is not None:
                raise RuntimeError(f"{peer.name} has ended: {log.read_text()[-2000:]}")
            yield f"{HOST}:{port}", child.pid
        finally:
            child.kill()


def _run(command: list[str]) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def _scrape(address: str) -> float:
    scraper = Scraper(address)
    took = typical(scraper.scrape, SCRAPES)
    scraper.close()
    return took
