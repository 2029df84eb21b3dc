"""Renew the values in the chart's README: ``python -m tests.deploy.chart_readme``."""

from __future__ import annotations

import json
import re
from functools import reduce
from operator import getitem
from pathlib import Path

import yaml

CHART = Path(__file__).parents[2] / "deploy" / "helm" / "celery-results-exporter"
README = CHART / "README.md"
BEGIN, END = "<!-- values:begin -->", "<!-- values:end -->"


def explained() -> dict[str, str]:
    """Return what values.yaml says of each key with a comment, by its path."""
    found: dict[str, str] = {}
    path: list[str] = []
    said: list[str] = []
    for line in (CHART / "values.yaml").read_text().splitlines():
        comment = re.match(r" *# (-- )?(.*)", line)
        key = re.match(r"( *)([\w.]+):", line)
        if comment and (comment[1] or said):
            said.append(comment[2])
        elif key:
            path = [*path[: len(key[1]) // 2], key[2]]
            if said:
                found[".".join(path)] = " ".join(said)
            said = []
        else:
            said = []
    return found


def table() -> str:
    lines = ["| key | default | meaning |", "|---|---|---|"]
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    for path, meaning in explained().items():
        default = reduce(getitem, path.split("."), values)
        lines.append(f"| `{path}` | `{json.dumps(default)}` | {meaning} |")
    return "\n".join(lines)


def renewed(text: str) -> str:
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n{table()}\n{END}{after}"


if __name__ == "__main__":
    README.write_text(renewed(README.read_text()))
