"""Passwords do not get through."""

from __future__ import annotations

import json
import time
from urllib.parse import quote, quote_plus

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy.engine import URL

from exporter.redaction import SecretMask, names_a_secret

AWKWARD = r"p@ss:w/r d%1#'\}"


@pytest.fixture
def mask() -> SecretMask:
    result = SecretMask()
    result.remember(AWKWARD)
    return result


@pytest.mark.parametrize(
    "written",
    [
        AWKWARD,
        quote(AWKWARD),
        quote(AWKWARD, safe=""),
        quote_plus(AWKWARD),
        repr(AWKWARD)[1:-1],
        json.dumps(AWKWARD)[1:-1],
        AWKWARD.replace("}", "}}"),
    ],
)
def test_every_way_to_write_it(mask: SecretMask, written: str) -> None:
    assert mask.mask(f"before {written} after") == "before *** after"


def test_sqlalchemy_urls(mask: SecretMask) -> None:
    url = URL.create("mysql+pymysql", "reader", AWKWARD, "db", 3306, "orders")
    text = f"cannot connect to {url.render_as_string(hide_password=False)} now"
    assert mask.mask(text) == "cannot connect to mysql+pymysql://reader:***@db:3306/orders now"


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        ("redis://:hunter2@h/0", "redis://:***@h/0"),
        ("(db+mysql://u:hunter2@h/d)", "(db+mysql://u:***@h/d)"),
        ("'mysql://u:hun@ter2@h/d'", "'mysql://u:***@h/d'"),
        ("mysql://u:x@h/d", "mysql://u:***@h/d"),
        ("DRIVER={x};UID=sa;PWD={hun;ter2};", "DRIVER={x};UID=sa;PWD=***;"),
        ("host=h password='hun ter2' user=u", "host=h password=*** user=u"),
        ("?user=u&password=hunter2&x=1", "?user=u&password=***&x=1"),
        ("(using password: YES)", "(using password: YES)"),
        ("http://localhost:10224/metrics", "http://localhost:10224/metrics"),
        ("see http://h:1/ or mail me@x", "see http://h:1/ or mail me@x"),
    ],
)
def test_unknown_passwords_in_known_places(text: str, masked: str) -> None:
    assert masked == SecretMask().mask(text)


def test_short_passwords_do_not_shred_text() -> None:
    """They are masked in URLs only."""
    mask = SecretMask()
    for password in ("", "a", "ab", "abc"):
        mask.remember(password)
    assert mask.mask("a cab at mysql://u:abc@h") == "a cab at mysql://u:***@h"


def test_longer_passwords_go_first() -> None:
    mask = SecretMask()
    mask.remember("hunter")
    mask.remember("hunter2000")
    assert mask.mask("hunter2000 hunter") == "*** ***"


@given(password=st.text(min_size=4), before=st.text(), after=st.text())
def test_no_password_gets_through(password: str, before: str, after: str) -> None:
    mask = SecretMask()
    mask.remember(password)
    masked = mask.mask(before + password + after)
    assert "***" in masked
    assert all(password not in part for part in masked.split("***"))


def test_hostile_lines_are_masked_in_little_time() -> None:
    start = time.monotonic()
    for line in ("a" * 90_000, "a://" * 22_500, "a://b:" * 15_000, "pwd=" * 22_500):
        SecretMask().mask(line)
    assert time.monotonic() - start < 10


@pytest.mark.parametrize("key", ["password", "passwd", "PWD", "ssl_key_password", "auth_token"])
def test_keys_of_secrets(key: str) -> None:
    assert names_a_secret(key)


def test_other_keys() -> None:
    assert not names_a_secret("ssl_ca")
