"""What the status page shows of a backend, made when people ask."""

from __future__ import annotations

from collections import Counter

from exporter.backends.family import Layout
from exporter.runtime.follower import Follower
from exporter.runtime.polls import Polls
from exporter.web.status import BackendStatus, TableStatus, TaskStatus


def backend_status(follower: Follower, polls: Polls) -> BackendStatus:
    """Return what people want to know. Called from another thread than that of the polls."""
    name, checkpoint = follower.settings.name, follower.checkpoint
    return BackendStatus(
        name=name,
        up=polls.up,
        message=polls.message,
        rewritten=checkpoint.rewritten.get(name) if checkpoint is not None else None,
        server=server(follower),
        poll_interval=follower.settings.poll_interval,
        last_poll=follower.last_read,
        poll_duration=polls.duration,
        tables=tuple(_table(follower, layout) for layout in follower.layouts),
        tasks=_tasks(follower),
    )


def server(follower: Follower) -> str:
    """Name the server and the driver; "" before the first connection."""
    database = follower.database
    return f"{database.server}, {database.driver}" if database.server else ""


def _tasks(follower: Follower) -> tuple[TaskStatus, ...]:
    finished: dict[str, Counter[str]] = {}
    for name, state, count in follower.tally.by_task():
        finished.setdefault(name, Counter())[state] += count
    unfinished: dict[str, Counter[str]] = {}
    for (name, state, _, _), count in follower.main.unfinished.copy().items():
        unfinished.setdefault(name, Counter())[state] += count
    last: dict[str, float] = {}
    for name, moment in follower.tally.last_finished():
        last[name] = max(moment, last.get(name, moment))
    return tuple(
        TaskStatus(name, finished.get(name, {}), unfinished.get(name, {}), last.get(name))
        for name in sorted(finished.keys() | unfinished.keys())
    )


def _table(follower: Follower, layout: Layout) -> TableStatus:
    table = next((table for table in follower.tables or () if table.layout is layout), None)
    position = follower.positions[layout.kind]
    return TableStatus(
        kind=layout.kind,
        name=follower.database.full_name(layout),
        present=table is not None,
        columns=tuple(table.table.c.keys()) if table else (),
        highest_id=position.top,
        backlog_ids=position.backlog,
        gap_ids=position.gap_ids,
        watched_rows=len(position.watched),
    )
