"""A private Redis server: the broker."""

from __future__ import annotations

import itertools

from tests.servers.process import HOST, Server, accepts_connections, require

DATABASES = 1000


class Redis(Server):
    """Keeps everything in memory only."""

    name = "redis"

    def __init__(self) -> None:
        self._redis = require("redis-server", "redis-server")
        self._numbers = itertools.count()
        super().__init__()

    def prepare(self) -> None:
        """Need nothing."""

    def command(self) -> list[str]:
        return [
            self._redis,
            *("--bind", HOST),
            *("--port", str(self.port)),
            *("--databases", str(DATABASES)),
            *("--save", ""),
        ]

    def ready(self) -> bool:
        return accepts_connections(self.port)

    def fresh_url(self) -> str:
        """Return the URL of a broker without any message."""
        return f"redis://{HOST}:{self.port}/{next(self._numbers) % DATABASES}"
