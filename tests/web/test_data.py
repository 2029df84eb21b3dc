"""`/status.json` has what the page shows, as docs/status.md says."""

from __future__ import annotations

import json
import re
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from exporter.web.data import render
from exporter.web.status import (
    BackendStatus,
    BeatStatus,
    CatchUpStatus,
    HourStatus,
    OutageStatus,
    ServiceStatus,
    TableStatus,
    TaskStatus,
)
from exporter.web.troubles import Trouble
from exporter.web.view import View
from tests.web.statuses import NOW, backend, down, hour, lately, service, task

if TYPE_CHECKING:
    from collections.abc import Iterator

DOCUMENT = (Path(__file__).parents[2] / "docs" / "status.md").read_text()


def data(status: ServiceStatus, view: View | None = None) -> Any:
    return json.loads(render(status, NOW, view or View()))


def test_all_of_it() -> None:
    one = backend(
        catching_up=CatchUpStatus(5, 0.5, None),
        outages=(OutageStatus(NOW - 9, None, "x"),),
        tables=(TableStatus("task", "t", present=True),),
        hour=hour(3, 1),
        tasks=(lately("a", 3, 1, KeyError=60),),
    )
    found = data(service(one, unready="soon"))
    assert (found["as_of"], found["version"], found["unready"]) == (NOW, "1.2.3", "soon")
    assert found["level"] == "look"
    assert found["headline"].startswith("Worth a look: orders has failing tasks")
    assert [trouble["level"] for trouble in found["troubles"]] == ["look", "behind"]
    (only,) = found["backends"]
    assert only["hour"]["results"] == [3] * 60
    assert only["tasks"][0]["failures"] == [1] * 60
    assert only["tasks"][0]["exceptions"] == {"KeyError": 60}
    assert only["catching_up"] == {"ids_left": 5, "done": 0.5, "seconds_left": None}
    assert data(service(backend()))["level"] == "well"


def test_what_is_looked_for() -> None:
    status = service(backend("a", tasks=(task("x"), task("y"))), down("b"))
    found = data(status, View(task="x", backend="a"))
    assert [b["name"] for b in found["backends"]] == ["a"]
    assert [t["task"] for t in found["backends"][0]["tasks"]] == ["x"]
    assert found["level"] == "down"  # of all, whatever is looked for


def test_text_is_printable() -> None:
    """Whoever prints it to a terminal sees text, and not endlessly much."""
    word = "\x1b[2J\u202e\n" + "x" * 10_000
    tasks = (TaskStatus(word, {word: 1}, {word: 1}, NOW, {word: 1.0}, (), (), {word: 1}),)
    status = service(down(word, message=word, tasks=tasks), version=word, refused=(word,))
    text = render(status, NOW, View())
    assert text.isascii()
    assert len(text) < 15_000
    assert all(each.isprintable() for each in texts(json.loads(text)))
    assert any(each.startswith(r"\x1b[2J\u202e\nxxx") for each in texts(json.loads(text)))


def texts(value: Any) -> Iterator[str]:
    """Yield every text in it, keys too."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for key, each in value.items():
            yield key
            yield from texts(each)
    elif isinstance(value, list):
        for each in value:
            yield from texts(each)


DATACLASSES = {
    "Schedules of celery beat": BeatStatus,
    "status": ServiceStatus,
    "trouble": Trouble,
    "backend": BackendStatus,
    "Catching up": CatchUpStatus,
    "outage": OutageStatus,
    "hour": HourStatus,
    "table": TableStatus,
    "task": TaskStatus,
}
MADE = {"status": ["as_of", "level", "headline", "troubles"]}


@pytest.mark.parametrize("name", DATACLASSES)
def test_every_field_is_told(name: str) -> None:
    """In a table of its own, in whatever order."""
    (section,) = re.findall(
        rf"^### (?:The |A |An )?{name}\n(.*?)(?=^### |\Z)", DOCUMENT, re.DOTALL | re.MULTILINE
    )
    told = re.findall(r"^\| `(\w+)` \|", section, re.MULTILINE)
    assert len(told) == len(set(told))
    known = [field.name for field in fields(DATACLASSES[name])] + MADE.get(name, [])
    assert set(told) == set(known)
