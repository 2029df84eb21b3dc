"""A private Prometheus server."""

from __future__ import annotations

import json
from typing import Any
from urllib.error import URLError
from urllib.parse import urlencode
from urllib.request import urlopen

from tests.servers.process import HOST, Server, require


class Prometheus(Server):
    """Runs with the configuration it is given; rule files need absolute paths there."""

    name = "prometheus"

    def __init__(self, config: str) -> None:
        self._prometheus = require("prometheus", "prometheus")
        self._config = config
        super().__init__()
        self.url = f"http://{HOST}:{self.port}"

    def prepare(self) -> None:
        (self.folder / "prometheus.yml").write_text(self._config)

    def command(self) -> list[str]:
        return [
            self._prometheus,
            f"--config.file={self.folder}/prometheus.yml",
            f"--storage.tsdb.path={self.folder}/data",
            f"--web.listen-address={HOST}:{self.port}",
            "--enable-feature=exemplar-storage",
        ]

    def ready(self) -> bool:
        try:
            with urlopen(f"{self.url}/-/ready", timeout=5):  # noqa: S310 - always http
                return True
        except (URLError, ConnectionError):
            return False

    def api(self, path: str, **parameters: str) -> Any:
        """Return the data of an answer of the HTTP API; HTTPError tells of a bad query."""
        url = f"{self.url}/api/v1/{path}?{urlencode(parameters)}"
        with urlopen(url, timeout=30) as answer:  # noqa: S310 - always http
            return json.load(answer)["data"]

    def query(self, expression: str) -> dict[frozenset[tuple[str, str]], float]:
        """Return the value of each series of an instant vector, by its labels."""
        result = self.api("query", query=expression)["result"]
        return {frozenset(one["metric"].items()): float(one["value"][1]) for one in result}
