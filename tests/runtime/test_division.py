"""Which replica is to follow which backend."""

from __future__ import annotations

from collections import Counter
from random import Random

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from exporter.runtime.division import divide, hashed

REPLICAS = [f"host-{number}/1/{number:08x}" for number in range(8)]


def backends(number: int) -> list[str]:
    return [f"backend-{each}" for each in range(number)]


@example(2, 2, Random(0))  # noqa: S311 - nothing secret
@example(1000, 8, Random(0))  # noqa: S311 - likewise
@given(st.integers(0, 50), st.integers(1, 8), st.randoms(use_true_random=False))
def test_shares_differ_by_one_at_most(number: int, replicas: int, chance: Random) -> None:
    """Whoever follows what, also replicas that are gone or of another group."""
    followers = [(name, chance.choice(["", *REPLICAS])) for name in backends(number)]
    found = divide(backends(number), REPLICAS[:replicas], followers)
    assert found.keys() == set(backends(number))
    shares = Counter(found.values())
    assert {shares[name] for name in REPLICAS[:replicas]} <= {
        number // replicas,
        -(-number // replicas),
    }


def test_all_come_to_the_same_result() -> None:
    followers = [(name, REPLICAS[len(name) % 3]) for name in backends(15)]
    assert divide(backends(40), REPLICAS, followers) == divide(
        backends(40)[::-1], REPLICAS[::-1], followers[::-1]
    )
    assert hashed(backends(40)) == hashed(backends(40)[::-1])
    assert hashed(["a", "b"]) != hashed(["a"])


class Fleet:
    """Replicas that look, hand on and take, each in its own time, as runtime.replica does."""

    def __init__(self, number: int, seed: int) -> None:
        self.chance = Random(seed)  # noqa: S311 - nothing secret
        self.followers = dict.fromkeys(backends(number), "")
        self.live: list[str] = []
        self.moves = 0
        self._ending: dict[str, set[str]] = {}

    def join(self) -> None:
        name = f"{self.chance.getrandbits(32):08x}"
        self.live.append(name)
        self._ending[name] = set()

    def leave(self) -> int:
        """Return how many are free now."""
        gone = self.live.pop(self.chance.randrange(len(self.live)))
        free = [name for name, replica in self.followers.items() if replica == gone]
        self.followers |= dict.fromkeys(free, "")
        return len(free)

    def settle(self) -> None:
        """Let all go on, in any order, until nothing changes any more."""
        for _ in range(100):
            before = self.followers.copy()
            for replica in self.chance.sample(self.live, len(self.live)):
                self._go_on(replica)
            busy = any(self._ending[replica] for replica in self.live)
            if not busy and before == self.followers and all(before.values()):
                return
        raise AssertionError("it never settles")

    def _go_on(self, own: str) -> None:
        found = divide(self.followers, self.live, self.followers.items())
        share = {name for name, replica in found.items() if replica == own}
        held = {name for name, replica in self.followers.items() if replica == own}
        free = {name for name in share if not self.followers[name]}
        self.followers |= dict.fromkeys(free, own)
        self.moves += len(free)
        ending = self._ending[own]
        ending |= held - share
        ended = {name for name in ending if self.chance.random() < 0.5}  # its last poll
        self.followers |= dict.fromkeys(ended, "")
        ending -= ended


@pytest.mark.parametrize("number", [1, 2, 3, 5, 12, 41])
def test_who_comes_or_goes_moves_its_share(number: int) -> None:
    """And nothing else moves, in whatever order all others notice."""
    fleet = Fleet(number, seed=number)
    fleet.join()
    fleet.settle()
    for _ in range(60):
        fleet.moves = 0
        if len(fleet.live) == 1 or (len(fleet.live) < 8 and fleet.chance.random() < 0.5):
            before = len(fleet.live)
            for _ in range(fleet.chance.randint(1, 2)):
                fleet.join()
            fleet.settle()
            shares = Counter(fleet.followers.values())
            expected = sum(shares[replica] for replica in fleet.live[before:])
        else:
            expected = fleet.leave()
            fleet.settle()
        assert fleet.moves == expected
        shares = Counter(fleet.followers.values())
        each = [shares[replica] for replica in fleet.live]
        assert max(each) - min(each) <= 1
