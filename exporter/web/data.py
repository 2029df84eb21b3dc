"""PURE: the status as data: what the page shows, for programs. docs/status.md says what is what."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass, replace
from typing import Any

from exporter.printable import printable
from exporter.web.status import ServiceStatus
from exporter.web.verdict import verdict
from exporter.web.view import View


def render(status: ServiceStatus, now: float, view: View) -> str:
    """Return it as JSON; ``now`` is Unix time."""
    return "".join(_parts(status, now, view))


def _parts(status: ServiceStatus, now: float, view: View) -> Iterator[str]:
    """Yield it bit by bit: nobody else runs while a text is made of a value."""
    judged = verdict(status, now)
    whole = plain(replace(status, backends=())) | {
        "as_of": now,
        "level": judged.level.name.lower(),
        "headline": printable(judged.headline),
        "troubles": [
            plain(trouble) | {"level": trouble.level.name.lower()} for trouble in judged.troubles
        ],
    }
    del whole["backends"]
    yield json.dumps(whole)[:-1]
    yield ', "backends": ['
    for number, backend in enumerate(view.backends(status.backends)):
        found = replace(backend, tasks=tuple(view.tasks(backend.tasks)))
        yield ", " * bool(number) + json.dumps(plain(found))
    yield "]}\n"


def plain(value: Any) -> Any:
    """Return a value as JSON has it; text is printable, whoever wrote it."""
    if isinstance(value, str):
        return printable(value)
    if isinstance(value, Mapping):
        return {printable(key): plain(each) for key, each in value.items()}
    if isinstance(value, tuple):
        return [plain(each) for each in value]
    if is_dataclass(value):
        return {field.name: plain(getattr(value, field.name)) for field in fields(value)}
    return value
