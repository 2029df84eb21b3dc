"""Where the time goes: profiles of catch-up and of rendering after a change."""

from __future__ import annotations

import cProfile
import io
import pstats
import re
from collections.abc import Callable, Iterator

from bench.figures import Finding, Listing, count
from bench.lab import Lab, poll, poller
from bench.process import series
from bench.tables import Shape
from exporter.config.loading import from_url
from exporter.exposition.exposition import Exposition
from exporter.exposition.formats import Format
from exporter.runtime.poller import Poller

TOP = 15
SERIES = Shape(rows=100_000, tasks=240)
RENDERINGS = 5


def run(lab: Lab) -> Iterator[Finding]:
    """Profile on PostgreSQL: there, none of the database's own work is in our process."""
    rows = lab.sizes.backlog
    database = lab.database("postgresql", Shape(rows, rows // 2_000))
    ours = poller(database, start="beginning")
    yield Listing(
        f"Profile of catch-up, {count(rows)} rows, PostgreSQL",
        _profile(lambda: poll(ours)),
    )
    ours.close()

    exposition = Exposition()
    settings = from_url(
        lab.database("postgresql", SERIES).reader_url, start="beginning", first_zero=0.0
    )
    ours = Poller(settings.backends[0], exposition)
    poll(ours)

    number = count(series(exposition.body(Format.TEXT)))

    def publish_and_render() -> None:
        for _ in range(RENDERINGS):
            poll(ours)
            exposition.body(Format.OPENMETRICS)

    yield Listing(
        f"Profile of {RENDERINGS} idle polls, each with a rendering of {number} series",
        _profile(publish_and_render),
    )
    ours.close()


def _profile(function: Callable[[], object]) -> str:
    profile = cProfile.Profile()
    profile.runcall(function)
    output = io.StringIO()
    stats = pstats.Stats(profile, stream=output)
    stats.strip_dirs().sort_stats("tottime").print_stats(TOP)
    text = re.sub(r"\n{2,}", "\n", output.getvalue().strip())
    return "\n".join(line.rstrip() for line in text.splitlines())
