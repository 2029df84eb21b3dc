"""What there is to know of a table before it is read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from sqlalchemy.types import TypeEngine


@dataclass(frozen=True, slots=True)
class Facts:
    """What inspection finds of a table."""

    columns: Mapping[str, TypeEngine[Any]]
    indexed: frozenset[str]  # columns that an index begins with


class Transactions(NamedTuple):
    """Ids of transactions in a snapshot: the oldest that runs, and the first not in use yet."""

    oldest_running: int
    next_unassigned: int
