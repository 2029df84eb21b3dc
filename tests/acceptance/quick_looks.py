"""The exporter's own command line, which looks at schedules twice a second."""

import sys

from exporter.cli import main
from exporter.runtime import beat

if __name__ == "__main__":
    beat.LOOK_INTERVAL = 0.5
    sys.exit(main())
