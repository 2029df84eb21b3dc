"""The exporter's own command line, which looks at schedules twice a second."""

from exporter.cli import main as exporter
from exporter.runtime import beat


def main() -> int:
    """Run it."""
    beat.LOOK_INTERVAL = 0.5
    return exporter()
