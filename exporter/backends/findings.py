"""PURE: what a backend lacks or risks, why that matters, and what to do about it.

Each function in FINDINGS looks at one thing. Nothing is guessed: what a look does not show is not
said.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum

from exporter.backends.family import Family, Layout
from exporter.backends.reader import Health
from exporter.counting.results import STARTED, SUCCESS, Row
from exporter.durations import ago

DAY = 86400.0  # seconds
KEPT_LONG = 3 * DAY  # results expire after one day by default
IDS_PLAN, IDS_USED = 0.1, 0.8  # of the space of ids: from when on to widen it, and to hurry

# What a backend that lacks something would bring with it.
BRINGS = {
    "extended": "With names, results are told apart by task, worker and queue.",
    "started": "With it there is a row for each task that runs: which ones, since when, and how "
    "long the long ones take.",
    "runtimes": "With it there is celery_task_runtime_seconds, exact and of every task.",
    "date_done_index": "With it Celery's cleanup no longer reads the whole table each time.",
    "snapshot": "With them all numbers are of one moment, the server sums up rows instead of "
    "sending them, and readers and writers do not wait for each other.",
    "table_group": "With it saved groups are counted.",
}
# What each column brings, by the field of Layout that names it.
COLUMNS = {
    "task": "the label task",
    "worker": "the label worker",
    "queue": "the label queue",
    "retries": "retries",
    "done": "the times of results",
    "task_id": "exemplars",
    "result": "the label exception",
    "traceback": "the label exception",
    "created": "run times",
    "started": "run times",
}
PAYLOAD = ("result", "traceback")


class Severity(StrEnum):
    """How much it matters."""

    ERROR = "error"  # the backend is not read
    WARNING = "warning"  # something is lost, or may break
    ADVICE = "advice"  # there is more to get


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that could be better."""

    name: str  # for programs: docs/check.md lists them
    severity: Severity
    what: str
    why: str
    todo: str = ""
    settings: tuple[str, ...] = ()  # lines of the Celery app, or of Django's settings
    sql: tuple[str, ...] = ()  # statements, for whoever may run them


@dataclass(frozen=True, slots=True)
class TableSeen:
    """One table at one look, and statements that might help it: () where none is known."""

    layout: Layout
    name: str  # as statements name it
    columns: tuple[str, ...] = ()  # that are read; none: the table may not be
    all_columns: frozenset[str] = frozenset()  # that are seen
    absent: tuple[str, ...] = ()  # that the table does not have
    hidden: tuple[str, ...] = ()  # that may not be read
    hidden_surely: bool = True  # or are they not there?
    date_done_index: bool | None = None  # None: not known, or there is no such column
    newest: Sequence[Row] = ()
    starts: int | None = None  # of the newest rows, those that say when their task began
    health: Health | None = None
    writable: bool | None = None  # None: not known
    alterable: bool = False  # it is a table, and no view, as far as is known
    index: tuple[str, ...] = ()
    extension: tuple[str, ...] = ()  # adds what result_extended fills
    wider_ids: tuple[str, ...] = ()
    grants: tuple[str, ...] = ()  # to the account that looks

    @property
    def kind(self) -> str:
        """The value of the label `table`."""
        return self.layout.kind


@dataclass(frozen=True, slots=True)
class Seen:
    """One backend at one look."""

    family: Family
    tables: tuple[TableSeen, ...]  # those that are there, as far as is known
    now: float  # Unix time, seconds
    schedules_hidden: tuple[str, ...] = ()  # tables of celery beat that may not be read
    schedules_grants: tuple[str, ...] = ()
    snapshot: bool = True
    snapshots: tuple[str, ...] = ()  # statements that bring them
    reader: tuple[str, ...] = ()  # statements that make an account that only reads
    types_ids: bool = False  # as of its dialect

    @property
    def main(self) -> TableSeen | None:
        """The table of tasks, if it is read."""
        return next((table for table in self.read if table.layout is self.family.main), None)

    @property
    def read(self) -> tuple[TableSeen, ...]:
        """Those that are read."""
        return tuple(table for table in self.tables if table.columns)

    def setting(self, name: str, value: object) -> str:
        """Return the line that sets one of Celery's settings."""
        return self.family.assignment.format(name=name, NAME=name.upper(), value=value)


def findings(seen: Seen) -> list[Finding]:
    """Return all that is found, in the order of FINDINGS."""
    return [finding for find in FINDINGS for finding in find(seen)]


# -- rights --------------------------------------------------------------------------------------


def _no_right_to_tables(seen: Seen) -> Iterator[Finding]:
    for table in seen.tables:
        if table.columns:
            continue
        main = table.layout is seen.family.main
        yield Finding(
            "table_rights",
            Severity.ERROR if main else Severity.ADVICE,
            f"this account may not read {table.name}"
            + ("" if table.hidden_surely else ", if it is there"),
            "Without it nothing is counted." if main else BRINGS["table_group"],
            sql=table.grants,
        )


def _no_right_to_columns(seen: Seen) -> Iterator[Finding]:
    for table in seen.read:
        if not table.hidden:
            continue
        names = ", ".join(table.hidden)
        fields = [field for field in COLUMNS if getattr(table.layout, field) in table.hidden]
        brought = ", ".join(dict.fromkeys(COLUMNS[field] for field in fields))
        payload = " Of result and traceback only the ends are read, but they may hold private data."
        yield Finding(
            "column_rights",
            Severity.ADVICE,
            f"this account may not read {names} of {table.name}"
            if table.hidden_surely
            else f"{names} of {table.name} cannot be seen: they are not there, or this account may "
            "not read them",
            f"They bring {brought}." + payload * any(f in PAYLOAD for f in fields),
            sql=table.grants,
        )


