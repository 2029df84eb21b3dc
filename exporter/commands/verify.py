"""The `verify` command: whether the finished rows of the tables are in the checkpoint's counts.

Rows may have been counted and deleted since, or counted again as something else, which is a
revision (R4): so counted may exceed present; never the reverse. Nor may there be more of a state
than were counted less those revised: else a revision would hide a row that was not counted.
"""

from __future__ import annotations

import logging
import sys
from collections import Counter
from collections.abc import Collection, Mapping

import click

from exporter import flags
from exporter.backends.database import Database
from exporter.backends.present import count_present, groups_present
from exporter.backends.tables import kinds
from exporter.checkpoint.adoption import refused
from exporter.checkpoint.saved import Saved, read
from exporter.config.settings import Backend, Config
from exporter.counting.folding import placed
from exporter.counting.lifecycle import Rules
from exporter.counting.position import Position
from exporter.counting.tally import Tally
from exporter.counting.values import Total
from exporter.errors import CheckpointError, ConfigError
from exporter.metrics import catalogue
from exporter.metrics.samples import LabelValues
from exporter.printable import columns, printable
from exporter.runtime.options import Options
from exporter.sql.connection import trouble
from exporter.sql.identity import Identity

log = logging.getLogger(__name__)

HEADINGS = ("TASK", "STATE", "WORKER", "QUEUE", "PRESENT", "COUNTED", "MISSING")
WIDTHS = (60, 20, 40, 30, 20, 20, 20)  # characters at most


@click.command(params=flags.options())
@flags.configured(log_level="warning")
def command(config: Config, options: Options) -> int:
    """Compare the counts in the checkpoint with the tables."""
    return verify(config, options.adopt)


def verify(config: Config, adopt: Collection[str] = ()) -> int:
    """Compare every backend; return 1 where a present row was not counted, or cannot be read."""
    if config.checkpoint is None:
        raise ConfigError(["verify needs a checkpoint: without one, counts live in memory"])
    checkpoint = read(config.checkpoint)
    failed = False
    for settings in config.backends:
        try:
            lines, missing = _compare(settings, checkpoint, adopt=settings.name in adopt)
        except Exception as error:  # whatever it is, the other backends go on
            log.debug("not read", extra={"backend": settings.name}, exc_info=error)
            lines, missing = [f"backend {settings.name}: error: {trouble(error)}"], True
        sys.stdout.write("\n".join(map(printable, lines)) + "\n")
        failed = failed or missing
    checkpoint.close()
    return int(failed)


def _compare(settings: Backend, checkpoint: Saved, *, adopt: bool) -> tuple[list[str], bool]:
    database = Database(settings)
    positions = {kind: Position(Rules()) for kind in kinds()}
    tally = Tally(settings.series_limit, 0.0)
    known = checkpoint.restore(settings.name, positions, tally)
    if not known:
        _try(database)
        return [f"backend {settings.name}: not in the {checkpoint.place} yet"], False
    if not adopt:
        database.expect(known)
    present, groups = _present(database, positions, {} if adopt else known)
    counted: Counter[LabelValues] = Counter()
    revised: Counter[str] = Counter()
    for (metric, labels), total in tally.values.items():
        if not isinstance(total, Total):
            continue
        if metric is catalogue.RESULTS and total.value:
            counted[labels] = int(total.value)
        elif metric is catalogue.REVISED:
            revised[labels[1]] += int(total.value)
    placed_rows = placed(present, counted, settings.relabelling())
    lines, missing = _report(settings.name, placed_rows, counted, revised)
    if groups:
        ended = _ended_groups(tally)
        less = max(0, groups - ended)
        lines.append(f"  saved groups: {groups} present, {ended} counted, {less} missing")
        missing = missing or less > 0
    return lines, missing


def _ended_groups(tally: Tally) -> int:
    """Return how many groups count as complete, or as untold."""
    ends = (catalogue.GROUP_COMPLETED, catalogue.GROUP_UNTOLD)
    totals = (value for (metric, _), value in tally.values.items() if metric in ends)
    return sum(int(total.value) for total in totals if isinstance(total, Total))


def _try(database: Database) -> None:
    """Raise BackendError if it cannot be read: then that is why nothing of it is counted."""
    try:
        with database.session():
            pass
    finally:
        database.close()


def _present(
    database: Database, positions: Mapping[str, Position], known: Mapping[str, Identity]
) -> tuple[Counter[LabelValues], int]:
    """Count rows that must have been counted when the checkpoint was last written, and groups."""
    try:
        with database.session():
            if refusal := refused(database.settings.name, known, database.identities()):
                raise CheckpointError(refusal)
        main, *others = database.family.layouts
        groups = sum(groups_present(database, positions[each.kind], each) for each in others)
        return count_present(database, positions[main.kind]), groups
    finally:
        database.close()


def _report(
    name: str, present: Counter[LabelValues], counted: Counter[LabelValues], revised: Counter[str]
) -> tuple[list[str], bool]:
    rows = [
        (*labels, str(present[labels]), str(counted[labels]), str((present - counted)[labels]))
        for labels in sorted(present | counted)
    ]
    hidden = _hidden(present, counted, revised)
    missing = (present - counted).total() + hidden.total()
    less = f", {revised.total()} of them revised" if revised.total() else ""
    total = f"{present.total()} present, {counted.total()} counted{less}, {missing} missing"
    lines = [f"backend {name}: {total}", *(f"  {r}" for r in columns([HEADINGS, *rows], WIDTHS))]
    lines += [f"  {state}: {n} more missing, hidden by revisions" for state, n in hidden.items()]
    return lines, missing > 0


def _hidden(
    present: Counter[LabelValues], counted: Counter[LabelValues], revised: Counter[str]
) -> Counter[str]:
    """Count rows of each state that are missing only where revisions are taken off (R4)."""
    lacking = _by_state(present)
    lacking.subtract(_by_state(counted))
    lacking.update(revised)
    return lacking - _by_state(present - counted)


def _by_state(counts: Counter[LabelValues]) -> Counter[str]:
    states: Counter[str] = Counter()
    for labels, count in counts.items():
        states[labels[1]] += count
    return states
