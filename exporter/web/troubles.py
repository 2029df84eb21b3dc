"""PURE: what is wrong, since when, why, and what to do about it.

The thresholds are those of deploy/prometheus/alerts.yml: who is woken by one finds it here again.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import IntEnum

from exporter.durations import ago, span, utc
from exporter.printable import LONGEST_NAME, printable, some
from exporter.web.status import BackendStatus, BeatStatus, ServiceStatus, TableStatus, TaskStatus

DAY = 86400.0  # seconds
LATELY = 3600.0  # seconds; what was longer ago is no news
IDS_USED = 0.8  # of the space of ids
IDS_RUN_OUT = 30 * DAY
FAILED, MOMENT, ENOUGH = 0.1, 15, 20  # this part of the results of so many minutes, if as many
RUNNING = 3600.0  # seconds; longer than this is long
TAKEN_WITHIN = 60.0  # seconds; promised is half of it
TASKS_NAMED = 3  # with the same trouble, in a backend

TRY = "celery-results-exporter check tries it again at once."
# What to do about each reason for which a backend is down.
TODO = {
    "absent": "Celery creates it when a worker stores a result, Django in manage.py migrate. If "
    "workers run, compare result_backend with their setting.",
    "connect": "See whether the database server runs, whether it can be reached from here (host, "
    "port, firewall, TLS), and whether the account may log in.",
    "timeout": "See what keeps the server: a lock, a long query, a full disk, the network. If it "
    "is only slow, raise query_timeout or connect_timeout.",
    "query": "The log has more of it with --log.level=debug.",
    "schema": "See whether tables, database_table_names and database_table_schemas name the tables "
    "of results.",
    "permission": "Grant the account SELECT on the tables; celery-results-exporter check has the "
    "statements.",
    "checkpoint": "Nothing is counted until the checkpoint can be written. See whether its disk is "
    "full or read-only, or its database is down.",
    "assumption": "The server does otherwise than the exporter must assume. Report the message, "
    "with the server's version.",
}


class Level(IntEnum):
    """How bad it is."""

    WELL = 0
    BEHIND = 1  # numbers are yet to come: wait
    LOOK = 2  # by day
    DOWN = 3


@dataclass(frozen=True, slots=True)
class Trouble:
    """One thing that is not as it should be."""

    level: Level
    backend: str  # "": the exporter itself
    what: str  # to be read after its name
    since: float | None = None  # Unix time, seconds
    why: str = ""
    todo: str = ""

    @property
    def said(self) -> str:
        """Name what has the trouble, and the trouble."""
        return f"{self.backend or 'the exporter'} {self.what}"


# -- of the exporter -----------------------------------------------------------------------------


def of_exporter(status: ServiceStatus, now: float) -> Iterator[Trouble]:
    """Yield what is wrong with the exporter itself, and its replicas; ``now`` is Unix time."""
    if status.unhealthy and not any(backend.stuck for backend in status.backends):
        yield Trouble(
            Level.DOWN, "", "is not healthy", why=status.unhealthy, todo="Restart the exporter."
        )
    if status.standby:
        yield Trouble(
            Level.BEHIND,
            "",
            "stands by",
            why="other replicas follow all backends and have the numbers",
            todo="Ask those. This one takes over when one of them is gone.",
        )
    elif status.unready and not status.backends:
        yield Trouble(
            Level.DOWN,
            "",
            "does not read anything yet",
            why=status.unready,
            todo="See whether the database of the checkpoint is up; celery-results-exporter check "
            "tries it. The replicas' logs say what each of them waits for.",
        )
    for name, since in status.unfollowed.items():
        yield Trouble(
            Level.DOWN if now - since > TAKEN_WITHIN else Level.BEHIND,
            name,
            "is followed by no replica",
            since,
            why="the replica that followed it is gone, or hands it on",
            todo="Wait: another takes over within 30 s. If none does, the replicas' logs say what "
            "each of them waits for.",
        )
    for name in status.refused:
        yield Trouble(
            Level.LOOK,
            "",
            f"has not taken {name}",
            why="it is wrong, and the one before stays in use",
            todo="The log says what is wrong. Correct it, try it with celery-results-exporter "
            "check, then reload.",
        )


# -- of a backend --------------------------------------------------------------------------------


def of_backend(backend: BackendStatus, now: float) -> Iterator[Trouble]:
    """Yield what is wrong with a backend; ``now`` is Unix time."""
    reading = _of_reading(backend, now)
    if reading is not None:
        yield reading
    if backend.rewritten is not None and now - backend.rewritten < LATELY:
        yield Trouble(
            Level.LOOK,
            backend.name,
            f"lost its checkpoint {ago(backend.rewritten, now)}",
            backend.rewritten,
            why="it was deleted or replaced while in use; it was written anew from memory",
            todo="See who deletes or restores it. Had the exporter been killed before it noticed, "
            "counts would be lost.",
        )
    for doubt in backend.doubts:
        yield Trouble(Level.LOOK, backend.name, "has odd dates", why=doubt)
    for table in backend.tables:
        yield from _of_ids(backend, table, now)
    if backend.overdue:
        yield _of_overdue(backend, now)
    yield from _of_failures(backend)
    yield from _of_long_runs(backend, now)
    if backend.beat is not None:
        yield from _of_beat(backend, backend.beat, now)


def _of_reading(backend: BackendStatus, now: float) -> Trouble | None:
    """Return why a backend's numbers are not those of now, if they are not."""
    if backend.stuck:
        return Trouble(
            Level.DOWN,
            backend.name,
            "is stuck" if backend.last_poll is None else _since("stuck", backend.last_poll, now),
            backend.last_poll,
            why="a poll hangs, and no timeout ends it",
            todo="Restart the exporter. SIGABRT ends it with the stack of each thread in its log, "
            "which shows where it hangs.",
        )
    if backend.up is False:
        return _down(backend, now)
    if backend.catching_up is not None:
        return _catching_up(backend)
    if backend.up is None:
        return Trouble(
            Level.BEHIND,
            backend.name,
            "was not tried yet",
            todo="Wait: its first poll ends with a result or a timeout.",
        )
    if backend.message:
        return Trouble(
            Level.BEHIND, backend.name, "waits", why=backend.message, todo=TODO["absent"]
        )
    return _late(backend, now)


