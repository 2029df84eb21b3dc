"""Text that others wrote, as a terminal, a log and a page show it."""

from __future__ import annotations

import pytest

from exporter.printable import columns, lines, printable


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("app.mail.send", "app.mail.send"),
        ("메일.보내기 é", "메일.보내기 é"),
        ("a\nb\r\tc\0", r"a\nb\r\tc\x00"),
        ("\x1b[31mred\x9b0m\x7f", r"\x1b[31mred\x9b0m\x7f"),  # C0, C1, DEL
        ("\u202eexe.\u2066x\u2069\u200f", r"\u202eexe.\u2066x\u2069\u200f"),
        ("\u2028\u00a0\ufeff", r"\u2028\xa0\ufeff"),
        ("\ud800\udcff", r"\ud800\udcff"),
        ("\U000e0041", r"\U000e0041"),  # a tag, seen by nobody
        ("", ""),
    ],
)
def test_what_is_obeyed_or_not_seen_is_written(text: str, expected: str) -> None:
    assert printable(text) == expected
    assert printable(text).isprintable()


def test_long_text_loses_its_middle() -> None:
    assert printable("company.product.tasks.send_mail", 20) == "company.pr…send_mail"
    assert printable("x" * 20, 20) == "x" * 20
    assert printable("\x1b" * 10**7, 9) == r"\x1b…\x1b"
    for longest in range(1, 12):
        assert len(printable("\n" * 50, longest)) == longest


def test_lines_stay_lines() -> None:
    assert lines("a\n\x1bb") == "a\n\\x1bb"


def test_columns_are_aligned_and_bounded() -> None:
    """Korean takes two cells a letter, an accent of its own none."""
    rows = [["TASK", "N"], ["메일", "1"], ["e\u0301", "2"], ["x" * 50, "3"]]
    assert list(columns(rows, (8, 4))) == [
        "TASK      N",
        "메일      1",
        "e\u0301         2",
        "xxxx…xxx  3",
    ]
