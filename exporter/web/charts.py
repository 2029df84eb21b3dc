"""PURE: numbers by minute as outlines for SVG: a page without scripts draws by itself."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

HEIGHT = 24  # of a chart, in its own units; a minute is 1 wide


def bars(counts: Sequence[int]) -> str:
    """Return a path of bars, the highest as high as the chart; "" where there is none.

    What is not 0 is seen, however little it is.
    """
    most = max(counts, default=0)
    path, minute = [], 0
    for height, run in groupby(_height(count, most) for count in counts):
        width = sum(1 for _ in run)
        if height:
            path.append(f"M{minute} {HEIGHT}v-{height}h{width}v{height}z")
        minute += width
    return "".join(path)


def _height(count: int, most: int) -> int:
    return max(1, round(HEIGHT * count / most)) if count else 0
