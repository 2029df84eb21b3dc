"""PURE: the status page for people, as HTML."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from tornado.escape import xhtml_escape
from tornado.template import Template

from exporter.backends.findings import BRINGS
from exporter.durations import ago, span, utc
from exporter.printable import printable, some
from exporter.web import charts
from exporter.web.status import BackendStatus, HourStatus, ServiceStatus, TableStatus, TaskStatus
from exporter.web.troubles import Level, day
from exporter.web.verdict import Verdict, verdict
from exporter.web.view import BY_FAILED, LONGEST, View

MOST_BACKENDS = 200  # on a page
MOST_ROWS = 400  # tasks on a page, about
MOST_TASKS, LEAST_TASKS = 200, 5  # of a backend
MOST_TROUBLES = 10  # that are listed
FEW = 3  # backends that are all shown in full
LONGEST_STATE = 40  # characters
REFRESH = 30  # seconds
STATES = ("SUCCESS", "FAILURE", "REVOKED")  # those that are finished

_HERE = Path(__file__).parent
_STYLE = (_HERE / "status.css").read_text(encoding="utf-8")
_STYLE_HASH = base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()
CONTENT_SECURITY_POLICY = (
    f"default-src 'none'; style-src 'sha256-{_STYLE_HASH}'; img-src data:; "
    "base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
)

# What a backend lacks, and what it would bring.
MISSING = {
    "extended": "No names of tasks: the table has no columns for them, or the account may not read "
    f"them. {BRINGS['extended']}",
    "names": "No names of tasks: no row has one. Set result_extended = True in the Celery app. "
    f"{BRINGS['extended']}",
    "date_done_index": f"No index on date_done. {BRINGS['date_done_index']}",
    "snapshot": "No snapshots: gaps and unfinished tasks may be a moment younger than the counts. "
    f"{BRINGS['snapshot']}",
    "table_group": "No table of groups, or no right to read it. Celery creates it with the first "
    f"one. {BRINGS['table_group']}",
    "payload": "No bytes of some parts that payload_bytes names: the table has no such column, or "
    "the account may not read it.",
    "groups": "Groups are not followed until they complete: the account may not read the column "
    "result of their table, or task_id of the tasks'; or that is not VARCHAR.",
    "runtimes": "No exact run times: the table has no date_started, which is new in "
    "django-celery-results 2.6, or the account may not read it; or timezone is not UTC, and the "
    f"database stores dates without a zone. {BRINGS['runtimes']}",
}


@dataclass(frozen=True, slots=True)
class Figure:
    """One number of a backend."""

    label: str
    text: str
    moment: float | None = None  # Unix time, seconds
    more: str = ""


@dataclass(frozen=True, slots=True)
class Card:
    """One backend, as much of it as is shown."""

    backend: BackendStatus
    level: Level
    open: bool
    tasks: list[TaskStatus]
    more: str  # about tasks that are not shown

    @property
    def condition(self) -> str:
        """The backend's condition in a word."""
        return condition(self.backend, self.level)


def render(
    status: ServiceStatus, now: float, view: View | None = None, *, metrics: str = "metrics"
) -> str:
    """Return the whole page; ``now`` is Unix time, ``metrics`` a relative link."""
    view = view or View()
    judged = verdict(status, now)
    found = view.backends(status.backends)
    page: bytes = _template().generate(
        style=_STYLE,
        status=status,
        now=now,
        view=view,
        verdict=judged,
        cards=cards(found, judged, view),
        found=found,
        shares=shares(status),
        metrics=metrics,
        data=f"status.json{view.link(refresh=True).rstrip('?')}",
        link=xhtml_escape,
        by_failed=BY_FAILED,
        refresh=REFRESH,
        states=STATES,
        most_troubles=MOST_TROUBLES,
        longest=LONGEST,
        missing=MISSING,
        chart=charts,
        brief=brief,
        figures=figures,
        last_outage=last_outage,
        hour_words=hour_words,
        escaped=escaped,
        breakable=breakable,
        shortened=shortened,
        ids_end=ids_end,
        some=some,
        span=span,
        ago=ago,
        utc=utc,
    )
    return page.decode()


