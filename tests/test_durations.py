"""Durations are Prometheus's or Go's, and people read them."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from exporter import durations
from exporter.durations import ago, span, utc

NOW = 1_800_000_000.0  # 2027-01-15 08:00:00 UTC


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


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        *(("0", 0.0), ("0s", 0.0), ("1.5s", 1.5), (".5s", 0.5), ("1.s", 1.0), ("500ms", 0.5)),
        *(("1m30s", 90.0), ("30s1m", 90.0), ("1h1h", 7200.0), ("1.5h2.5m", 5550.0)),
        *(("100us", 1e-4), ("100\u00b5s", 1e-4), ("100\u03bcs", 1e-4), ("5ns", 5e-9)),
        ("2562047h47m16.8s", 9223372036.8),
    ],
)
def test_good_for_go(text: str, seconds: float) -> None:
    assert durations.parse_go(text) == pytest.approx(seconds)


@pytest.mark.parametrize(
    "text",
    [
        *("", " ", "s", ".s", ".", "15", "1.5", "00", "-1s", "+1s", "1 s", "1s ", "1s\n", "1m 1s"),
        *("1d", "1w", "1y", "1S", "1e3s", "1,5s", "1.5.5s", "\u0661s", "1sm"),
        *("2562048h", "9" * 5000 + "s", "1s" * 5000),
    ],
)
def test_bad_for_go(text: str) -> None:
    with pytest.raises(ValueError, match=r"^is (not a duration|too long)"):
        durations.parse_go(text)


@given(st.text())
@example("1h")
def test_any_text_is_a_duration_or_a_value_error(text: str) -> None:
    for parse in (durations.parse, durations.parse_go):
        with contextlib.suppress(ValueError):
            assert parse(text) >= 0


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        (0, "0 ms"), (0.0004, "0.4 ms"), (0.0123, "12 ms"), (0.87, "870 ms"),
        (1, "1 s"), (3.44, "3.4 s"), (9.96, "10 s"), (15, "15 s"), (119, "119 s"), (120, "2 min"),
        (119.7, "2 min"), (7199, "119 min"), (7200, "2 h"), (172799, "47 h"), (172800, "2 d"),
    ],
)  # fmt: skip
def test_span(seconds: float, expected: str) -> None:
    assert span(seconds) == expected


@pytest.mark.parametrize(
    ("moment", "expected"),
    [(NOW, "just now"), (NOW - 0.4, "just now"), (NOW - 1, "1 s ago"), (NOW + 300, "in 5 min")],
)
def test_ago(moment: float, expected: str) -> None:
    assert ago(moment, NOW) == expected


@pytest.mark.parametrize(
    ("moment", "expected"),
    [
        (NOW, "2027-01-15 08:00:00 UTC"),
        (-1, "1969-12-31 23:59:59 UTC"),
        (1e12, ""),
        (1e300, ""),
        (float("nan"), ""),
    ],
)
def test_utc(moment: float, expected: str) -> None:
    assert utc(moment) == expected


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("2027-01-15", NOW - 8 * 3600),
        ("2027-01-15T08:00:00Z", NOW),
        ("2027-01-15T17:00:00+09:00", NOW),
        ("2027-01-15 08:00:00.5", NOW + 0.5),
        ("1800000000", NOW),
        ("1799999999.25", NOW - 0.75),
        ("20270115", 20270115.0),
        ("0s", NOW),
        ("30d", NOW - 30 * 86400),
        ("1h30m", NOW - 5400),
    ],
)
def test_good_moment(text: str, moment: float) -> None:
    assert durations.parse_moment(text, NOW) == moment


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "yesterday",
        "2027-13-01",
        "-1d",
        "1.5d",
        "nan",
        "1e9",
        "-1",
        "\u0661\u0662",
        "9" * 5000,
    ],
)
def test_bad_moment(text: str) -> None:
    with pytest.raises(ValueError, match=r"^is not a time; write it like 2026-10-01, "):
        durations.parse_moment(text, NOW)


@pytest.mark.parametrize("text", ["1969-12-31", "100y", "0001-01-01T00:00:00+14:00"])
def test_moment_before_unix_time(text: str) -> None:
    with pytest.raises(ValueError, match=r"^lies before 1970"):
        durations.parse_moment(text, NOW)
