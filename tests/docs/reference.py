"""The reference in docs/metrics.md, from the catalogue: ``python -m tests.docs.reference``."""

from __future__ import annotations

import re
from pathlib import Path

from exporter.metrics.catalogue import CATALOGUE, Metric

PAGE = Path(__file__).parents[2] / "docs" / "metrics.md"
BEGIN, END = "<!-- metrics:begin -->\n", "<!-- metrics:end -->"


def table() -> str:
    """Return the reference as a Markdown table."""
    head = "| metric | type | labels | meaning |\n|---|---|---|---|\n"
    return head + "".join(map(row, CATALOGUE.values()))


def row(metric: Metric) -> str:
    labels = ", ".join(f"`{label}`" for label in metric.label_names)
    meaning = metric.help.removesuffix(".").replace("|", "\\|")
    return f"| `{metric.name}` | {metric.type} | {labels} | {meaning} |\n"


def renewed(text: str) -> str:
    """Return the page with the reference as it should be."""
    return re.sub(
        f"(?<={re.escape(BEGIN)}).*(?={re.escape(END)})", lambda _: table(), text, flags=re.DOTALL
    )


if __name__ == "__main__":
    PAGE.write_text(renewed(PAGE.read_text()))