def _down(backend: BackendStatus, now: float) -> Trouble:
    ages = [
        backend.last_poll - table.oldest_result
        for table in backend.tables
        if table.oldest_result is not None and backend.last_poll is not None
    ]
    kept = f" (the oldest were {span(max(ages))} old)" if ages and max(ages) > 0 else ""
    nothing_is_lost = (
        f"Nothing is lost as long as results stay in their table{kept}: they are counted once it "
        "can be read."
    )
    return Trouble(
        Level.DOWN,
        backend.name,
        "is down" if backend.since is None else _since("down", backend.since, now),
        backend.since,
        why=backend.message,
        todo=" ".join(filter(None, (TODO.get(backend.reason), TRY, nothing_is_lost))),
    )


def _catching_up(backend: BackendStatus) -> Trouble:
    catch_up = backend.catching_up
    assert catch_up is not None  # noqa: S101
    seconds = catch_up.seconds_left
    left = "how long that takes is not known yet" if seconds is None else f"about {span(seconds)}"
    return Trouble(
        Level.BEHIND,
        backend.name,
        "is catching up",
        why=f"{catch_up.done:.0%} are read, {catch_up.ids_left:,} ids are left: {left}",
        todo="Wait: until then its numbers are those from before.",
    )


def _late(backend: BackendStatus, now: float) -> Trouble | None:
    if backend.last_poll is None or now - backend.last_poll < 60 + 3 * backend.poll_interval:
        return None
    return Trouble(
        Level.DOWN,
        backend.name,
        _since("without a poll", backend.last_poll, now),
        backend.last_poll,
        why=f"it is to be polled every {span(backend.poll_interval)}",
        todo="See whether the machine has processor time and memory left for the exporter.",
    )


def _of_ids(backend: BackendStatus, table: TableStatus, now: float) -> Iterator[Trouble]:
    used, end = table.id_used_ratio, table.ids_run_out
    if used is None or (used < IDS_USED and (end is None or end - now > IDS_RUN_OUT)):
        return
    yield Trouble(
        Level.LOOK,
        backend.name,
        f"has used {used:.1%} of the ids of {table.name}",
        why="" if end is None else f"at the present rate it runs out of them {day(end, now)}",
        todo="When they are used up no task can store a result. Stop the workers, then ALTER its "
        "column id to BIGINT, which rewrites the table: plan it early. celery-results-exporter "
        "check has the statements, and what workers need besides.",
    )


