"""Which replica is to follow which backend."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise
from statistics import fmean
from typing import TYPE_CHECKING

import pytest

from exporter.runtime.division import divide, hashed

if TYPE_CHECKING:
    from collections.abc import Sequence

REPLICAS = [f"host-{number}/1/{number:08x}" for number in range(8)]


def backends(count: int) -> list[str]:
    return [f"backend-{number}" for number in range(count)]


def moves(count: int, before: int, after: int, replicas: Sequence[str] = REPLICAS) -> float:
    """Return how many move where replicas come or go, as a multiple of one's fair share."""
    old, new = (divide(backends(count), replicas[:number]) for number in (before, after))
    return sum(old[name] != new[name] for name in old) / (count / max(before, after))


@pytest.mark.parametrize("count", [1, 2, 3, 40, 1000])
@pytest.mark.parametrize("replicas", [1, 2, 4, 8])
def test_each_has_its_share(count: int, replicas: int) -> None:
    found = divide(backends(count), REPLICAS[:replicas])
    assert found.keys() == set(backends(count))
    share = -(-count // replicas)
    assert max(Counter(found.values()).values()) <= share + share // 4


def test_two_of_two_have_one_each() -> None:
    for pair in pairwise(REPLICAS):
        assert len(set(divide(["orders", "mail"], pair).values())) == 2


def test_all_come_to_the_same_result() -> None:
    assert divide(backends(40), REPLICAS) == divide(backends(40)[::-1], REPLICAS[::-1])
    assert hashed(backends(40)) == hashed(backends(40)[::-1])
    assert hashed(["a", "b"]) != hashed(["a"])


@pytest.mark.parametrize("count", [40, 1000])
@pytest.mark.parametrize("replicas", [1, 2, 3, 4])
def test_little_moves(count: int, replicas: int) -> None:
    assert moves(count, replicas, replicas + 1) <= 1.5
    assert moves(count, replicas + 1, replicas) <= 1.5


def test_more_moves_seldom() -> None:
    fleets = [[f"{fleet}-{number}" for number in range(4)] for fleet in range(500)]
    moved = [moves(40, 3, 4, fleet) for fleet in fleets]
    assert fmean(moved) <= 1.1
    assert sum(each > 1.5 for each in moved) <= 5
    assert max(moved) <= 2
