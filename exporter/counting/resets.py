"""Whether ids began again, below those that were read (R6). Pure.

A tail that is deleted is no restart, nor is a row that commits late: so rows are known by their
task ids, and what was seen to be gone is remembered.
"""

from __future__ import annotations

from collections.abc import Callable

from exporter.counting.spans import MIN_ID
from exporter.counting.step import Anchor, Batch, Standing

REAPPEARED_IDS = 1_000
MAX_ANCHORS = 15  # beside the lowest

Waits = Callable[[int], bool]  # takes an id; whether it may still come late


def restarted(standing: Standing, batch: Batch, waits_for: Waits) -> bool:
    """Whether ids that were seen deleted are there again.

    Ids never come back by themselves: where one does, and it is no late commit, they began again.
    """
    came_late = standing.came_late
    return any(row_id not in came_late and not waits_for(row_id) for row_id in batch.reappeared)


def reused_from(standing: Standing, batch: Batch, waits_for: Waits) -> int | None:
    """Return the lowest id known to be in use by another row than the one we read.

    Where the newest row that we know is still there, nothing has restarted. Else the others tell:
    a known id with another task id, or rows below all that were ever there.
    """
    if batch.held or not standing.anchors:
        return None
    changed = [a.id for a in standing.anchors if batch.keys.get(a.id, a.key) != a.key]
    same = [a.id for a in standing.anchors if batch.keys.get(a.id) == a.key]
    if changed:
        # With nothing left of what was there, all of it is new, from the lowest id on.
        return min(changed) if same else MIN_ID
    new_below = any(not waits_for(row_id) for row_id in batch.lower)
    return MIN_ID if new_below and not same else None


def anchors(standing: Standing, batch: Batch) -> tuple[Anchor, ...]:
    """Keep the lowest row and the newest ones in mind."""
    known = standing.anchors
    if not batch.held:
        known = tuple(anchor for anchor in known if anchor.id in batch.keys)
    lowest = batch.bottom.id if batch.bottom else MIN_ID
    found = {anchor.id: anchor for anchor in known if anchor.id >= lowest}
    found |= {anchor.id: anchor for anchor in (batch.bottom, batch.last) if anchor}
    ascending = sorted(found.values())
    return (*ascending[:1], *ascending[1:][-MAX_ANCHORS:])


def deleted(standing: Standing, batch: Batch) -> tuple[int | None, tuple[int, ...]]:
    """Say above which id all rows up to the cursor are gone, and which came late there since."""
    top = MIN_ID - 1 if batch.top is None else batch.top
    if standing.cursor is None or top >= standing.cursor:
        return None, ()
    there = {row.id for row in batch.late}
    if len(batch.reappeared) < REAPPEARED_IDS:
        there.update(row_id for row_id in standing.came_late if row_id in batch.reappeared)
    else:
        there.update(standing.came_late)
    deleted_above = top if standing.deleted_above is None else min(top, standing.deleted_above)
    return deleted_above, tuple(sorted(i for i in there if i > deleted_above))
