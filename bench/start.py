"""From the start of the process to the first scrape that is answered."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import median

from bench.figures import Figure, Finding, seconds
from bench.lab import Lab
from bench.process import plain
from bench.tables import Shape
from tests.acceptance.process import EXPORTER, one_backend, write
from tests.servers.process import HOST, free_port

MOST = 1.5  # seconds


def run(lab: Lab) -> Iterator[Finding]:
    """Start it several times."""
    database = lab.database("postgresql", Shape(rows=10_000))
    folder = lab.new_folder()
    config = write(folder, one_backend(database.reader_url))
    took = median(_start(config, folder) for _ in range(lab.sizes.rounds))
    yield Figure("start to first /metrics", seconds(took), must=f"≤ {MOST} s", met=took <= MOST)


def _start(config: Path, folder: Path) -> float:
    port = free_port()
    flags = (f"--config.file={config}", f"--web.listen-address={HOST}:{port}")
    return first_scrape([*EXPORTER, *flags], f"{HOST}:{port}", folder / "log")


def first_scrape(command: Sequence[str], address: str, log: Path, timeout: float = 30.0) -> float:
    """Run a command until it answers; return the seconds that took."""
    with log.open("ab") as output:
        begun = time.perf_counter()
        with subprocess.Popen(command, stdout=output, stderr=output, cwd=log.parent) as child:
            try:
                while not _answers(address):
                    if child.poll() is not None or time.perf_counter() - begun > timeout:
                        raise RuntimeError(f"no answer: {log.read_text()[-2000:]}")
                    time.sleep(0.005)
                return time.perf_counter() - begun
            finally:
                child.kill()


def _answers(address: str) -> bool:
    scraper = plain(address)
    try:
        scraper.scrape()
    except OSError:
        return False
    finally:
        scraper.close()
    return True
