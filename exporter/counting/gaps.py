"""Ids missing below the cursor, which may still be committed (R2). Pure."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Sequence

from exporter.counting.lifecycle import Rules
from exporter.counting.spans import Missing
from exporter.counting.step import Batch, Gap, Horizon

MAX_GAPS = 10_000
# A statement may have drawn its id but not yet its transaction id; after this it surely has both.
SETTLING = 1.0  # seconds


def seen(missing: Iterable[Missing], now: float, rules: Rules) -> list[Gap]:
    """Return gaps that are seen for the first time."""
    return [Gap(some, now, now + rules.recheck(0.0)) for some in missing]


def asked(gaps: Iterable[Gap], batch: Batch, now: float, rules: Rules) -> tuple[list[Gap], int]:
    """Take out late rows, and drop what is final; return what is left, and how many ids expired."""
    wanted = set(batch.plan.gaps)
    late = sorted(row.id for row in batch.late)
    kept: list[Gap] = []
    expired = 0
    for gap in gaps:
        if gap.missing not in wanted:
            kept.append(gap)
            continue
        filled = late[bisect_left(late, gap.span.lo) : bisect_right(late, gap.span.hi)]
        rest = list(gap.missing.without(filled))
        if batch.late_complete and _final(gap, batch.horizon, now, rules):
            expired += sum(some.size for some in rest)
            continue
        age = now - gap.since
        horizon = gap.horizon
        if horizon is None and batch.horizon is not None and age >= SETTLING:
            horizon = batch.horizon.next_unassigned
        due = now + rules.recheck(age)
        kept += [Gap(some, gap.since, due, horizon) for some in rest]
    return kept, expired


def bounded(gaps: Sequence[Gap]) -> tuple[Sequence[Gap], int]:
    """Give up the oldest beyond the limit; return the others, and how many ids those were."""
    over, kept = gaps[:-MAX_GAPS], gaps[-MAX_GAPS:]
    return kept, ids(over)


def apart(gaps: Iterable[Gap]) -> Iterator[Gap]:
    """Yield a gap for each range of ids that follow each other."""
    for gap in gaps:
        for span in gap.missing.pieces():
            yield gap._replace(missing=Missing(span))


def ids(gaps: Iterable[Gap]) -> int:
    """Return how many ids are missing."""
    return sum(gap.missing.size for gap in gaps)


def wait_for(gaps: Iterable[Gap], row_id: int) -> bool:
    """Whether the id was missing when its neighbours were read."""
    return any(row_id in gap.missing for gap in gaps)


def _final(gap: Gap, horizon: Horizon | None, now: float, rules: Rules) -> bool:
    if now - gap.since >= rules.late_commit_grace:
        return True
    return horizon is not None and gap.horizon is not None and horizon.oldest_running >= gap.horizon