def _of_overdue(backend: BackendStatus, now: float) -> Trouble:
    found = sorted(backend.overdue, key=lambda each: (each.since, each.task))
    said = [
        f"{printable(each.task, LONGEST_NAME)} for {span(now - each.since)} "
        f"({span(each.within)} expected)"
        for each in found
    ]
    return Trouble(
        Level.LOOK,
        backend.name,
        f"has overdue tasks, without a success: {_few(said)}",
        found[0].since + found[0].within,
        todo="See whether whatever schedules them runs, whether a worker takes them from their "
        "queue, and whether they fail.",
    )


def _of_failures(backend: BackendStatus) -> Iterator[Trouble]:
    found: list[tuple[float, TaskStatus, str]] = []
    for task in backend.tasks:
        failed, results = sum(task.failures[-MOMENT:]), sum(task.results[-MOMENT:])
        if results >= ENOUGH and failed > FAILED * results:
            said = f"{failed / results:.0%} of {_name(task)} ({failed:,} of {results:,})"
            found.append((failed / results, task, said))
    if not found:
        return
    found.sort(key=lambda each: (-each[0], each[1].task))
    classes = [f"{_name(t)}: {_classes(t)}" for _, t, _ in found[:TASKS_NAMED] if t.exceptions]
    yield Trouble(
        Level.LOOK,
        backend.name,
        f"has failing tasks: {_few([said for *_, said in found])} in the last {MOMENT} min",
        why=f"classes of the last hour: {'; '.join(classes)}" if classes else "",
        todo="See in the metrics whether one worker or one queue stands out, then read the "
        "traceback of the newest failed rows.",
    )


def _of_long_runs(backend: BackendStatus, now: float) -> Iterator[Trouble]:
    started = [(task.oldest["STARTED"], task) for task in backend.tasks if "STARTED" in task.oldest]
    long = [(since, task) for since, task in started if now - since > RUNNING]
    if not long:
        return
    long.sort(key=lambda each: (each[0], each[1].task))
    yield Trouble(
        Level.LOOK,
        backend.name,
        f"has tasks that run long: {_few([f'{_name(t)} for {span(now - s)}' for s, t in long])}",
        long[0][0],
        todo="Either a task hangs or is meant to run so long, or its worker died without a word: "
        "celery inspect active tells whether a worker still has it.",
    )


def _of_beat(backend: BackendStatus, beat: BeatStatus, now: float) -> Iterator[Trouble]:
    if not beat.up:
        yield Trouble(
            Level.LOOK,
            backend.name,
            "has schedules that are not read",
            why=beat.message,
            todo=f"{TRY} Results are counted all the same.",
        )
    if beat.up and beat.late:
        late = [
            f"{printable(name, LONGEST_NAME)} {ago(due, now)}" for name, due in beat.late.items()
        ]
        more = beat.overdue - len(late)
        yield Trouble(
            Level.LOOK,
            backend.name,
            f"has {beat.overdue:,} overdue of {beat.entries:,} schedules",
            min(beat.late.values()),
            why=f"to be sent {_few(late, more)}, and again since",
            todo="See whether celery beat runs, with one process only, and what it logs. If it was "
            "just started, it writes what it has sent after some minutes.",
        )
    if beat.faults:
        yield Trouble(
            Level.LOOK,
            backend.name,
            f"has schedules that cannot be read: {beat.unreadable:,} of {beat.entries:,}",
            why="; ".join(beat.faults[:TASKS_NAMED]),
            todo="Beat cannot send them either. Correct them where they are edited.",
        )


# -- words ---------------------------------------------------------------------------------------


def day(moment: float, now: float) -> str:
    """Say when something will be, by its day; what is far off is not worth one."""
    if moment - now > 100 * 365 * DAY:
        return "in more than 100 years"
    date = f"on {utc(moment)[:10]}"
    return date if moment - now > 365 * DAY else f"{date}, {ago(moment, now)}"


def _since(what: str, moment: float, now: float) -> str:
    return f"has been {what} since {utc(moment)}, {ago(moment, now)}"


def _few(said: Sequence[str], others: int = 0) -> str:
    more = len(said) - TASKS_NAMED + others
    return ", ".join(said[:TASKS_NAMED]) + (f" and {more:,} more" if more > 0 else "")


def _name(task: TaskStatus) -> str:
    return printable(task.task, LONGEST_NAME) if task.task else "tasks without a name"


def _classes(task: TaskStatus) -> str:
    """List classes of exceptions, the most frequent first."""
    by_count = sorted(task.exceptions.items(), key=lambda each: (-each[1], each[0]))
    return some([f"{exception or 'unknown'} {count:,}" for exception, count in by_count])
