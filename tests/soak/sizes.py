"""How much of everything: little in ``make test``, and with SOAK set what ``make soak`` runs."""

from __future__ import annotations

import os

import pytest

LONG = bool(os.environ.get("SOAK"))


def _size(name: str, short: int, long: int) -> int:
    return int(os.environ.get(name) or (long if LONG else short))


PROCESSES = _size("SOAK_PROCESSES", 8, 16)
ROWS = _size("SOAK_ROWS", 2_000, 50_000)
UNFINISHED = 1_200  # at once, so that they are watched together; whatever the size
OUTAGES = _size("SOAK_OUTAGES", 2, 20)
ROUNDS = _size("SOAK_ROUNDS", 1, 10)  # of faults of networks, of full disks, of new tables
CUTS = _size("SOAK_CUTS", 5, 100)
DELETION_SECONDS = _size("SOAK_DELETION_SECONDS", 9, 120)
SQLITE_ROWS = _size("SOAK_SQLITE_ROWS", 1_000, 10_000)
SLOW_SECONDS = _size("SOAK_SLOW_SECONDS", 3, 60)
OLD_ROWS = _size("SOAK_OLD_ROWS", 100_000, 100_000)
REPLICA_ROUNDS = _size("SOAK_REPLICA_ROUNDS", 20, 20)  # of a replica that goes and comes back
MINUTES = float(os.environ.get("SOAK_MINUTES") or 10)


def kinds(first: str, *others: str) -> pytest.MarkDecorator:
    """Run a test on all these databases; its short form on the first."""
    return pytest.mark.parametrize("database", [first, *others * LONG], indirect=True)
