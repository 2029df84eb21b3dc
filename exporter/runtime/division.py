"""PURE: which replica is to follow which backend: rendezvous hashing, with a bound on each share.

Each comes to the same result by itself. A replica that joins or leaves moves little more than its
share.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from hashlib import blake2b
from itertools import product


def divide(backends: Iterable[str], replicas: Iterable[str]) -> dict[str, str]:
    """Return the replica of each backend; there is one at least.

    Of all pairs, the one with the highest score comes first. None has more than its share and a
    quarter: of two backends each of two replicas has one, and a share of many moves as little as
    it would without a bound.
    """
    some, live = set(backends), set(replicas)
    share = -(-len(some) // len(live))
    most = share + share // 4
    pairs = sorted(product(some, live), key=lambda pair: _score(*pair), reverse=True)
    found: dict[str, str] = {}
    load: Counter[str] = Counter()
    for backend, replica in pairs:
        if backend not in found and load[replica] < most:
            found[backend] = replica
            load[replica] += 1
    return found


def hashed(backends: Iterable[str]) -> str:
    """Tell sets of backends apart, in 32 characters."""
    return blake2b("\0".join(sorted(backends)).encode(), digest_size=16).hexdigest()


def _score(backend: str, replica: str) -> bytes:
    return blake2b(f"{replica}\0{backend}".encode(), digest_size=8).digest()
