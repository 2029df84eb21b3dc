"""Gzip that was put together is gzip."""

from __future__ import annotations

import gzip
from unittest.mock import patch
from zlib import crc32

from hypothesis import given
from hypothesis import strategies as st

from exporter.exposition.checksums import joined
from exporter.exposition.pieces import Gzip, Piece, Run, plain

texts = st.binary(max_size=30) | st.binary(max_size=10).map(lambda some: 50 * some)
runs = st.lists(st.tuples(texts, st.lists(texts, max_size=4)), max_size=4)


@given(runs, texts, texts)
def test_it_holds_what_was_put_in(
    parts: list[tuple[bytes, list[bytes]]], last: bytes, later: bytes
) -> None:
    with patch("exporter.exposition.pieces.LARGE", 100):
        made = [Run(head, [*map(Piece, pieces)]) for head, pieces in parts]
        whole = b"".join(head + b"".join(pieces) for head, pieces in parts)
        packed = Gzip(made)
        for end in (last, later, b""):
            assert plain(made, end) == whole + end
            assert gzip.decompress(packed(end)) == whole + end


@given(st.lists(st.binary(max_size=40) | st.integers(0, 70_000).map(bytes), max_size=5))
def test_checksums_of_parts_make_that_of_the_whole(parts: list[bytes]) -> None:
    checksum = 0
    for part in parts:
        checksum = joined(checksum, crc32(part), len(part))
    assert checksum == crc32(b"".join(parts))
