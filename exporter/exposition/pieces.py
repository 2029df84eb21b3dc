"""Bytes that are put together at a scrape, and gzip that is put together of deflated pieces.

Deflate is a sequence of blocks: what was deflated by itself, up to a whole byte, may stand in any
stream. So each piece is deflated when it changes, and not because another one did.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator, Sequence
from functools import cached_property
from itertools import chain

from exporter.exposition import checksums

LEVEL = 1  # a scrape over a network gains most from the first level
LARGE = 4096  # bytes; smaller pieces are deflated together: that takes less time, and less room
# RFC 1952: deflate, no flags, no time, the fastest level, an unknown system. One member for all of
# it: a second would be legal, but browsers and curl stop after the first.
HEADER = b"\x1f\x8b\x08\0\0\0\0\0\x04\xff"


class Piece:
    """Lines that change together."""

    def __init__(self, text: bytes) -> None:
        self.text = text

    @property
    def large(self) -> bool:
        """Whether it is worth deflating by itself."""
        return len(self.text) >= LARGE

    @cached_property
    def deflated(self) -> bytes:
        """Its text in blocks of its own."""
        return deflated(self.text)


class Run:
    """Pieces, one after the other. It stays as it is."""

    def __init__(self, head: bytes, pieces: list[Piece]) -> None:
        self.head = head
        self.pieces = pieces
        self.size = len(head) + sum(len(piece.text) for piece in pieces)

    @cached_property
    def checksum(self) -> int:
        """CRC-32 of its text."""
        checksum = zlib.crc32(self.head)
        for piece in self.pieces:
            checksum = zlib.crc32(piece.text, checksum)
        return checksum

    @cached_property
    def deflated(self) -> bytes:
        """Its text in blocks; those of large pieces are there already."""
        return b"".join(self._blocks())

    def _blocks(self) -> Iterator[bytes]:
        small = [self.head]
        for piece in self.pieces:
            if piece.large:
                yield deflated(b"".join(small))
                yield piece.deflated
                small = []
            else:
                small.append(piece.text)
        yield deflated(b"".join(small))


def deflated(text: bytes, *, end: bool = False) -> bytes:
    """Deflate text so that it may stand in any stream; `end`: it is the stream's last."""
    if not text and not end:
        return b""
    deflate = zlib.compressobj(LEVEL, wbits=-zlib.MAX_WBITS)
    return deflate.compress(text) + deflate.flush(zlib.Z_FINISH if end else zlib.Z_SYNC_FLUSH)


def plain(runs: Sequence[Run], last: bytes) -> bytes:
    """Join runs and the last lines."""
    texts = ((run.head, *(piece.text for piece in run.pieces)) for run in runs)
    return b"".join([*chain.from_iterable(texts), last])


class Gzip:
    """Joins runs and the last lines, as gzip."""

    def __init__(self, runs: Sequence[Run]) -> None:
        self._blocks = b"".join([HEADER, *(run.deflated for run in runs)])
        self._checksum = 0
        for run in runs:
            self._checksum = checksums.joined(self._checksum, run.checksum, run.size)
        self._size = sum(run.size for run in runs)

    def __call__(self, last: bytes) -> bytes:
        """Return the whole."""
        checksum, size = zlib.crc32(last, self._checksum), self._size + len(last)
        trailer = struct.pack("<II", checksum, size % 2**32)
        return b"".join([self._blocks, deflated(last, end=True), trailer])
