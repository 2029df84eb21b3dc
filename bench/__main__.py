"""``python -m bench``: run benchmarks; a full run writes RESULTS.md."""

from __future__ import annotations

import sys
import tempfile
import time
from argparse import ArgumentParser
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

from bench.figures import Figure, Finding, timed
from bench.lab import QUICK, Lab, Sizes
from bench.report import cells, write

# In the order of the report; each a module with a `run`.
NAMES = (
    "idle",
    "catch_up",
    "backfill",
    "scrape",
    "labels",
    "memory",
    "start",
    "freshness",
    "watching",
    "backends",
    "peers",
    "profiling",
)


LOOP = 2_000_000


def main() -> None:
    """Run what the command line names."""
    parser = ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="small tables, about two minutes")
    parser.add_argument("--only", choices=NAMES, action="append", help="repeatable")
    parser.add_argument(
        "--output",
        type=Path,
        help="folder for RESULTS.md and plots; default: bench/ for a full run, else a new one",
    )
    options = parser.parse_args()
    folder: Path | None = options.output
    if folder is None and (options.quick or options.only):
        folder = Path(tempfile.mkdtemp(prefix="bench-"))
    folder = folder or Path(__file__).parent
    begun = time.monotonic()
    findings: list[Finding] = []
    speeds = [timed(_fixed_loop)]
    with Lab(QUICK if options.quick else Sizes()) as lab:
        try:
            for name in options.only or NAMES:
                print(f"-- {name}", file=sys.stderr, flush=True)
                findings.extend(_run(lab, name))
                speeds.append(timed(_fixed_loop))
        finally:  # what was found before something went wrong is worth reading, too
            took = time.monotonic() - begun
            print(write(findings, folder, took, sorted(lab.versions), speeds))


def _run(lab: Lab, name: str) -> Iterator[Finding]:
    for found in import_module(f"bench.{name}").run(lab):
        if isinstance(found, Figure):
            print(*cells(found), sep=" | ", file=sys.stderr, flush=True)
        yield found


def _fixed_loop() -> None:
    """Tell how fast the machine is now: a virtual one shares its cores."""
    sum(number * number for number in range(LOOP))


if __name__ == "__main__":
    main()
