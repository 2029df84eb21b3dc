"""What the rows of a table count as, by its kind. Pure.

A feed takes what one step has learned of a table, and adds it to the totals.
"""

from __future__ import annotations

from collections import Counter

from exporter.counting.groups import Followed, Untold
from exporter.counting.results import FAILURE, OTHER, SUCCESS, Finished
from exporter.counting.step import Change
from exporter.counting.tally import Draft
from exporter.metrics import catalogue


def saved_groups(draft: Draft, change: Change) -> None:
    """Count saved groups; they have no state and no labels."""
    draft.add(catalogue.GROUP_RESULTS, (), 0)
    for outcome in change.outcomes:
        if isinstance(outcome, Finished):
            draft.add(catalogue.GROUP_RESULTS, (), outcome.rows)
            draft.newest(catalogue.GROUP_LAST_SAVED, (), outcome)
    draft.tell(catalogue.GROUP_LAST_SAVED)
    if change.groups is not None:
        _followed(draft, change.groups)


def _followed(draft: Draft, groups: Followed) -> None:
    """Count what became of groups, and how large they are."""
    outcomes = Counter(groups.closed.values())
    for state in (SUCCESS, FAILURE):
        draft.add(catalogue.GROUP_COMPLETED, (state,), outcomes[state])
    for reason in Untold:
        draft.add(catalogue.GROUP_UNTOLD, (reason,), outcomes[reason])
    for size in groups.sizes:
        draft.observe(catalogue.GROUP_TASKS, (), size)
    for seconds in groups.durations:
        draft.observe(catalogue.GROUP_DURATION, (), seconds)


def tasks(draft: Draft, change: Change) -> None:
    """Count results of tasks, by task, state, worker and queue."""
    draft.add(catalogue.SERIES_FOLDED, (), 0)
    for watch in change.watch.values():
        if watch is not None and watch.unfinished:
            draft.admit(watch.task, watch.worker, watch.queue)
    for outcome in change.outcomes:
        if isinstance(outcome, Finished):
            _finished(draft, outcome)
        else:
            draft.count(catalogue.VANISHED, (outcome.task, outcome.state), 1)
    draft.tell(catalogue.LAST_FINISHED)


def tasks_without_retries(draft: Draft, change: Change) -> None:
    """Count results of tasks whose table does not say how often they were retried (R11)."""
    draft.retried = False
    tasks(draft, change)


def _finished(draft: Draft, outcome: Finished) -> None:
    own = (outcome.task, outcome.worker, outcome.queue)
    task, worker, queue = admitted = draft.admit(*own)
    if admitted != own and OTHER in admitted:
        draft.add(catalogue.SERIES_FOLDED, (), outcome.rows)
    result = (task, outcome.state, worker, queue)
    draft.add(catalogue.RESULTS, result, outcome.rows)
    draft.exemplar(catalogue.RESULTS, result, outcome)
    if outcome.state == FAILURE:
        exception = draft.room.exception(outcome.exception)
        failure = draft.count(catalogue.FAILURES, (task, queue, exception), outcome.rows)
        draft.exemplar(catalogue.FAILURES, failure, outcome)
    if draft.retried:
        draft.add(catalogue.RETRIES, admitted, outcome.retries)
    draft.newest(catalogue.LAST_FINISHED, (task, outcome.state), outcome)
    if outcome.entry and outcome.state == SUCCESS:
        draft.success_of(outcome)
    if outcome.revises is not None:
        draft.count(catalogue.REVISED, (*outcome.revises, outcome.state), 1)
    _measure(draft, task, outcome)


def _measure(draft: Draft, task: str, outcome: Finished) -> None:
    """Add what was measured of results."""
    if outcome.runtime is not None:
        draft.observe(catalogue.RUNTIME, (task,), outcome.runtime)
    if outcome.took is not None:
        draft.observe(catalogue.EXACT_RUNTIME, (task,), outcome.took)
    if outcome.retried is not None:
        draft.observe(catalogue.RESULT_RETRIES, (task,), outcome.retried)
    for part, size in zip(draft.tally.measures.payload, outcome.payload, strict=False):
        if size is not None:
            draft.count(catalogue.PAYLOAD_BYTES, (task, part), size)