def _no_right_to_schedules(seen: Seen) -> Iterator[Finding]:
    if seen.schedules_hidden:
        yield Finding(
            "schedule_rights",
            Severity.ADVICE,
            f"this account may not read {', '.join(seen.schedules_hidden)} of celery beat",
            "With them it is known whether beat sends its schedules on time.",
            sql=seen.schedules_grants,
        )


def _right_to_write(seen: Seen) -> Iterator[Finding]:
    kinds = [table.kind for table in seen.read if table.writable]
    if kinds:
        yield Finding(
            "writable",
            Severity.WARNING,
            f"this account can write to the {' and the '.join(f'{kind} table' for kind in kinds)}; "
            "a SELECT grant is enough",
            "The exporter never writes there. Whoever gets hold of its password could.",
            todo="Let it log in with an account of its own.",
            sql=seen.reader,
        )


# -- what Celery stores --------------------------------------------------------------------------


def _no_names(seen: Seen) -> Iterator[Finding]:
    table = seen.main
    if table is None or table.layout.task in table.hidden:
        return
    if table.layout.task in table.absent:
        yield Finding(
            "name_columns",
            Severity.WARNING,
            f"{table.name} has no column {table.layout.task}, so task, worker and queue are empty",
            BRINGS["extended"],
            todo=seen.family.older,
            settings=(seen.setting("result_extended", value=True),),
            sql=table.extension,
        )
    elif table.newest and not any(row.task for row in table.newest):
        yield Finding(
            "result_extended",
            Severity.WARNING,
            f"none of the newest {len(table.newest):,} rows has a name, so task, worker and queue "
            "are empty",
            BRINGS["extended"],
            todo="Set result_extended = True in the Celery app, and restart its workers.",
            settings=(seen.setting("result_extended", value=True),),
        )


def _no_running_tasks(seen: Seen) -> Iterator[Finding]:
    table = seen.main
    if table is None or not table.newest or any(row.state == STARTED for row in table.newest):
        return
    rows = len(table.newest)
    if table.starts is None:
        said = f"none of the newest {rows:,} rows is {STARTED}: either nothing runs just now, or "
    elif table.starts == 0 and any(row.state == SUCCESS for row in table.newest):
        said = f"none of the newest {rows:,} rows says when its task began: "
    else:
        return
    yield Finding(
        "task_track_started",
        Severity.ADVICE,
        f"{said}task_track_started is off",
        BRINGS["started"],
        todo="Set it in the Celery app, if it is not set, and restart its workers.",
        settings=(seen.setting("task_track_started", value=True),),
    )


def _no_run_times(seen: Seen) -> Iterator[Finding]:
    table = seen.main
    if table is None or table.layout.started not in table.absent:
        return
    yield Finding(
        "date_started",
        Severity.ADVICE,
        f"{table.name} has no column {table.layout.started}",
        BRINGS["runtimes"],
        todo=seen.family.older,
        settings=(seen.setting("task_track_started", value=True),),
    )


# -- the database --------------------------------------------------------------------------------


def _no_index(seen: Seen) -> Iterator[Finding]:
    for table in seen.read:
        if table.alterable and table.date_done_index is False:
            yield Finding(
                "date_done_index",
                Severity.ADVICE,
                f"there is no index on {table.layout.done} of {table.name}",
                BRINGS["date_done_index"],
                sql=table.index,
            )


def _no_snapshots(seen: Seen) -> Iterator[Finding]:
    if not seen.snapshot and seen.snapshots:
        yield Finding(
            "snapshots",
            Severity.ADVICE,
            "the database allows no snapshots",
            BRINGS["snapshot"],
            sql=seen.snapshots,
        )


def _few_ids(seen: Seen) -> Iterator[Finding]:
    besides = seen.family.wider_ids
    if besides is not None and not (besides.always or seen.types_ids):
        besides = None
    for table in seen.read:
        used = table.health.id_used_ratio if table.health else None
        if used is None or used < IDS_PLAN:
            continue
        todo = "Stop the workers, then widen the column, which rewrites the table: plan it early."
        yield Finding(
            "ids",
            Severity.WARNING if used >= IDS_USED else Severity.ADVICE,
            f"{used:.1%} of the ids of {table.name} are used",
            "When they are used up no task can store a result.",
            todo=f"{todo} {besides.why}." if besides else todo,
            settings=besides.lines if besides else (),
            sql=table.wider_ids,
        )


def _no_cleanup(seen: Seen) -> Iterator[Finding]:
    ages = [(t.health.oldest_result, t.name) for t in seen.read if t.health]
    oldest, name = min(
        ((moment, name) for moment, name in ages if moment is not None), default=(seen.now, "")
    )
    if seen.now - oldest > KEPT_LONG:
        yield Finding(
            "retention",
            Severity.ADVICE,
            f"the oldest results of {name} are of {ago(oldest, seen.now)}: they are kept for so "
            "long on purpose, or nothing deletes them",
            "A table that is never cleaned up grows until its disk, or its ids, are used up.",
            todo="Run celery beat, which sends celery.backend_cleanup each day at 4:00, and say "
            "after how many seconds results expire.",
            settings=(seen.setting("result_expires", value=round(DAY)),),
        )


FINDINGS: tuple[Callable[[Seen], Iterator[Finding]], ...] = (
    _no_right_to_tables,
    _no_right_to_columns,
    _no_right_to_schedules,
    _no_names,
    _no_running_tasks,
    _no_run_times,
    _no_index,
    _no_snapshots,
    _few_ids,
    _no_cleanup,
    _right_to_write,
)
