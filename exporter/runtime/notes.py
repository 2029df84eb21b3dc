"""What an operator should know of a step: lines of the log."""

from __future__ import annotations

import logging
from collections.abc import Mapping

from exporter.counting.position import Position
from exporter.counting.step import Change

log = logging.getLogger(__name__)


def note(change: Change, position: Position, fields: Mapping[str, str]) -> None:
    """Say that ids began again, and that dates are in another zone; `position`: as before it."""
    if change.resets:
        log.warning(
            "ids began again below the last row read; reading goes on from there",
            extra={**fields, "last_id": position.cursor, "from_id": change.cursor},
        )
    before, settled = position.settled, change.settled
    if settled is None or (before is not None and before.offset == settled.offset):
        return
    zone = {**fields, "zone": settled.name}
    if before is None:
        log.info("results have told which zone date_done is in", extra=zone)
        return
    log.warning(
        "date_done is in another zone from now on: by daylight saving, or a change of workers",
        extra={**zone, "before": before.name},
    )


def note_progress(position: Position, fields: Mapping[str, str]) -> None:
    """Say how much is left to read, if anything is."""
    if position.backlog or position.below is not None:
        log.info("catching up", extra={**fields, "backlog_ids": position.backlog})
