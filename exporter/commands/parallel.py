"""Several pieces of work at once, each waiting for a server of its own."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

AT_ONCE = 32

Item = TypeVar("Item")
Result = TypeVar("Result")


def in_order(work: Callable[[Item], Result], items: Sequence[Item]) -> Iterator[Result]:
    """Yield the result for each item, in the order of the items, as soon as it is there.

    `work` must not raise: what comes after would be lost. If nobody wants more, no more is begun.
    """
    if len(items) == 1:
        yield work(items[0])
        return
    with ThreadPoolExecutor(min(AT_ONCE, max(1, len(items)))) as pool:
        yield from pool.map(work, items)
