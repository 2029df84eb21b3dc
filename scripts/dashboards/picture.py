"""Draw what the queries of a dashboard's panels return: not how Grafana looks, but what it has.

python -m scripts.dashboards.picture overview http://127.0.0.1:9090 15 docs/dashboards.png

The number is that of the minutes shown. Needs the dependency group ``bench``.
"""

from __future__ import annotations

import json
import re
import sys
import time
from typing import Any
from urllib.parse import urlencode
from urllib.request import urlopen

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from scripts.dashboards.files import FOLDER

COLUMNS = 3
NUMBERS = 6  # in a row
STEP = 5  # seconds
LONGEST = 44  # characters of a legend
MOST_LINES = 10


def main(name: str, prometheus: str, minutes: str, picture: str) -> None:
    """Draw all panels but tables: numbers in the first row, then what changes over time."""
    dashboard = json.loads((FOLDER / f"celery-results-{name}.json").read_text())
    panels = [panel for panel in dashboard["panels"] if panel["type"] not in {"row", "table"}]
    numbers = [panel for panel in panels if panel["type"] == "stat"][:NUMBERS]
    others = [panel for panel in panels if panel["type"] != "stat"]
    rows = -(-len(others) // COLUMNS)
    figure = Figure(figsize=(5 * COLUMNS, 1 + 3 * rows), layout="constrained")
    figure.suptitle(f"{dashboard['title']}: the answers of Prometheus, {minutes} min")
    grid = figure.add_gridspec(1 + rows, NUMBERS, height_ratios=[0.3] + [1] * rows)
    places = [grid[0, column] for column in range(NUMBERS)]
    wide = NUMBERS // COLUMNS
    for row in range(1, 1 + rows):
        places += [grid[row, left : left + wide] for left in range(0, NUMBERS, wide)]
    shown = [*zip(numbers, places, strict=False), *zip(others, places[NUMBERS:], strict=False)]
    for panel, place in shown:
        axes = figure.add_subplot(place)
        axes.set_title(f"{panel['title']} ({panel['fieldConfig']['defaults']['unit']})", fontsize=9)
        lines = [
            (legend(target, series["metric"]), series["values"])
            for target in panel["targets"]
            for series in answer(prometheus, target["expr"], 60 * int(minutes))
        ]
        draw = {"timeseries": draw_lines, "stat": draw_numbers, "bargauge": draw_bars}
        draw[panel["type"]](axes, lines[:MOST_LINES])
    figure.savefig(picture, dpi=60)


Lines = list[tuple[str, list[tuple[float, str]]]]


def answer(prometheus: str, expression: str, seconds: int) -> list[dict[str, Any]]:
    """Ask as Grafana does, with all variables at All, for values over these seconds."""
    for macro, value in {"$__rate_interval": "1m", "$__range": f"{seconds}s"}.items():
        expression = expression.replace(macro, value)
    end = time.time()
    query = {
        "query": re.sub(r"\$\w+", ".*", expression),
        "start": end - seconds,
        "end": end,
        "step": STEP,
    }
    with urlopen(f"{prometheus}/api/v1/query_range?{urlencode(query)}") as got:  # noqa: S310 - ours
        found: list[dict[str, Any]] = json.load(got)["data"]["result"]
    return found


def legend(target: dict[str, Any], labels: dict[str, str]) -> str:
    """Fill in the labels."""
    named = re.sub(r"\{\{(\w+)\}\}", lambda label: labels.get(label[1], ""), target["legendFormat"])
    return named[:LONGEST]


def draw_lines(axes: Axes, lines: Lines) -> None:
    """Draw values over time; where there is none, no line."""
    for name, values in lines:
        known = {round((moment - values[0][0]) / STEP): float(value) for moment, value in values}
        numbers = [known.get(step, float("nan")) for step in range(max(known) + 1)]
        first = values[0][0] - time.time()
        ago = [(first + step * STEP) / 60 for step in range(len(numbers))]  # minutes
        axes.plot(ago, numbers, label=name, linewidth=1)
    axes.set_ylim(bottom=0)
    axes.set_xlabel("minutes", fontsize=6)
    axes.tick_params(labelsize=6)
    axes.grid(visible=True, alpha=0.3)
    if lines:
        axes.legend(fontsize=6, loc="upper center", bbox_to_anchor=(0.5, -0.15), ncols=2)


def draw_numbers(axes: Axes, lines: Lines) -> None:
    """Write the last values."""
    axes.axis("off")
    text = "\n".join(f"{name}: {float(values[-1][1]):.4g}" for name, values in lines)
    axes.text(0.5, 0.5, text or "no data", ha="center", va="center", fontsize=12)


def draw_bars(axes: Axes, lines: Lines) -> None:
    """Draw the last values as bars."""
    axes.barh([name for name, _ in lines], [float(values[-1][1]) for _, values in lines])
    axes.tick_params(labelsize=6)


if __name__ == "__main__":
    main(*sys.argv[1:])
