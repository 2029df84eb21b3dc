"""What the status page shows: plain values, made by the pollers, read by the web pages."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class TableStatus:
    """One result table as it was last read."""

    kind: str  # of the table, as its family calls it
    name: str  # qualified, e.g. "celery.celery_taskmeta"
    present: bool
    columns: tuple[str, ...] = ()
    highest_id: int | None = None
    backlog_ids: int = 0
    gap_ids: int = 0
    watched_rows: int = 0


@dataclass(frozen=True, slots=True)
class TaskStatus:
    """Results of one task so far, by state."""

    task: str
    finished: dict[str, int]
    unfinished: dict[str, int]
    last_finished: float | None  # Unix time, seconds


@dataclass(frozen=True, slots=True)
class BackendStatus:
    """One backend as of its last poll."""

    name: str
    up: bool | None  # None: not tried yet
    message: str  # why it is down, or what it waits for; "" when all is well
    server: str  # e.g. "PostgreSQL 15.18, psycopg"; "" before the first connection
    poll_interval: float  # seconds
    last_poll: float | None  # Unix time of the last poll that worked, seconds
    poll_duration: float | None  # seconds
    rewritten: float | None = None  # when the checkpoint was lost and written anew, Unix time
    tables: tuple[TableStatus, ...] = ()
    tasks: tuple[TaskStatus, ...] = ()


@dataclass(frozen=True, slots=True)
class ServiceStatus:
    """The whole exporter."""

    version: str
    started: float  # Unix time, seconds
    backends: tuple[BackendStatus, ...]
