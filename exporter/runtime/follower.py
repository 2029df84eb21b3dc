"""One backend's results, followed step by step: read, count, save, and only then show (R7)."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from contextlib import closing
from dataclasses import replace

from exporter.backends.database import Database, Session
from exporter.backends.family import Layout
from exporter.backends.reader import Health
from exporter.backends.tables import kinds
from exporter.checkpoint.checkpoint import Checkpoint, carried
from exporter.checkpoint.writing import Save, Staged
from exporter.config.settings import Backend
from exporter.counting import dates
from exporter.counting.expected import Expected
from exporter.counting.groups import A_STEP
from exporter.counting.lifecycle import Rules
from exporter.counting.position import Position
from exporter.counting.relabelling import DROPPED
from exporter.counting.results import OTHER
from exporter.counting.step import Batch, Plan
from exporter.counting.tally import Changes, Tally
from exporter.errors import BackendAbsent
from exporter.metrics.catalogue import Metric
from exporter.metrics.samples import Sample
from exporter.runtime.notes import note, note_progress
from exporter.runtime.pace import Pace
from exporter.runtime.readers import Readers
from exporter.runtime.recent import Recent, minute
from exporter.sql.identity import Identity

log = logging.getLogger(__name__)

HEALTH_INTERVAL = 60.0  # seconds between looks at the tables and at what changes slowly


class Follower:
    """Knows where reading stands, and what was counted."""

    def __init__(self, settings: Backend, checkpoint: Checkpoint | None = None) -> None:
        self.settings = settings
        self.database = Database(settings)
        self.tally = Tally(
            settings.series_limit,
            settings.first_zero,
            settings.relabelling(),
            settings.stale_after,
            settings.measures(),
        )
        rules = Rules(
            start=settings.start,
            poll_interval=settings.poll_interval,
            late_commit_grace=settings.late_commit_grace,
            revision_window=settings.revision_window,
            named=settings.result_extended,
            label_sets=settings.series_limit // 2,
        )
        self.positions = {kind: Position(rules) for kind in kinds()}
        self.readers = Readers(settings, self.database)
        self.pace = Pace()
        self.health: dict[str, Health] = {}  # by kind of table
        self.skew: float | None = None  # seconds by which the newest result lies ahead
        self.checkpoint = checkpoint
        self.last_read: float | None = None  # Unix time, seconds
        self.expectations = settings.expectations()
        self.expected: list[Expected] = []  # as of when everything was read last
        self.recent = Recent()
        self._restored = checkpoint is None
        self._unanswered: Save | None = None  # we do not know whether it was kept
        # What is served of the tally. History comes at once, when all of it is counted: served bit
        # by bit it would be an increase (R12).
        self._counted: dict[Metric, list[Sample]] = {}
        self._whole = False  # none of it is history that was read in part
        self._health_due = 0.0

    @property
    def layouts(self) -> tuple[Layout, ...]:
        """The tables that are read, or will be."""
        return self.database.family.layouts

    @property
    def main(self) -> Position:
        """Where reading of the main table stands."""
        return self.positions[self.database.family.main.kind]

    def expect_no_later_poll(self) -> None:
        """Count at once what might get its name later."""
        for position in self.positions.values():
            position.rules = replace(position.rules, waits=False)

    # -- the checkpoint ----------------------------------------------------------------------

    def restore(self) -> bool:
        """Go on from the checkpoint, if there is one; say whether it had anything.

        By the backend's name: the server, which says what tables these are, may be down.
        """
        if self._restored or self.checkpoint is None:
            return False
        known = self._go_on_from(self.checkpoint)
        self._restored = True
        words = "going on from the checkpoint" if known else "the checkpoint has nothing yet"
        log.info(words, extra={"backend": self.settings.name})
        return bool(known)

    def _go_on_from(self, checkpoint: Checkpoint) -> Mapping[str, Identity]:
        known = checkpoint.restore(self.settings.name, self.positions, self.tally)
        self.tally.shown.pass_to(time.time())
        self.database.expect(known)
        self._whole = bool(known) and all(self.positions[kind].complete for kind in known)
        return known

    def carry_on(self, old: Follower) -> bool:
        """Go on from where another stands that reads the same tables, as after a restart.

        Where there is a checkpoint, that is what the first poll does, as often as it takes: return
        False, and what was served last is served on meanwhile.
        """
        self.readers.carry_on(old.readers)
        self.last_read, self.skew = old.last_read, old.skew
        self.health, self.recent = old.health, old.recent
        self.expected = old.expected
        if self.checkpoint is not None:
            return False
        name, identities = self.settings.name, old.database.identities()
        with closing(carried(name, identities, old.positions, old.tally)) as checkpoint:
            return bool(self._go_on_from(checkpoint))

    def go_on(self) -> bool:
        """Make sure that memory and checkpoint agree; say whether anything was restored."""
        restored = self.restore()
        self._settle()
        checkpoint = self.checkpoint
        if checkpoint and not checkpoint.keep(self.settings.name, self.positions, self.tally):
            self._restored = False  # something was put in its place: go on from that
            restored = self.restore() or restored
        return restored

    def _settle(self) -> None:
        """Find out what became of a save that failed: a lost answer may have been a yes."""
        if self._unanswered is None or self.checkpoint is None:
            return
        if self.checkpoint.holds(self.settings.name, self._unanswered):
            log.info(
                "the checkpoint holds what it seemed to refuse",
                extra={"backend": self.settings.name},
            )
            self._apply(self._unanswered)
        self._unanswered = None

    def _recognise(self) -> None:
        """Make sure that these are the tables that were counted, before any row of them is."""
        if self.checkpoint is not None:
            self.checkpoint.recognise(self.settings.name, self.database.identities())

    # -- a step ------------------------------------------------------------------------------

    def step(self) -> bool:
        """Read one snapshot, understand it, take it over; say whether anything came of it."""
        self._reveal()
        if not self.readers.has_main or time.monotonic() >= self._health_due:
            self.database.look_again()
        try:
            batches = self._read()
        except BackendAbsent:
            if not all(self.positions[layout.kind].looked for layout in self.layouts):
                self._recognise()
                self._take_over({})  # what will be there is new, all of it (R8)
            raise
        moved = self._take_over(batches)
        self.last_read = time.time()
        left = sum(self.positions[layout.kind].left for layout in self.layouts)
        if not left:
            self.judge(self.last_read)
        self.recent.catch_up.note(left, time.monotonic())
        return moved

    def busy(self, now: float) -> bool:
        """Whether another step has work to do at once; `now`: Unix time, seconds."""
        return any(self.positions[layout.kind].busy(now) for layout in self.layouts)

    def judge(self, now: float) -> None:
        """Say which tasks are overdue, all having been read; `now`: Unix time, seconds."""
        began = self.tally.began
        if not self.expectations or began is None:
            return
        tasks = {name for name, _ in self.tally.last_finished()} - {OTHER, DROPPED, ""}
        self.expected = self.expectations.judge(self.tally.success_seen, tasks, began, now)

    def _read(self) -> dict[str, Batch]:
        """Ask everything in one snapshot."""
        with self.database.session() as session:
            self._recognise()
            self.readers.use(session)
            began, asked_at = time.monotonic(), time.time()
            batches = {
                kind: reader.read(session.connection, self._plan(kind, asked_at))
                for kind, reader in self.readers.by_kind.items()
            }
            followed = self.readers.of_groups
            self.pace.note(
                (batch for kind, batch in batches.items() if kind not in followed),
                time.monotonic() - began,
            )
            self._read_groups(session, batches)
            self._read_health(session)
            return batches

    def _plan(self, kind: str, now: float) -> Plan:
        position = self.positions[kind]
        position.pass_to(now)
        chunk = self.pace.chunk
        return position.plan(now, min(chunk, A_STEP) if kind in self.readers.of_groups else chunk)

    def _read_groups(self, session: Session, batches: dict[str, Batch]) -> None:
        """Read who is in groups, and what becomes of them, in the same snapshot."""
        for kind, reader in self.readers.of_groups.items():
            position = self.positions[kind]
            seen = reader.read(
                session.connection,
                position.open_groups,
                batches[self.database.family.main.kind],
                batches[kind],
                begins=position.followed_above is None,
            )
            batches[kind] = replace(batches[kind], groups_seen=seen)

    def _take_over(self, batches: Mapping[str, Batch]) -> bool:
        """Count what was read and keep it; say whether anything moved."""
        now = time.time()
        staged, changes = [], Changes()
        for layout in self.layouts:
            kind, position = layout.kind, self.positions[layout.kind]
            batch = batches.get(kind) or Batch.of_no_table(self._plan(kind, now))
            change = position.advance(batch, now)
            changes.update(self.tally.count(kind, layout.feed, change, now, live=position.live))
            staged.append(Staged(kind, position, change))
        moved = any(
            stage.change.moves(stage.position.mark, stage.position.gaps, stage.position.segments)
            for stage in staged
        )
        self._keep(Save(tuple(staged), changes))
        return moved

    def _reveal(self) -> None:
        """Show what was 0 for long enough, also while the database is down."""
        self._keep(Save(changes=self.tally.reveal(time.time())))

    def _keep(self, save: Save) -> None:
        """Save, then take over; before anything is served. If it fails, nothing was."""
        if self.checkpoint is not None:
            self._unanswered = save
            self.checkpoint.save(self.settings.name, save, self.positions, self.tally)
            self._unanswered = None
        self._apply(save)

    def _apply(self, save: Save) -> None:
        if self.main.live:  # else it is history, which is not of the last hour
            self.recent.minutes.take(self.tally.values, save.changes.values, minute())
        for stage in save.staged:
            self._note(stage)
            stage.position.apply(stage.change)
        self.tally.apply(save.changes)
        if save.staged:
            self._whole = all(stage.position.live for stage in save.staged)

    def _read_health(self, session: Session) -> None:
        if time.monotonic() < self._health_due:
            return
        connection = session.connection
        self.health = {
            kind: self._dated(kind, reader.health(connection))
            for kind, reader in self.readers.by_kind.items()
        }
        self.recent.looked(self.health)
        self._health_due = time.monotonic() + HEALTH_INTERVAL

    def date_offsets(self) -> dict[str, float | None]:
        """Say by kind of table how far ahead of UTC its dates are, in seconds, if they told it."""
        walls = self.readers.walls
        told = {kind: self.positions[kind].settled for kind in self.readers.by_kind if walls(kind)}
        return {kind: None if settled is None else settled.offset for kind, settled in told.items()}

    def _dated(self, kind: str, health: Health) -> Health:
        """Read its date as the newest ones are."""
        if not self.readers.walls(kind) or health.oldest_result is None:
            return health
        settled = self.positions[kind].settled
        oldest = None if settled is None else health.oldest_result - settled.offset
        return replace(health, oldest_result=oldest)

    def _note(self, stage: Staged) -> None:
        """Log what an operator should know, and remember the newest result's age."""
        layout = next(layout for layout in self.layouts if layout.kind == stage.kind)
        note(stage.change, stage.position, self.readers.fields(layout))
        now = time.time()
        outcomes = stage.change.outcomes
        moments = [done for o in outcomes if (done := getattr(o, "done", None)) is not None]
        newest = stage.position is self.main and stage.position.live
        if newest and (some := dates.possible(moments, now)):
            self.skew = max(some) - now

    def log_progress(self) -> None:
        """Log how much is left to read."""
        for layout in self.layouts:
            note_progress(self.positions[layout.kind], self.readers.fields(layout))

    def counted(self) -> dict[Metric, list[Sample]]:
        """Return the counts to serve."""
        if self._whole:
            self._counted = self.tally.samples()
        return self._counted
