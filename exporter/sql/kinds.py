"""What a column has to hold, whatever type a database declares for it.

Celery's own types are of these kinds. People make tables by hand, too: ENUM for the state, a time
with a zone, JSON for the result.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Any

from sqlalchemy import (
    BINARY,
    JSON,
    VARBINARY,
    DateTime,
    Float,
    Integer,
    LargeBinary,
    Numeric,
    String,
    TypeDecorator,
    Uuid,
)
from sqlalchemy.types import TypeEngine

BYTES = (LargeBinary, VARBINARY, BINARY)


class Kind(StrEnum):
    """What a column holds, in words for the person who made it hold something else."""

    WHOLE = "a whole number"
    NUMBER = "a number"
    LABEL = "text"
    TEXT = "text of any length"
    BYTES = "bytes or text"
    MOMENT = "a date and time"

    @property
    def is_text(self) -> bool:
        """Whether it is read as text."""
        return self in (Kind.LABEL, Kind.TEXT)

    def holds(self, declared: TypeEngine[Any]) -> bool:
        """Whether what is declared so can be read as this."""
        match self:
            case Kind.WHOLE:
                return isinstance(declared, Integer) or is_decimal(declared)
            case Kind.NUMBER:
                return isinstance(declared, (Integer, Numeric, Float))
            case Kind.LABEL | Kind.TEXT:
                return isinstance(declared, (String, Uuid))
            case Kind.BYTES:
                return isinstance(declared, (*BYTES, String, JSON))
            case Kind.MOMENT:
                return isinstance(declared, DateTime)


def is_decimal(declared: TypeEngine[Any]) -> bool:
    """Whether this is DECIMAL without decimals: drivers give objects for it, not integers."""
    return isinstance(declared, Numeric) and declared.scale == 0


def has_zone(declared: TypeEngine[Any] | None) -> bool:
    """Whether times of this type are moments, and no wall time of some zone."""
    return bool(getattr(declared, "timezone", False))


class Whole(TypeDecorator[int]):
    """An integer that is stored as DECIMAL."""

    impl = Numeric(38, 0)
    cache_ok = True

    def process_result_value(self, value: Any, dialect: Any) -> int | None:
        """Return what Python counts with."""
        del dialect
        return None if value is None else int(value)
