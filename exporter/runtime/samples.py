"""What a backend says as metrics: its counts, unfinished rows, tables, polls, schedules."""

from __future__ import annotations

from collections.abc import Iterator
from operator import add
from typing import TYPE_CHECKING, Any

from exporter.backends.family import ResultTable
from exporter.counting.folding import fold, series
from exporter.metrics import catalogue
from exporter.metrics.catalogue import Metric
from exporter.metrics.samples import Sample
from exporter.runtime.beat import Beat
from exporter.runtime.follower import Follower
from exporter.runtime.polls import Polls

if TYPE_CHECKING:
    from exporter.runtime.looks import Look

Lists = dict[Metric, list[Sample]]


def samples(follower: Follower, polls: Polls, beat: Beat) -> Lists:
    """Return all that is served of a backend, within its limit of series (R10)."""
    made = {**follower.counted(), **polls.samples(), **_own(follower, polls), **beat.samples}
    made |= _expected(follower)
    made |= _groups(follower)
    made.pop(catalogue.ENTRY_LAST_SUCCESS, None)  # of entries that may be no more
    if beat.last is not None:
        made[catalogue.ENTRY_LAST_SUCCESS] = [*_successes(beat.last, follower)]
    made |= _unfinished(follower, follower.settings.series_limit - series(made))
    made[catalogue.SERIES] = [Sample((), series(made))]
    return made


def _unfinished(follower: Follower, limit: int) -> Lists:
    """Return the gauges of unfinished rows, within what counters leave of the limit."""
    main, relabelled = follower.main, follower.tally.relabelled
    since = relabelled.merged(catalogue.OLDEST_UNFINISHED, main.oldest().items(), min)
    oldest = fold(catalogue.OLDEST_UNFINISHED, since, limit // 2, min)
    unfinished = relabelled.merged(catalogue.UNFINISHED, main.unfinished.items(), add)
    rows = fold(catalogue.UNFINISHED, unfinished, limit - len(oldest), add)
    return {
        catalogue.UNFINISHED: [Sample(labels, count) for labels, count in rows],
        catalogue.OLDEST_UNFINISHED: [Sample(labels, first) for labels, first in oldest],
    }


def _groups(follower: Follower) -> Lists:
    """Return the gauges of open groups, where groups are followed."""
    positions = (follower.positions[layout.kind] for layout in follower.layouts)
    followed = [each.open_groups for each in positions if each.followed_above is not None]
    oldest = [each.oldest for each in followed if each.oldest is not None]
    return {
        catalogue.GROUP_OPEN: [Sample((), len(each.known)) for each in followed],
        catalogue.OLDEST_OPEN_GROUP: [Sample((), since) for since in oldest],
    }


def _expected(follower: Follower) -> Lists:
    """Return what is expected of tasks, of those that become alike the worst."""
    relabelled, expected = follower.tally.relabelled, follower.expected
    overdue = [((each.task,), float(each.overdue)) for each in expected]
    within = [((each.task,), each.within) for each in expected]
    return {
        metric: [Sample(labels, value) for labels, value in relabelled.merged(metric, of, worst)]
        for metric, of, worst in (
            (catalogue.OVERDUE, overdue, max),
            (catalogue.EXPECTED_WITHIN, within, min),
        )
        if of
    }


def _successes(look: Look, follower: Follower) -> Iterator[Sample]:
    """Join entries with results."""
    for seen in look.seen:
        labels = (seen.entry.name, seen.entry.task)
        success = follower.tally.last_success_of(*labels)
        if success is not None:
            yield Sample(labels, success)


def _own(follower: Follower, polls: Polls) -> Lists:
    made = {catalogue.POLL_INTERVAL: [Sample((), follower.settings.poll_interval)]}
    if follower.checkpoint is not None:
        rewrites = follower.checkpoint.rewrites[follower.settings.name]
        made[catalogue.CHECKPOINT_REWRITES] = [Sample((), rewrites, polls.born)]
    if follower.last_read is not None:
        made[catalogue.LAST_POLL] = [Sample((), follower.last_read)]
    if follower.skew is not None:
        made[catalogue.CLOCK_SKEW] = [Sample((), follower.skew)]
    if follower.readers.tables is not None:
        made |= _of_tables(follower, follower.readers.tables)
    return made


def _of_tables(follower: Follower, tables: tuple[ResultTable, ...]) -> Lists:
    database, positions, health = follower.database, follower.positions, follower.health
    family, dialect = database.family, follower.settings.url.get_backend_name()
    present = {table.layout.kind: table for table in tables}
    main = present.get(family.main.kind)
    version = family.version(main.all_columns) if main else ""
    info = (dialect, database.driver, database.server.split(" ")[-1], version)
    watched = {kind: positions[kind].watched for kind in present}
    by_table: dict[Metric, dict[str, Any]] = {
        catalogue.BACKLOG: {kind: positions[kind].backlog for kind in present},
        catalogue.GAP_IDS: {kind: positions[kind].gap_ids for kind in present},
        catalogue.WATCHED: {kind: len(rows) for kind, rows in watched.items()},
        catalogue.WATCHED_FOLDED: {kind: rows.folded for kind, rows in watched.items()},
        catalogue.ID_USED: {kind: of.id_used_ratio for kind, of in health.items()},
        catalogue.OLDEST_RESULT: {kind: of.oldest_result for kind, of in health.items()},
        catalogue.ROWS_ESTIMATE: {kind: of.rows_estimate for kind, of in health.items()},
        catalogue.DATE_OFFSET: follower.date_offsets(),
    }
    return {
        catalogue.INFO: [Sample(info, 1)],
        catalogue.CAPABILITY: [
            Sample((name,), float(has)) for name, has in follower.readers.capabilities().items()
        ],
        **{
            metric: [Sample((kind,), value) for kind, value in values.items() if value is not None]
            for metric, values in by_table.items()
        },
    }
