"""The `run` command: serve until told to end."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from exporter import flags

if TYPE_CHECKING:
    from exporter.config.settings import Config
    from exporter.runtime.options import Options


@click.command(params=flags.options())
@flags.configured(log_level="info")
def command(config: Config, options: Options) -> int:
    """Read the result backends and serve the metrics (the default)."""
    from exporter.runtime import service  # noqa: PLC0415 - a mistyped flag is answered at once

    return service.run(config, options)
