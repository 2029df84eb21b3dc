"""What the command line says beside the configuration."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Options:
    """How the service faces the outside, and what it may go on with."""

    listen_addresses: tuple[str, ...] = (":10224",)
    systemd_socket: bool = False  # whether to serve on what systemd hands over instead
    telemetry_path: str = "/metrics"
    web_config: Path | None = None  # TLS and authentication
    lifecycle: bool = False  # whether HTTP may ask for a reload
    config_file: Path | None = None  # to read again
    adopt: frozenset[str] = frozenset()  # backends whose results have moved
