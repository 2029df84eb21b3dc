"""What the status page shows: plain values, made when people ask.

`/status.json` has them by these names: docs/status.md says what each means.
"""

from __future__ import annotations

from dataclasses import dataclass, field

Counts = tuple[int, ...]  # by minute, the one that runs last


@dataclass(frozen=True, slots=True)
class TableStatus:
    """One result table as it was last read. Times are Unix times, in seconds."""

    kind: str  # of the table, as its family calls it
    name: str  # qualified, e.g. "celery.celery_taskmeta"
    present: bool
    highest_id: int | None = None
    id_used_ratio: float | None = None
    ids_run_out: float | None = None  # at the rate of the last hour
    backlog_ids: int = 0
    gap_ids: int = 0
    watched_rows: int = 0
    oldest_result: float | None = None
    rows_estimate: int | None = None


@dataclass(frozen=True, slots=True)
class TaskStatus:
    """Results of one task: so far, by state, and in the last hour."""

    task: str
    finished: dict[str, int]
    unfinished: dict[str, int]
    last_finished: float | None  # Unix time, seconds
    oldest: dict[str, float] = field(default_factory=dict)  # unfinished, by state: first seen
    results: Counts = ()  # of the last hour; () where there are none
    failures: Counts = ()
    exceptions: dict[str, int] = field(default_factory=dict)  # classes, of the last hour


@dataclass(frozen=True, slots=True)
class HourStatus:
    """The last hour of a backend as its polls saw it, by minute."""

    began: float  # Unix time of the first minute
    known: int  # how many of the minutes were followed, up to the one that runs
    results: Counts
    failures: Counts
    down: tuple[bool, ...]  # whether polls failed then


@dataclass(frozen=True, slots=True)
class OutageStatus:
    """A time in which polls failed. Unix time, seconds."""

    since: float
    until: float | None
    message: str  # the last error


@dataclass(frozen=True, slots=True)
class CatchUpStatus:
    """How far a backlog has been read."""

    ids_left: int
    done: float  # 0 to 1
    seconds_left: float | None  # about; None: not known, or there is more and more


@dataclass(frozen=True, slots=True)
class OverdueStatus:
    """A task that was expected to succeed. Seconds."""

    task: str
    since: float  # Unix time of the last success, or of when the table was first read
    within: float


@dataclass(frozen=True, slots=True)
class BeatStatus:
    """Schedules of celery beat as of the last look that worked."""

    package: str  # "": the tables were never read
    up: bool  # whether the last look worked
    message: str  # why not
    entries: int
    overdue: int  # of these, those that have missed more than one run
    unreadable: int
    late: dict[str, float] = field(default_factory=dict)  # the worst: since when, Unix time
    faults: tuple[str, ...] = ()  # some of those that cannot be read, and why


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
    since: float | None = None  # when it came up, or went down, Unix time
    reason: str = ""  # why it is down, in a word
    stuck: bool = False  # a poll hangs
    outages: tuple[OutageStatus, ...] = ()  # the last
    rewritten: float | None = None  # when the checkpoint was lost and written anew, Unix time
    catching_up: CatchUpStatus | None = None
    doubts: tuple[str, ...] = ()  # about the dates of its results
    missing: tuple[str, ...] = ()  # capabilities, and "names" where no row has one
    tables: tuple[TableStatus, ...] = ()
    hour: HourStatus | None = None  # None: not followed yet
    tasks: tuple[TaskStatus, ...] = ()
    overdue: tuple[OverdueStatus, ...] = ()  # of the tasks that are expected
    beat: BeatStatus | None = None  # None: there are no schedules


@dataclass(frozen=True, slots=True)
class ServiceStatus:
    """The whole exporter."""

    version: str
    started: float  # Unix time, seconds
    backends: tuple[BackendStatus, ...]
    unhealthy: str = ""  # why it should be restarted
    unready: str = ""  # why the metrics are not complete yet
    standby: bool = False  # other replicas follow all backends
    replica: str = ""  # the name of this one; "": there are none
    followers: dict[str, str] = field(default_factory=dict)  # by backend: a replica, "": none
    unfollowed: dict[str, float] = field(default_factory=dict)  # since when, Unix time
    refused: tuple[str, ...] = ()  # configurations that are wrong: older ones are in use
