"""Durations are Prometheus's."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from exporter import durations


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("0", 0.0),
        ("0s", 0.0),
        ("1ms", 0.001),
        ("500ms", 0.5),
        ("15s", 15.0),
        ("90s", 90.0),
        ("5m", 300.0),
        ("1h30m", 5400.0),
        ("1d", 86400.0),
        ("7d", 604800.0),
        ("2w", 1209600.0),
        ("1y", 31536000.0),
        ("1y2w3d4h5m6s7ms", 33019506.007),
        ("007s", 7.0),
        ("9223372036854ms", 9223372036.854),
    ],
)
def test_good(text: str, seconds: float) -> None:
    assert seconds == durations.parse(text)


@pytest.mark.parametrize(
    "text",
    [
        *("", " ", "s", "15", "00", "-1s", "+1s", "1.5s", "1 s", " 1s", "1s ", "1s\n", "1h 30m"),
        *("30m1h", "1m1m", "1S", "1M", "1us", "1sec", "\u0661s"),
        *("9223372036855ms", "300y", "9" * 5000 + "s"),
    ],
)
def test_bad(text: str) -> None:
    with pytest.raises(ValueError, match=r"^is (not a duration|too long)"):
        durations.parse(text)


def test_a_bare_number_is_told_what_it_lacks() -> None:
    with pytest.raises(ValueError, match="it lacks a unit; write it like 15s"):
        durations.parse("15")


@given(st.text())
@example("1h")
def test_any_text_is_a_duration_or_a_value_error(text: str) -> None:
    with contextlib.suppress(ValueError):
        assert durations.parse(text) >= 0
