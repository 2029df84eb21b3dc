"""The tasks of groups, from bytes that Celery stored, and from bytes that it never would."""

from __future__ import annotations

import json
import pickle
from base64 import b64decode, b64encode
from typing import Any

import pytest

from exporter.backends import members
from exporter.backends.members import UntoldError, task_ids
from exporter.counting.groups import Untold

#: A group of "plain", a group of "inner-1" and "inner-2", and a chord of the body "body", whose
#: header has "header-1"; as stored by Celery 5.2.7 and 5.6.3, the backend being db+sqlite://.
PICKLED = {
    "5.2.7": (
        "gAWVuQEAAAAAAACMD2NlbGVyeS5hcHAuYmFzZZSMEV91bnBpY2tsZV9hcHBhdHRylJOUjAtHcm91cFJlc3Vs"
        "dJSMBW91dGVylF2UKGgCjAtBc3luY1Jlc3VsdJQojAVwbGFpbpSMFGNlbGVyeS5iYWNrZW5kcy5iYXNllIwQ"
        "dW5waWNrbGVfYmFja2VuZJSTlIwYY2VsZXJ5LmJhY2tlbmRzLmRhdGFiYXNllIwPRGF0YWJhc2VCYWNrZW5k"
        "lJOUKX2UKIwFZGJ1cmmUjA5zcWxpdGU6Ly8veC5kYpSMB2V4cGlyZXOUjAhkYXRldGltZZSMCXRpbWVkZWx0"
        "YZSTlEsBSwBLAIeUUpSMDmVuZ2luZV9vcHRpb25zlH2UdYeUUpROTk50lIaUUpRoAmgDjAVpbm5lcpRdlCho"
        "AmgGKIwHaW5uZXItMZRoGk5OTnSUhpRSlGgCaAYojAdpbm5lci0ylGgaTk5OdJSGlFKUZYaUhpRSlGgCaAYo"
        "jARib2R5lGgaTk5oAmgDjAZoZWFkZXKUXZRoAmgGKIwIaGVhZGVyLTGUaBpOTk50lIaUUpRhhpSGlFKUdJSG"
        "lFKUZYaUhpRSlC4="
    ),
    "5.6.3": (
        "gAWV3gEAAAAAAACMD2NlbGVyeS5hcHAuYmFzZZSMEV91bnBpY2tsZV9hcHBhdHRylJOUjAtHcm91cFJlc3Vs"
        "dJSMBW91dGVylF2UKGgCjAtBc3luY1Jlc3VsdJQojAVwbGFpbpSMFGNlbGVyeS5iYWNrZW5kcy5iYXNllIwQ"
        "dW5waWNrbGVfYmFja2VuZJSTlIwYY2VsZXJ5LmJhY2tlbmRzLmRhdGFiYXNllIwPRGF0YWJhc2VCYWNrZW5k"
        "lJOUKX2UKIwFZGJ1cmmUjA5zcWxpdGU6Ly8veC5kYpSMB2V4cGlyZXOUjAhkYXRldGltZZSMCXRpbWVkZWx0"
        "YZSTlEsBSwBLAIeUUpSMDmVuZ2luZV9vcHRpb25zlH2UKIwNcG9vbF9wcmVfcGluZ5SIjAxwb29sX3JlY3lj"
        "bGWUTRAOdXWHlFKUTk5OdJSGlFKUaAJoA4wFaW5uZXKUXZQoaAJoBiiMB2lubmVyLTGUaBxOTk50lIaUUpRo"
        "AmgGKIwHaW5uZXItMpRoHE5OTnSUhpRSlGWGlIaUUpRoAmgGKIwEYm9keZRoHE5OaAJoA4wGaGVhZGVylF2U"
        "aAJoBiiMCGhlYWRlci0xlGgcTk5OdJSGlFKUYYaUhpRSlHSUhpRSlGWGlIaUUpQu"
    ),
}
IDS = ["plain", "inner-1", "inner-2", "body"]


def group(*tasks: Any) -> list[Any]:
    return [["id", None], [[[task, None], None] for task in tasks]]


@pytest.mark.parametrize("version", PICKLED)
def test_pickles_of_older_versions(version: str) -> None:
    stored = b64decode(PICKLED[version])
    assert b"sqlite://" in stored
    assert task_ids(stored) == IDS


