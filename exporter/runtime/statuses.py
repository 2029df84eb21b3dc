"""What the status page shows of a backend, made when people ask."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable
from typing import TYPE_CHECKING

from exporter.backends.family import Layout
from exporter.config.settings import AUTO
from exporter.counting import dates, zones
from exporter.counting.minutes import MINUTES
from exporter.printable import LONGEST_NAME, printable
from exporter.runtime.beat import Beat
from exporter.runtime.follower import Follower
from exporter.runtime.polls import Outage, Polls
from exporter.runtime.recent import minute
from exporter.web.status import (
    BackendStatus,
    BeatStatus,
    CatchUpStatus,
    HourStatus,
    OutageStatus,
    OverdueStatus,
    TableStatus,
    TaskStatus,
)

if TYPE_CHECKING:
    from exporter.runtime.looks import Look

MOST_NAMED = 20  # entries of beat that are overdue, or cannot be read
NAMES = "names"  # in rows, where there is a column for them


def backend_status(follower: Follower, polls: Polls, beat: Beat, *, stuck: bool) -> BackendStatus:
    """Return what people want to know. Called from another thread than that of the polls."""
    name, checkpoint, now = follower.settings.name, follower.checkpoint, time.time()
    outages = tuple(polls.outages)
    return BackendStatus(
        name=name,
        up=polls.up,
        message=polls.message,
        server=server(follower),
        poll_interval=follower.settings.poll_interval,
        last_poll=follower.last_read,
        poll_duration=polls.duration,
        since=polls.since,
        reason="" if polls.up else polls.reason,
        stuck=stuck,
        outages=tuple(OutageStatus(*outage) for outage in outages),
        rewritten=checkpoint.rewritten.get(name) if checkpoint is not None else None,
        catching_up=_catching_up(follower, polls),
        doubts=_doubts(follower, now),
        missing=_missing(follower),
        tables=tuple(_table(follower, layout, now) for layout in follower.layouts),
        hour=_hour(follower, outages, now),
        tasks=_tasks(follower),
        overdue=tuple(
            OverdueStatus(each.task, each.since, each.within)
            for each in follower.expected
            if each.overdue
        ),
        beat=_beat(look) if (look := beat.last) else None,
    )


def server(follower: Follower) -> str:
    """Name the server and the driver; "" before the first connection."""
    database = follower.database
    return f"{database.server}, {database.driver}" if database.server else ""


def _catching_up(follower: Follower, polls: Polls) -> CatchUpStatus | None:
    catch_up = follower.recent.catch_up
    if not catch_up.left:
        return None
    down = polls.up is False
    return CatchUpStatus(catch_up.left, catch_up.done, None if down else catch_up.seconds_left)


def _doubts(follower: Follower, now: float) -> tuple[str, ...]:
    main, found = follower.main, list[str]()
    if follower.readers.walls(follower.database.family.main.kind):
        found += zones.doubts(main.settled, main.sightings)
    if follower.skew is not None:
        zone = follower.database.zone(follower.database.family.main)
        name = AUTO if zone is None else zone.key
        found += dates.doubts([now + follower.skew], now, name)
    return tuple(found)


def _missing(follower: Follower) -> tuple[str, ...]:
    """Name what the backend does not offer, once it was seen."""
    if follower.readers.tables is None:
        return ()
    has = follower.readers.capabilities()
    main = follower.main
    if has["extended"] and main.live and main.top is not None and not main.named:
        has[NAMES] = False
    return tuple(name for name, there in has.items() if not there)


def _hour(follower: Follower, outages: Iterable[Outage], now: float) -> HourStatus | None:
    minutes, running = follower.recent.minutes, minute()
    if minutes.since is None:
        return None
    began = now - time.monotonic() % 60 - (MINUTES - 1) * 60
    return HourStatus(
        began=began,
        known=min(running - minutes.since + 1, MINUTES),
        results=minutes.results.total(running),
        failures=minutes.failures.total(running),
        down=tuple(
            any(
                o.since < began + (n + 1) * 60 and (o.until or now) > began + n * 60
                for o in outages
            )
            for n in range(MINUTES)
        ),
    )


def _tasks(follower: Follower) -> tuple[TaskStatus, ...]:
    finished: dict[str, Counter[str]] = {}
    for name, state, count in follower.tally.by_task():
        finished.setdefault(name, Counter())[state] += count
    unfinished: dict[str, Counter[str]] = {}
    for (name, state, _, _), count in follower.main.unfinished.copy().items():
        if count:
            unfinished.setdefault(name, Counter())[state] += count
    oldest: dict[str, dict[str, float]] = {}
    for (name, state), since in follower.recent.oldest.items():
        oldest.setdefault(name, {})[state] = since
    last: dict[str, float] = {}
    for name, moment in follower.tally.last_finished():
        if moment is not None:
            last[name] = max(moment, last.get(name, moment))
    minutes, running = follower.recent.minutes, minute()
    results, failures = minutes.results.upto(running), minutes.failures.upto(running)
    exceptions: dict[str, dict[str, int]] = {}
    for (name, exception), counts in minutes.exceptions.upto(running).items():
        exceptions.setdefault(name, {})[exception] = sum(counts)
    return tuple(
        TaskStatus(
            task=name,
            finished=finished.get(name, {}),
            unfinished=unfinished.get(name, {}),
            last_finished=last.get(name),
            oldest=oldest.get(name, {}),
            results=results.get(name, ()),
            failures=failures.get(name, ()),
            exceptions=exceptions.get(name, {}),
        )
        for name in sorted(finished.keys() | unfinished.keys())
    )


def _beat(look: Look) -> BeatStatus:
    late = look.overdue
    return BeatStatus(
        package=look.package,
        up=look.up,
        message=look.message,
        entries=look.count,
        overdue=len(late),
        unreadable=len(look.faults),
        late={entry.name: due for entry, due in late[:MOST_NAMED]},
        faults=tuple(
            f"{printable(fault.name, LONGEST_NAME)}: {fault.why}"
            for fault in look.faults[:MOST_NAMED]
        ),
    )


def _table(follower: Follower, layout: Layout, now: float) -> TableStatus:
    kind = layout.kind
    position, health = follower.positions[kind], follower.health.get(kind)
    trend = follower.recent.ids.get(kind)
    seconds = trend.reaches(1.0) if trend else None
    return TableStatus(
        kind=kind,
        name=follower.database.full_name(layout),
        present=follower.readers.has(layout),
        highest_id=position.top,
        id_used_ratio=health.id_used_ratio if health else None,
        ids_run_out=None if seconds is None else now + seconds,
        backlog_ids=position.backlog,
        gap_ids=position.gap_ids,
        watched_rows=len(position.watched),
        oldest_result=health.oldest_result if health else None,
        rows_estimate=health.rows_estimate if health else None,
    )
