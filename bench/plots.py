"""Draws plots with matplotlib, of the dependency group ``bench``."""

from __future__ import annotations

from pathlib import Path

from matplotlib import rc_context
from matplotlib.figure import Figure

from bench.figures import Plot


def draw(plot: Plot, folder: Path) -> Path:
    """Write an SVG; return its path."""
    figure = Figure(figsize=(6, 3.5), layout="constrained")
    axes = figure.add_subplot(xscale="log", yscale="log", xlabel=plot.x, ylabel=plot.y)
    for label, points in plot.lines.items():
        axes.plot(*zip(*points, strict=True), marker="o", label=label)
    axes.set_title(plot.title, fontsize="medium")
    axes.grid(visible=True, alpha=0.3)
    axes.legend()
    path = folder / f"{plot.name}.svg"
    with rc_context({"svg.hashsalt": plot.name}):  # the same figures make the same file
        figure.savefig(path, metadata={"Date": None})
    return path
