"""PURE: the status page for people, as HTML."""

from __future__ import annotations

import base64
import hashlib
import re
from collections import Counter
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from tornado.escape import xhtml_escape
from tornado.template import Template

if TYPE_CHECKING:
    from exporter.status import BackendStatus, ServiceStatus, TaskStatus

TASKS_SHOWN = 100
REFRESH = 15  # seconds
STATES = ("SUCCESS", "FAILURE", "REVOKED")  # finished states with a column of their own

_HERE = Path(__file__).parent
_STYLE = (_HERE / "status.css").read_text(encoding="utf-8")
_STYLE_HASH = base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()
CONTENT_SECURITY_POLICY = (
    f"default-src 'none'; style-src 'sha256-{_STYLE_HASH}'; img-src data:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def render(
    status: ServiceStatus,
    now: float,
    *,
    metrics: str = "metrics",
    unhealthy: str = "",
    unready: str = "",
    refresh: bool = True,
) -> str:
    """Return the whole page; ``now`` is Unix time, ``metrics`` a relative link."""
    page: bytes = _template().generate(
        style=_STYLE,
        status=status,
        now=now,
        metrics=metrics,
        unhealthy=unhealthy,
        unready=unready,
        refresh=REFRESH if refresh else None,
        states=STATES,
        badge=badge,
        breakable=breakable,
        busiest=busiest,
        finished_by_state=finished_by_state,
        span=span,
        ago=ago,
        utc=utc,
    )
    return page.decode()


@cache
def _template() -> Template:
    source = (_HERE / "status.html").read_text(encoding="utf-8")
    return Template(source, name="status.html")  # escapes every value unless told not to


def badge(backend: BackendStatus) -> str:
    """Return the backend's condition in one word."""
    if backend.up is False:
        return "down"
    return "up" if backend.up and not backend.message else "waiting"


def breakable(name: str) -> str:
    """Return a dotted name as HTML that may wrap after its dots and underscores."""
    return re.sub("[._]", r"\g<0><wbr>", xhtml_escape(name))


def busiest(tasks: tuple[TaskStatus, ...]) -> list[TaskStatus]:
    """Return the tasks to show: those with most results first."""

    def by_results(task: TaskStatus) -> tuple[int, str]:
        return -sum(task.finished.values()) - sum(task.unfinished.values()), task.task

    return sorted(tasks, key=by_results)[:TASKS_SHOWN]


def finished_by_state(tasks: tuple[TaskStatus, ...]) -> Counter[str]:
    """Add up the finished results of all tasks."""
    total: Counter[str] = Counter()
    for task in tasks:
        total.update(task.finished)
    return total


def span(seconds: float) -> str:
    """Write a length of time in two or three digits: ``12 ms``, ``3.4 s``, ``5 min``."""
    whole = round(seconds)
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if whole >= 2 * size:
            return f"{whole // size} {unit}"
    value, unit = (seconds, "s") if seconds >= 1 else (seconds * 1000, "ms")
    return f"{round(value, 1) if value < 10 else round(value):g} {unit}"  # noqa: PLR2004 (digits)


def ago(moment: float, now: float) -> str:
    """Say how long before or after now a moment is, in whole seconds or larger units."""
    seconds = round(now - moment)
    if seconds == 0:
        return "just now"
    return f"{span(seconds)} ago" if seconds > 0 else f"in {span(-seconds)}"


def utc(moment: float) -> str:
    """Write a Unix time as a date; "" where no calendar has it (databases hold odd dates)."""
    try:
        return (_EPOCH + timedelta(seconds=moment)).strftime("%Y-%m-%d %H:%M:%S UTC")
    except (OverflowError, ValueError):
        return ""
