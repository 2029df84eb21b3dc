"""PURE: what of the status is asked for: names to look for, and an order. From whoever asks.

Whatever a query says, it is a view: what is too long is cut, what is unknown is as if not said.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import urlencode

from exporter.web.status import BackendStatus, TaskStatus

LONGEST = 200  # characters; Celery's names of tasks have 155 at most


def _total(task: TaskStatus) -> int:
    return sum(task.finished.values())


def _failing(task: TaskStatus) -> tuple[Any, ...]:
    return -sum(task.failures), -sum(task.results), -sum(task.unfinished.values()), -_total(task)


# What comes first, by the value of `sort`; the first of them where none is given.
SORTS: Mapping[str, Callable[[TaskStatus], Any]] = {
    "failed": _failing,
    "task": lambda task: task.task,
    "results": lambda task: -sum(task.results),
    "unfinished": lambda task: -sum(task.unfinished.values()),
    "newest": lambda task: -(task.last_finished or 0.0),
    "total": lambda task: -_total(task),
}
BY_FAILED = next(iter(SORTS))


@dataclass(frozen=True, slots=True)
class View:
    """What is asked for."""

    sort: str = BY_FAILED
    task: str = ""  # part of a name, in any case
    backend: str = ""  # likewise
    refresh: bool = True

    @classmethod
    def of(cls, arguments: Mapping[str, Sequence[bytes]]) -> View:
        """Read the arguments of a query, each as it was sent."""

        def text(name: str) -> str:
            (value,) = arguments.get(name, ())[:1] or (b"",)
            return value[: 4 * LONGEST].decode(errors="replace")[:LONGEST].strip()

        sort = text("sort")
        return cls(
            sort=sort if sort in SORTS else BY_FAILED,
            task=text("task"),
            backend=text("backend"),
            refresh=text("refresh") != "off",
        )

    def link(self, **changes: Any) -> str:
        """Return a relative link to this view, but for what changes."""
        view = replace(self, **changes)
        said = {
            "sort": "" if view.sort == BY_FAILED else view.sort,
            "task": view.task[:LONGEST],
            "backend": view.backend[:LONGEST],
            "refresh": "" if view.refresh else "off",
        }
        return "?" + urlencode({name: value for name, value in said.items() if value})

    def backends(self, backends: Iterable[BackendStatus]) -> list[BackendStatus]:
        """Return those with the names that are looked for, their own and their tasks'."""
        return [
            backend
            for backend in backends
            if _has(backend.name, self.backend)
            and (not self.task or any(_has(task.task, self.task) for task in backend.tasks))
        ]

    def tasks(self, tasks: Iterable[TaskStatus]) -> list[TaskStatus]:
        """Return those with the name that is looked for, sorted; the alike by their names."""
        key = SORTS[self.sort]
        found = (task for task in tasks if _has(task.task, self.task))
        return sorted(found, key=lambda task: (key(task), task.task))


def _has(name: str, part: str) -> bool:
    return part.casefold() in name.casefold()
