"""Real clients read all of a compressed exposition."""

from __future__ import annotations

import subprocess
from contextlib import contextmanager
from typing import TYPE_CHECKING

from exporter.exposition.exposition import Exposition
from exporter.metrics import catalogue
from exporter.metrics.samples import Exemplar, Sample
from exporter.web.server import Address, WebServer
from exporter.web.status import ServiceStatus
from tests.servers.process import require, wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from exporter.exposition.formats import Format
    from tests.servers.prometheus import Prometheus

SERIES = 3000
SCRAPE = """
scrape_configs:
  - job_name: celery-results
    scrape_interval: 1s
    static_configs: [{targets: ["%s"]}]
"""


class Site:
    """Serves an exposition and nothing else."""

    def __init__(self, exposition: Exposition) -> None:
        self._exposition = exposition

    def cached(self, form: Format, *, gzip: bool) -> bytes | None:
        return self._exposition.cached(form, compressed=gzip)

    def exposition(self, form: Format, *, gzip: bool) -> bytes:
        return self._exposition.body(form, compressed=gzip)

    def unhealthy(self) -> str:
        return ""

    def unready(self) -> str:
        return ""

    def status(self) -> ServiceStatus:
        return ServiceStatus("", 0.0, ())


@contextmanager
def serving(exposition: Exposition) -> Iterator[Address]:
    server = WebServer(Site(exposition), [Address("127.0.0.1", 0)])
    server.start()
    try:
        yield server.addresses[0]
    finally:
        server.stop()


def publish(exposition: Exposition, value: float) -> None:
    labels = [(f"task {i}", "SUCCESS", 'say "hi"\n', "q") for i in range(SERIES)]
    exemplar = Exemplar("id\\1", 1.7e9)
    exposition.publish(
        "a", {catalogue.RESULTS: [Sample(own, value, 1.7e9, exemplar) for own in labels]}
    )


def test_prometheus(prometheus: Callable[[str], Prometheus]) -> None:
    """It asks for OpenMetrics and gzip; the last lines are those of the process."""
    exposition = Exposition()
    with serving(exposition) as address:
        watching = prometheus(SCRAPE % str(address))
        for value in (1.0, 2.0):
            publish(exposition, value)
            values = {frozenset({("worker", 'say "hi"\n')}): SERIES * value}
            wait_until(
                lambda values=values: (
                    watching.query("sum by (worker) (celery_task_results_total)") == values
                ),
                f"Prometheus to have {values}",
            )
        assert list(watching.query("python_info").values()) == [1]
        assert list(watching.query("up").values()) == [1]


def test_curl() -> None:
    exposition = Exposition()
    publish(exposition, 1.0)
    with serving(exposition) as address:
        command = [require("curl", "curl"), "-sS", "--fail", f"http://{address}/metrics"]
        plain = subprocess.run(command, capture_output=True, check=True, timeout=30).stdout
        packed = subprocess.run(
            [*command, "--compressed"], capture_output=True, check=True, timeout=30
        ).stdout
    assert names(packed) == names(plain)
    assert b"python_info" in names(packed)


def names(text: bytes) -> list[bytes]:
    """Return the names of the lines, in their order."""
    return [line.split(b"{")[0].split()[0] for line in text.splitlines() if line[:1] != b"#"]
