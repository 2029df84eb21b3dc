"""The exporter's own command line, whose leases last three seconds."""

from exporter.checkpoint import lease
from exporter.cli import main as exporter
from exporter.runtime import replica, service


def main() -> int:
    """Run it."""
    lease.LEASE_DURATION = replica.LEASE_DURATION = service.LEASE_DURATION = 3.0
    replica.RENEW_INTERVAL = replica.RETRY_INTERVAL = service.RETRY_INTERVAL = 0.3
    return exporter()
