"""PURE: the status page for people, as HTML."""

from __future__ import annotations

import base64
import hashlib
import re
from collections import Counter
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from tornado.escape import xhtml_escape
from tornado.template import Template

from exporter.durations import ago, span, utc
from exporter.printable import printable

if TYPE_CHECKING:
    from exporter.web.status import BackendStatus, ServiceStatus, TaskStatus

TASKS_SHOWN = 100
LONGEST_STATE = 40  # characters
REFRESH = 15  # seconds
STATES = ("SUCCESS", "FAILURE", "REVOKED")  # finished states with a column of their own

_HERE = Path(__file__).parent
_STYLE = (_HERE / "status.css").read_text(encoding="utf-8")
_STYLE_HASH = base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()
CONTENT_SECURITY_POLICY = (
    f"default-src 'none'; style-src 'sha256-{_STYLE_HASH}'; img-src data:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


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
        escaped=escaped,
        breakable=breakable,
        shortened=shortened,
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
    return Template(source, name="status.html", autoescape=escaped.__name__)  # of every value


def badge(backend: BackendStatus) -> str:
    """Return the backend's condition in one word."""
    if backend.up is False:
        return "down"
    return "up" if backend.up and not backend.message else "waiting"


def escaped(text: str | bytes) -> str:
    """Return any text as HTML that shows all of it: nothing in it is markup or turns text round."""
    return xhtml_escape(printable(text if isinstance(text, str) else text.decode()))


def breakable(name: str) -> str:
    """Return a dotted name as HTML that may wrap after its dots and underscores."""
    return re.sub("[._]", r"\g<0><wbr>", escaped(name))


def shortened(state: str) -> str:
    """Return a state in a few words' length; Celery's own are shorter."""
    return printable(state, LONGEST_STATE)


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