def test_json_and_what_django_stores() -> None:
    """Lists and tuples: as JSON, or pickled and in base64, with any protocol."""
    header = [["header", None], [[["header-1", None], None]]]
    inner = [["inner", None], [[["inner-1", None], None], [["inner-2", None], None]]]
    stored = [["outer", None], [[["plain", None], None], inner, [["body", header], None]]]
    assert task_ids(json.dumps(stored).encode()) == IDS
    for protocol in range(2, pickle.HIGHEST_PROTOCOL + 1):
        pickled = pickle.dumps((("outer", None), tuple(stored)[1]), protocol=protocol)
        assert task_ids(pickled) == IDS
        assert task_ids(b64encode(pickled)) == IDS
    assert task_ids(json.dumps(group("a", "b", "a")).encode()) == ["a", "b"], "each once"
    assert task_ids(json.dumps(group()).encode()) == []


def _in_itself() -> bytes:
    """Pickle a group that has itself among its results, thrice."""
    results: list[Any] = []
    results += [(("inner", None), results)] * 3
    return pickle.dumps((("outer", None), results))


def _laughs() -> bytes:
    """Pickle groups within groups that have 2 to the power of 60 tasks."""
    results: list[Any] = [(("task", None), None)] * 2
    for _ in range(60):
        results = [(("inner", None), results)] * 2
    return pickle.dumps((("outer", None), results))


@pytest.mark.parametrize(
    ("stored", "reason"),
    [
        (b"", Untold.NOT_UNDERSTOOD),
        (b"null", Untold.NOT_UNDERSTOOD),
        (b'[["task", null], null]', Untold.NOT_UNDERSTOOD),
        (b'{"a": 1, "b": [2]}', Untold.NOT_UNDERSTOOD),
        (b"- - id\n  - null\n", Untold.NOT_UNDERSTOOD),
        (b"\x92\x92\xa2id\xc0\x90", Untold.NOT_UNDERSTOOD),
        (b"[" * 900_000, Untold.NOT_UNDERSTOOD),
        (b'[["id", null], ' * 60_000, Untold.NOT_UNDERSTOOD),
        (b"x" * (members.LONGEST + 1), Untold.TOO_LARGE),
        (json.dumps(group(7)).encode(), Untold.NOT_UNDERSTOOD),
        (json.dumps(group(["a"])).encode(), Untold.NOT_UNDERSTOOD),
        (json.dumps(group("")).encode(), Untold.NOT_UNDERSTOOD),
        (json.dumps(group("a\0b")).encode(), Untold.NOT_UNDERSTOOD),
        (json.dumps(group("\ud800")).encode(), Untold.NOT_UNDERSTOOD),
        (json.dumps(group("ü")).encode(), Untold.NOT_UNDERSTOOD),
        (json.dumps(group("a" * 256)).encode(), Untold.NOT_UNDERSTOOD),
        (json.dumps(group("a" * 1_000_000)).encode(), Untold.NOT_UNDERSTOOD),
        (json.dumps(group(*map(str, range(10_001)))).encode(), Untold.TOO_LARGE),
        (b"\x80\x04\x8c\x02os\x8c\x06system\x93\x8c\x04true\x85R.", Untold.NOT_UNDERSTOOD),
        (b"\x80\x04cos\nsystem\n\x8c\x04true\x85R.", Untold.NOT_UNDERSTOOD),
        (b"\x80\x04", Untold.NOT_UNDERSTOOD),
        (b"\x80\x04.", Untold.NOT_UNDERSTOOD),
        (b"\x80\x04]]].", Untold.NOT_UNDERSTOOD),
        (b"\x80\x04h\x07.", Untold.NOT_UNDERSTOOD),
        (b"\x80\x04\x8c\x01aQ.", Untold.NOT_UNDERSTOOD),
        (b"\x80\x04I" + b"9" * 900_000 + b"\n.", Untold.NOT_UNDERSTOOD),
        (b"\x80\x04N" + b"\x85" * 190_000 + b".", Untold.NOT_UNDERSTOOD),
        (b"\x80\x04" + b"N" * 900_000 + b".", Untold.TOO_LARGE),
        (_in_itself(), Untold.TOO_LARGE),
        (_laughs(), Untold.TOO_LARGE),
    ],
)
def test_what_cannot_be_told(stored: bytes, reason: Untold) -> None:
    with pytest.raises(UntoldError) as caught:
        task_ids(stored)
    assert caught.value.reason is reason
