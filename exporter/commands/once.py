"""The `once` command: what a scrape would be once all has been read, without serving it."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click

from exporter import flags
from exporter.exposition.formats import Format
from exporter.runtime.service import Service

if TYPE_CHECKING:
    from exporter.config.settings import Config
    from exporter.runtime.options import Options


@click.command(params=flags.options())
@flags.configured(log_level="warning")
def command(config: Config, options: Options) -> int:
    """Read all there is, print the metrics and end."""
    service = Service(config, options.adopt)
    try:
        worked = service.poll_once()
        sys.stdout.write(service.exposition(Format.TEXT, gzip=False).decode())
    finally:
        service.stop()
    return 0 if worked else 1
