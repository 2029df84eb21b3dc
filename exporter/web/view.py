"""PURE: what of the status is asked for: names to look for, and an order. From whoever asks.

Whatever a query says, it is a view: what is too long is cut, what is unknown is as if not said.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import urlencode

from exporter.web.status import ServiceStatus, TaskStatus

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

    def of_status(self, status: ServiceStatus) -> ServiceStatus:
        """Return what of the status has the names that are looked for."""
        if not self.task and not self.backend:
            return status
        backends = (
            replace(backend, tasks=tuple(t for t in backend.tasks if _has(t.task, self.task)))
            for backend in status.backends
            if _has(backend.name, self.backend)
        )
        return replace(status, backends=tuple(backends))

    def ordered(self, tasks: Sequence[TaskStatus]) -> list[TaskStatus]:
        """Sort tasks; those that are alike by their names."""
        key = SORTS[self.sort]
        return sorted(tasks, key=lambda task: (key(task), task.task))


def _has(name: str, part: str) -> bool:
    return part.casefold() in name.casefold()
