"""Charts are exact in proportion, show the least, and are small."""

from __future__ import annotations

import re

import pytest

from exporter.web.charts import bars


@pytest.mark.parametrize(
    ("counts", "path"),
    [
        ((), ""),
        ((0, 0, 0), ""),
        ((1,), "M0 24v-24h1v24z"),
        ((0, 2, 1), "M1 24v-24h1v24zM2 24v-12h1v12z"),
        ((3, 3, 0, 3), "M0 24v-24h2v24zM3 24v-24h1v24z"),
        ((100_000, 1), "M0 24v-24h1v24zM1 24v-1h1v1z"),
    ],
)
def test_bars(counts: tuple[int, ...], path: str) -> None:
    assert bars(counts) == path


def test_an_hour_is_small() -> None:
    """Of a thousand of them a page still loads."""
    path = bars([number * 7919 % 1009 for number in range(60)])
    assert len(path) < 60 * 20
    assert re.fullmatch(r"(M\d+ 24v-\d+h\d+v\d+z)+", path)