@cache
def _template() -> Template:
    source = (_HERE / "status.html").read_text(encoding="utf-8")
    return Template(source, name="status.html", autoescape=escaped.__name__)  # of every value


# -- text ----------------------------------------------------------------------------------------


def escaped(text: str | bytes) -> str:
    """Return any text as HTML that shows all of it: nothing in it is markup or turns text round."""
    return xhtml_escape(printable(text if isinstance(text, str) else text.decode()))


def breakable(name: str) -> str:
    """Return a dotted name as HTML that may wrap after its dots and underscores."""
    return re.sub("[._]", r"\g<0><wbr>", escaped(name))


def shortened(state: str) -> str:
    """Return a state in a few words' length; Celery's own are shorter."""
    return printable(state, LONGEST_STATE)


# -- what is shown -------------------------------------------------------------------------------


def shares(status: ServiceStatus) -> list[tuple[str, list[str]]]:
    """Return the backends that each replica follows, and last those that none does, under ""."""
    found: dict[str, list[str]] = {status.replica: []} if status.replica else {}
    for backend, replica in sorted(status.followers.items()):
        found.setdefault(replica, []).append(backend)
    return sorted(found.items(), key=lambda share: (not share[0], share[0]))


def cards(backends: Sequence[BackendStatus], judged: Verdict, view: View) -> list[Card]:
    """Return the backends to show, those with trouble first and in full, where there are many."""

    def level(backend: BackendStatus) -> Level:
        return judged.levels.get(backend.name, Level.WELL)

    shown = sorted(backends, key=level, reverse=True)[:MOST_BACKENDS]
    rows = min(max(MOST_ROWS // max(len(shown), 1), LEAST_TASKS), MOST_TASKS)
    return [
        Card(
            backend=backend,
            level=level(backend),
            open=len(shown) <= FEW or level(backend) > Level.BEHIND,
            tasks=(tasks := view.tasks(backend.tasks))[:rows],
            more=_more(backend, tasks[:rows], tasks[rows:], whole=not view.task),
        )
        for backend in shown
    ]


def _more(
    backend: BackendStatus,
    shown: Sequence[TaskStatus],
    others: Sequence[TaskStatus],
    *,
    whole: bool,
) -> str:
    """Say in a line what all the other tasks come to."""
    hour = backend.hour
    if whole and hour is not None:  # with those that are not told apart by minute
        results = sum(hour.results) - sum(sum(task.results) for task in shown)
        failures = sum(hour.failures) - sum(sum(task.failures) for task in shown)
    else:
        results = sum(sum(task.results) for task in others)
        failures = sum(sum(task.failures) for task in others)
    if not others and not results:
        return ""
    tasks = f"{len(others):,} more tasks have"
    if len(others) <= 1:
        tasks = "One more task has" if others else "Tasks that are not told apart by minute have"
    return f"{tasks} {results:,} results in the last hour, of which {failures:,} failed."


def condition(backend: BackendStatus, level: Level) -> str:
    """Return a backend's condition in a word, so that colour is never needed to tell."""
    if backend.stuck:
        return "stuck"
    if level is Level.DOWN:
        return "down"
    if backend.catching_up is not None:
        return "catching up"
    if not backend.up or backend.message:
        return "waiting"
    return "worth a look" if level is Level.LOOK else "up"


def brief(backend: BackendStatus) -> str:
    """Return what is good to know of a backend that is well."""
    hour = backend.hour
    if hour is None:
        return backend.server
    results, failures = sum(hour.results), sum(hour.failures)
    return f"{results:,} results in the {hour_words(hour)}, {failures:,} failed"


def figures(backend: BackendStatus, now: float) -> Iterator[Figure]:
    """Yield the numbers of a backend, the most urgent first."""
    if backend.up is not None and backend.since is not None:
        yield Figure("Up since" if backend.up else "Down since", "", backend.since)
    took = "" if backend.poll_duration is None else f"took {span(backend.poll_duration)}, "
    yield Figure(
        "Last poll",
        "never" if backend.last_poll is None else "",
        backend.last_poll,
        f"{took}every {span(backend.poll_interval)}",
    )
    yield from _of_results(backend)
    yield from _of_unfinished(backend, now)
    yield from _of_tables(backend, now)
    if (beat := backend.beat) is not None:
        bad = ((beat.overdue, "overdue"), (beat.unreadable, "unreadable"))
        more = ", ".join(f"{count:,} {what}" for count, what in bad if count)
        yield Figure("Schedules", f"{beat.entries:,}" if beat.up else "not read", more=more)


def _of_results(backend: BackendStatus) -> Iterator[Figure]:
    if (hour := backend.hour) is not None:
        results, failures = sum(hour.results), sum(hour.failures)
        yield Figure(f"Results in the {hour_words(hour)}", f"{results:,}")
        ratio = f"{failures / results:.1%}" if failures else ""
        yield Figure(f"Failed in the {hour_words(hour)}", f"{failures:,}", more=ratio)
    moments = [t.last_finished for t in backend.tasks if t.last_finished is not None]
    if moments:
        yield Figure("Newest result", "", max(moments))
    total = sum(sum(task.finished.values()) for task in backend.tasks)
    failed = sum(task.finished.get("FAILURE", 0) for task in backend.tasks)
    yield Figure(
        "Counted so far", f"{total:,}", more=f"{failed / total:.1%} failed" if total else ""
    )


def _of_unfinished(backend: BackendStatus, now: float) -> Iterator[Figure]:
    rows = sum(sum(task.unfinished.values()) for task in backend.tasks)
    first = min((since for t in backend.tasks for since in t.oldest.values()), default=None)
    oldest = "" if first is None else f"oldest first seen {ago(first, now)}"
    yield Figure("Unfinished", f"{rows:,}", more=oldest)


def _of_tables(backend: BackendStatus, now: float) -> Iterator[Figure]:
    catch_up = backend.catching_up
    if catch_up is not None:
        seconds = catch_up.seconds_left
        left = "time left not known" if seconds is None else f"about {span(seconds)} left"
        yield Figure("Caught up", f"{catch_up.done:.0%}", more=f"{catch_up.ids_left:,} ids, {left}")
    yield Figure("Backlog", f"{sum(table.backlog_ids for table in backend.tables):,} ids")
    yield Figure("Gaps", f"{sum(table.gap_ids for table in backend.tables):,} ids")
    oldest = [t.oldest_result for t in backend.tables if t.oldest_result is not None]
    if oldest:
        yield Figure("Oldest result", "", min(oldest))
    used = [table for table in backend.tables if table.id_used_ratio is not None]
    if used:
        worst = max(used, key=lambda table: table.id_used_ratio or 0.0)
        yield Figure("Ids used", f"{worst.id_used_ratio:.1%}", more=ids_end(worst, now))


def ids_end(table: TableStatus, now: float) -> str:
    """Say when the ids run out."""
    if table.ids_run_out is None:
        return ""
    return f"run out {day(table.ids_run_out, now)}"


def hour_words(hour: HourStatus) -> str:
    """Say how much of the last hour was followed."""
    return "last hour" if hour.known == len(hour.results) else f"last {hour.known} min"


def last_outage(backend: BackendStatus, now: float) -> str:
    """Say when and why a backend was down that is up again."""
    if not backend.outages or (outage := backend.outages[-1]).until is None:
        return ""
    lasted = span(outage.until - outage.since)
    return (
        f"Was down for {lasted} from {utc(outage.since)} on, {ago(outage.since, now)}: "
        f"{outage.message}"
    )
