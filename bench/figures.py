"""What a benchmark yields, and how times and sizes are written."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median

Point = tuple[float, float]


@dataclass(frozen=True)
class Figure:
    """One row of the table of results."""

    what: str
    ours: str
    compared_with: str = ""
    ratio: float | None = None
    must: str = ""
    met: bool | None = None  # None: nothing was promised


@dataclass(frozen=True)
class Plot:
    """Lines on logarithmic axes."""

    name: str
    title: str
    x: str
    y: str
    lines: Mapping[str, Sequence[Point]]


@dataclass(frozen=True)
class Listing:
    """Text of a profile or the like."""

    title: str
    text: str


Finding = Figure | Plot | Listing


def timed(function: Callable[[], object]) -> float:
    """Return the seconds a call took."""
    begun = time.perf_counter()
    function()
    return time.perf_counter() - begun


def typical(function: Callable[[], object], times: int) -> float:
    """Return the median of the seconds that calls took."""
    return median(timed(function) for _ in range(times))


def quantile(values: Sequence[float], share: float) -> float:
    """Return the value that this share of the values does not exceed."""
    ascending = sorted(values)
    return ascending[min(len(ascending) - 1, int(share * len(ascending)))]


def seconds(value: float) -> str:
    """Write a duration in the unit that suits it."""
    for unit, scale in (("s", 1.0), ("ms", 1e3)):
        if value * scale >= 1:
            return f"{value * scale:.3g} {unit}"
    return f"{value * 1e6:.3g} µs"


def count(value: float) -> str:
    """Write a number with its thousands set apart."""
    return f"{round(value):,}"


def power(value: float) -> str:
    """Write a size of a table."""
    digits = str(round(value))
    whole = digits[0] + "0" * (len(digits) - 1) == digits
    return f"{digits[0]}·10^{len(digits) - 1}".removeprefix("1·") if whole else count(value)
