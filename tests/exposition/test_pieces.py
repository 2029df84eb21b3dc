"""Gzip that was put together is gzip."""

from __future__ import annotations

import gzip
from unittest.mock import patch

from hypothesis import given
from hypothesis import strategies as st

from exporter.pieces import Gzip, Piece, Run, plain

texts = st.binary(max_size=30) | st.binary(max_size=10).map(lambda some: 50 * some)
runs = st.lists(st.tuples(texts, st.lists(texts, max_size=4)), max_size=4)


@given(runs, texts, texts)
def test_it_holds_what_was_put_in(
    parts: list[tuple[bytes, list[bytes]]], last: bytes, later: bytes
) -> None:
    with patch("exporter.pieces.LARGE", 100):
        made = [Run(head, [*map(Piece, pieces)]) for head, pieces in parts]
        whole = b"".join(head + b"".join(pieces) for head, pieces in parts)
        packed = Gzip(made)
        for end in (last, later, b""):
            assert plain(made, end) == whole + end
            assert gzip.decompress(packed(end)) == whole + end
