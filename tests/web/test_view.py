"""A query is whatever a stranger sends; it comes to a view, and to nothing else."""

from __future__ import annotations

from urllib.parse import parse_qs

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.web.status import BackendStatus, TaskStatus
from exporter.web.view import LONGEST, SORTS, View
from tests.web.statuses import backend, lately, task


def asked(**arguments: str) -> View:
    return View.of({name: [value.encode()] for name, value in arguments.items()})


@pytest.mark.parametrize(
    ("arguments", "view"),
    [
        ({}, View()),
        ({"sort": "newest"}, View(sort="newest")),
        ({"sort": "NEWEST"}, View()),
        ({"sort": "__class__"}, View()),
        ({"sort": "", "task": "", "backend": "", "refresh": "", "other": "1"}, View()),
        ({"task": " mail.send "}, View(task="mail.send")),
        ({"task": "é" * 1000}, View(task="é" * LONGEST)),
        ({"backend": "x" * 100_000}, View(backend="x" * LONGEST)),
        ({"refresh": "off"}, View(refresh=False)),
        ({"refresh": "on"}, View()),
    ],
)
def test_arguments(arguments: dict[str, str], view: View) -> None:
    assert asked(**arguments) == view


def test_bytes_that_are_no_text() -> None:
    assert View.of({"task": [b"\xff\xfea", b"another"]}) == View(task="\ufffd\ufffda")


@given(st.dictionaries(st.sampled_from(["sort", "task", "backend", "refresh"]), st.binary()))
def test_any_bytes_are_a_view_whose_link_leads_back_to_it(arguments: dict[str, bytes]) -> None:
    view = View.of({name: [value] for name, value in arguments.items()})
    link = view.link()
    assert link[0] == "?"
    assert link.isascii()
    assert not set(link) & set("<>\"' \n")
    back = parse_qs(link[1:], keep_blank_values=True)
    assert View.of({k: [v.encode() for v in values] for k, values in back.items()}) == view


def test_links_keep_what_does_not_change() -> None:
    view = View(sort="newest", task="a b&c", refresh=False)
    assert view.link(sort="total") == "?sort=total&task=a+b%26c&refresh=off"
    assert View().link() == "?"


ORDERS = backend("Orders", tasks=(task("Mail.send"), task("pay")))
SHOP = backend("shop")


@pytest.mark.parametrize(
    ("view", "backends", "tasks"),
    [
        (View(), [ORDERS, SHOP], ["Mail.send", "pay"]),
        (View(task="mail"), [ORDERS], ["Mail.send"]),
        (View(backend="ORD"), [ORDERS], ["Mail.send", "pay"]),
        (View(backend="shop"), [SHOP], []),
        (View(task="mail", backend="shop"), [], []),
        (View(backend="none"), [], []),
    ],
)
def test_names_are_found_in_any_case(
    view: View, backends: list[BackendStatus], tasks: list[str]
) -> None:
    """A backend without such a task is not looked for."""
    assert view.backends((ORDERS, SHOP)) == backends
    assert [t.task for each in backends for t in view.tasks(each.tasks)] == tasks


TASKS = (
    task("b", SUCCESS=9),
    task("a", SUCCESS=9),
    lately("fails", 2, 1),
    lately("busy", 5),
    TaskStatus("waits", {"SUCCESS": 3}, {"STARTED": 7}, 5.0),
)
SORTED = {
    "failed": ["fails", "busy", "waits", "a", "b"],
    "task": ["a", "b", "busy", "fails", "waits"],
    "results": ["busy", "fails", "a", "b", "waits"],
    "unfinished": ["waits", "a", "b", "busy", "fails"],
    "newest": ["busy", "fails", "waits", "a", "b"],
    "total": ["a", "b", "waits", "busy", "fails"],
}


@pytest.mark.parametrize("sort", SORTS)
def test_orders(sort: str) -> None:
    assert [found.task for found in View(sort=sort).tasks(TASKS)] == SORTED[sort]
