"""The exporter's own command line, with a family of tables more."""

import sys

from exporter.backends import tables
from exporter.cli import main
from tests.backends import jobs

if __name__ == "__main__":
    tables.FAMILIES = (*tables.FAMILIES, jobs.FAMILY)
    sys.exit(main())
