"""PURE: which replica is to follow which backend: who follows one keeps it, up to its share.

Each comes to the same result by itself. A replica that joins or leaves moves its share, and no
more. What is free is divided by rendezvous hashing, so that few want the same.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from hashlib import blake2b
from itertools import product


def divide(
    backends: Iterable[str], replicas: Iterable[str], followers: Iterable[tuple[str, str]]
) -> dict[str, str]:
    """Return the replica of each backend; there is one at least.

    `followers`: pairs of a backend and the replica that follows it now, if any does. Shares differ
    by one at most. The larger ones are of those who have more already, else of the same ones while
    others take theirs: nobody takes what it would have to hand on.
    """
    some, live, now = set(backends), set(replicas), dict(followers)
    load = Counter(now.get(backend) for backend in some)
    share, over = divmod(len(some), len(live))
    first = sorted(live, key=lambda name: (load[name] > share, name), reverse=True)
    room = Counter({name: share + (rank < over) for rank, name in enumerate(first)})
    pairs = sorted(
        product(some, live),
        key=lambda pair: (now.get(pair[0]) == pair[1], _score(*pair)),
        reverse=True,
    )
    found: dict[str, str] = {}
    for backend, replica in pairs:
        if backend not in found and room[replica]:
            found[backend] = replica
            room[replica] -= 1
    return found


def hashed(backends: Iterable[str]) -> str:
    """Tell sets of backends apart, in 32 characters."""
    return blake2b("\0".join(sorted(backends)).encode(), digest_size=16).hexdigest()


def _score(backend: str, replica: str) -> bytes:
    return blake2b(f"{replica}\0{backend}".encode(), digest_size=8).digest()
