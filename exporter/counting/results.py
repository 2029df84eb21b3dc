"""The vocabulary: what a result row is, and what can happen to it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from celery.states import (
    ALL_STATES,
    FAILURE,
    IGNORED,
    READY_STATES,
    REJECTED,
    REVOKED,
    STARTED,
    SUCCESS,
)

from exporter.metrics.samples import Histogram

__all__ = [
    "FAILURE",
    "OTHER",
    "READY_STATES",
    "REVOKED",
    "STARTED",
    "STATES",
    "SUCCESS",
    "Finished",
    "Group",
    "Labels",
    "Row",
    "Vanished",
    "ladder",
]

STATES = ALL_STATES | {REJECTED, IGNORED}  # that Celery knows

Labels = tuple[str, str, str, str]  # state, task, worker, queue

OTHER = "__other__"  # label value of what there is no room for (R10)


def ladder(labels: tuple[str, ...], order: Iterable[int]) -> Iterator[tuple[str, ...]]:
    """Yield labels as they are, then with one after the other folded, in this order (R10)."""
    yield labels
    values = list(labels)
    for index in order:
        values[index] = OTHER
        yield tuple(values)


Sizes = tuple[int | None, ...]  # bytes of each part that is measured; None: it may not be


class Row(NamedTuple):
    """One result row, as read. NULL labels are empty strings (rule R11)."""

    id: int
    state: str
    task: str
    worker: str
    queue: str
    retries: int
    done: float | None  # `date_done` as Unix time, seconds
    task_id: str = ""
    exception: str = ""  # class name, of failures
    took: float | None = None  # seconds to `done`, where the row says when its task started
    retried: int | None = None  # as `retries`, where the row says it and that is measured
    payload: Sizes = ()
    entry: str = ""  # of beat that its task was sent by

    @property
    def labels(self) -> Labels:
        """State, task, worker and queue."""
        return self.state, self.task, self.worker, self.queue

    @property
    def finished(self) -> bool:
        """Whether Celery calls this state ready; custom states are not."""
        return self.state in READY_STATES


class Group(NamedTuple):
    """Finished rows of one label set in a range of ids, aggregated by the database."""

    state: str
    task: str
    worker: str
    queue: str
    rows: int  # how many
    retries: int  # sum
    done: float | None  # newest `date_done`, Unix time, seconds
    task_id: str = ""  # of the newest row, where it was asked for
    exception: str = ""  # class name, of failures
    took: Histogram | None = None  # of all its rows, where they say when their tasks started
    retried: Histogram | None = None  # likewise, where they say how often
    payload: Sizes = ()  # sums
    entry: str = ""


class Finished(NamedTuple):
    """Results to count: one row's, or a whole group's."""

    state: str
    task: str
    worker: str
    queue: str
    rows: int = 1
    retries: int = 0
    done: float | None = None
    task_id: str = ""
    exception: str = ""
    took: float | Histogram | None = None
    retried: float | Histogram | None = None
    payload: Sizes = ()
    entry: str = ""
    runtime: float | None = None  # seconds from first seen STARTED to `date_done`
    revises: tuple[str, str] | None = None  # (task, state) that was counted for this row before
    wall: float | None = None  # `date_done` as if in UTC, where dates have to tell their zone

    @property
    def withheld(self) -> bool:
        """Whether there is a date, but it is not known in which zone."""
        return self.wall is not None and self.done is None


class Vanished(NamedTuple):
    """An unfinished row that was deleted before it finished."""

    task: str
    state: str
