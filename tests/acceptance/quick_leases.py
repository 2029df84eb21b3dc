"""The exporter's own command line, whose leases last three seconds."""

import sys

from exporter.checkpoint import lease

if __name__ == "__main__":
    lease.LEASE_DURATION = 3.0
    from exporter.cli import main
    from exporter.runtime import replica

    replica.RENEW_INTERVAL = replica.RETRY_INTERVAL = 0.3
    sys.exit(main())
