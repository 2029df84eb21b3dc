"""Exporters as processes: scraped over HTTP, weighed by the kernel's counters."""

from __future__ import annotations

import http.client
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bench.lab import Lab
from tests.acceptance.process import Exporter, one_backend, running
from tests.servers.database import Database
from tests.servers.process import wait_until

LONGEST = 300.0  # seconds
TICK = 1 / os.sysconf("SC_CLK_TCK")  # seconds
# As Prometheus asks since 2.5.
ACCEPT = (
    "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,"
    "text/plain;version=0.0.4;q=0.5,*/*;q=0.1"
)


class Scraper:
    """Scrapes as Prometheus does: one connection that is kept, compressed OpenMetrics."""

    def __init__(self, address: str, *, accept: str = ACCEPT, gzip: bool = True) -> None:
        self._connection = http.client.HTTPConnection(address, timeout=60)
        self._headers = {"Accept": accept, "Accept-Encoding": "gzip" if gzip else "identity"}

    def scrape(self) -> bytes:
        """Return the body, as it came."""
        self._connection.request("GET", "/metrics", headers=self._headers)
        answer = self._connection.getresponse()
        body = answer.read()
        if answer.status != http.HTTPStatus.OK:
            raise RuntimeError(f"{answer.status}: {body[:200]!r}")
        return body

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()


def plain(address: str) -> Scraper:
    """Return a scraper of the text format, to look at."""
    return Scraper(address, accept="text/plain", gzip=False)


def value(body: bytes, sample: str) -> float | None:
    """Return the first sample that this regular expression describes."""
    found = re.search(rf"^{sample} (\S+)$".encode(), body, re.MULTILINE)
    return float(found[1]) if found else None


def series(body: bytes) -> int:
    """Count the samples of an exposition in text."""
    return sum(not line.startswith(b"#") for line in body.splitlines())


def cpu_seconds(pid: int) -> float:
    """Return the seconds that a process has computed."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) * TICK  # user and system


@contextmanager
def exporter(lab: Lab, database: Database, **settings: Any) -> Iterator[Exporter]:
    """Run ours on one backend; it has polled to the end of what there is."""
    config = one_backend(database.reader_url, **settings)
    with running(lab.new_folder(), config) as process:
        scraper = Scraper(process.address, gzip=False)
        wait_until(lambda: _caught_up(scraper.scrape()), "the exporter to catch up", LONGEST)
        scraper.close()
        yield process


def _caught_up(body: bytes) -> bool:
    polled = value(body, r"celery_backend_last_poll_timestamp_seconds\{.*\}")
    backlog = value(body, r'celery_backend_backlog_ids\{.*table="task"\}')
    return polled is not None and backlog == 0
