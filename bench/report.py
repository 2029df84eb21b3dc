"""Writes RESULTS.md."""

from __future__ import annotations

import os
import platform
import re
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

from bench.figures import Figure, Finding, Listing, Plot, seconds
from bench.plots import draw

COLUMNS = ("what", "ours", "compared with", "ratio", "must", "met?")
LIBRARIES = ("sqlalchemy", "psycopg", "pymysql", "prometheus-client", "tornado")


def write(
    findings: Sequence[Finding],
    folder: Path,
    took: float,
    versions: Sequence[str],
    speeds: Sequence[float],
) -> Path:
    """Write the report and its plots; return the report's path.

    `took` is the run's time, `speeds` what a fixed loop took during it, all in seconds.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "RESULTS.md"
    path.write_text("\n".join(_lines(findings, folder, took, versions, speeds)) + "\n")
    return path


def _lines(
    findings: Sequence[Finding],
    folder: Path,
    took: float,
    versions: Sequence[str],
    speeds: Sequence[float],
) -> Iterator[str]:
    libraries = [f"{name} {version(name)}" for name in LIBRARIES]
    yield "# What it costs"
    yield ""
    yield "Written by `make bench`; what is measured how is said in the modules of this folder."
    yield "Ratios are of figures of this one run, on the same data."
    yield ""
    yield f"- {datetime.now(UTC):%Y-%m-%d %H:%M} UTC, {took / 60:.0f} minutes"
    yield f"- {os.cpu_count()} cores, {_processor()}, {platform.system()} {platform.release()}"
    loops = ", ".join(map(seconds, speeds))
    yield f"- one loop of Python, between the parts: {loops}; times vary as it does"
    yield f"- Python {platform.python_version()}, {', '.join(libraries)}"
    yield f"- {', '.join(versions)}"
    yield ""
    yield _row(COLUMNS)
    yield _row(["---"] * len(COLUMNS))
    for found in findings:
        if isinstance(found, Figure):
            yield _row(cells(found))
    for found in findings:
        if isinstance(found, Plot):
            yield f"\n![{found.title}]({draw(found, folder).name})"
    for found in findings:
        if isinstance(found, Listing):
            yield f"\n## {found.title}\n\n```\n{found.text}\n```"


def cells(figure: Figure) -> list[str]:
    """Return a row of the table."""
    ratio = "" if figure.ratio is None else f"{figure.ratio:.3g} ×"
    met = {True: "yes", False: "**no**", None: ""}[figure.met]
    return [figure.what, figure.ours, figure.compared_with, ratio, figure.must, met]


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _processor() -> str:
    found = re.search(r"^model name\s*:\s*(.*)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    return found[1] if found else platform.machine()
