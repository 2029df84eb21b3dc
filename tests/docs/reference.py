"""The README's metrics reference, from the catalogue: ``python -m tests.docs.reference``."""

from __future__ import annotations

import re
from pathlib import Path

from exporter.metrics.catalogue import CATALOGUE, Metric

README = Path(__file__).parents[2] / "README.md"
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
    """Return the README with the reference as it should be."""
    return re.sub(
        f"(?<={re.escape(BEGIN)}).*(?={re.escape(END)})", lambda _: table(), text, flags=re.DOTALL
    )


if __name__ == "__main__":
    README.write_text(renewed(README.read_text()))
