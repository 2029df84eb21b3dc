"""CRC-32 of what is put together, from those of its parts: as zlib's `crc32_combine`.

A checksum is a polynomial over GF(2), its highest bit the lowest power. Text that follows shifts
it, which is to multiply it by a power of x.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache

POLYNOMIAL = 0xEDB88320
ONE = 1 << 31
X = 1 << 30
LENGTHS_KEPT = 1_000
LONGEST = 40  # bits of a length in bytes


def joined(first: int, second: int, length: int) -> int:
    """Return the checksum of two texts, one after the other; the second has so many bytes."""
    return _product(_shift(length), first) ^ second


@lru_cache(LENGTHS_KEPT)
def _shift(length: int) -> int:
    """Return x to the power of so many bytes' bits."""
    power = ONE
    for bit, square in enumerate(_SQUARES):
        if length >> bit & 1:
            power = _product(square, power)
    return power


def _squares() -> Iterator[int]:
    """Yield x to the power of 8 bits, 16 bits and so on."""
    power = X
    for _ in range(3):
        power = _product(power, power)
    for _ in range(LONGEST):
        yield power
        power = _product(power, power)


def _product(one: int, other: int) -> int:
    """Multiply two polynomials, modulo that of CRC-32."""
    product = 0
    while one:
        if one & ONE:
            product ^= other
        one = (one << 1) & 0xFFFFFFFF
        other = (other >> 1) ^ (POLYNOMIAL if other & 1 else 0)
    return product


_SQUARES = [*_squares()]
