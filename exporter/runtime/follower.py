"""One backend's results, followed step by step: read, count, save, and only then show (R7)."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Mapping
from contextlib import closing
from dataclasses import replace

from exporter.backends import chunks
from exporter.backends.database import Database, Session, may_be_meant
from exporter.backends.family import Layout, ResultTable
from exporter.backends.groups import GroupReader, obstacle
from exporter.backends.reader import Health, Reader
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
from exporter.counting.step import CHUNK_ROWS, Batch, Change, Plan
from exporter.counting.tally import Changes, Tally
from exporter.counting.zones import Settled
from exporter.errors import BackendAbsent
from exporter.metrics.catalogue import Metric
from exporter.metrics.samples import Sample
from exporter.runtime.recent import Recent, minute
from exporter.sql.identity import Identity

log = logging.getLogger(__name__)

HEALTH_INTERVAL = 60.0  # seconds between looks at the tables and at what changes slowly
CHUNK_SECONDS = 0.25  # that a snapshot of a backlog is held open, about
SMALLEST_CHUNK = 500  # rows
LARGEST_CHUNK = 1_000_000  # rows; most of them come as groups


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
        self.tables: tuple[ResultTable, ...] | None = None  # None: never connected
        self.health: dict[str, Health] = {}  # by kind of table
        self.skew: float | None = None  # seconds by which the newest result lies ahead
        self.checkpoint = checkpoint
        self.waiting = ""  # for a table, and which
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
        self._readers: Mapping[str, Reader] = {}
        self._group_readers: dict[str, GroupReader] = {}  # of those tables that are followed
        self._chunk = CHUNK_ROWS
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
        self.last_read, self.skew, self.waiting = old.last_read, old.skew, old.waiting
        self.tables, self._readers = old.tables, old._readers  # until they were looked at here, too
        self._group_readers = old._group_readers
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
        if not self._has_main_table() or time.monotonic() >= self._health_due:
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

    def capabilities(self) -> dict[str, bool]:
        """Say what the backend offers, as far as it was seen."""
        present = {table.layout.kind: table for table in self.tables or ()}
        main = present.get(self.database.family.main.kind)
        return {
            "extended": main is not None and main.extended,
            "date_done_index": main is not None and main.date_done_index,
            "snapshot": self.database.dialect.snapshot,
            **{f"table_{layout.kind}": layout.kind in present for layout in self.layouts},
            **self._measured(),
            **self._groups(),
        }

    def _measured(self) -> dict[str, bool]:
        """Say whether it is read how long tasks ran, where the family may tell, and how much."""
        main = self.database.family.main
        reader = self._readers.get(main.kind)
        has: dict[str, bool] = {}
        if main.started:
            has["runtimes"] = reader is not None and reader.times
        if self.settings.payload_bytes:
            has["payload"] = reader is not None and reader.sizes
        return has

    def _groups(self) -> dict[str, bool]:
        """Say whether groups are followed, where there is a table of them and they should be."""
        wanted = [t for t in self.tables or () if t.layout.members and self.settings.groups]
        return {"groups": len(self._group_readers) == len(wanted)} if wanted else {}

    def ask_less(self) -> None:
        """Read less at once: it may have been too much."""
        self._chunk = max(self._chunk // 10, SMALLEST_CHUNK)

    def _has_main_table(self) -> bool:
        main = self.database.family.main
        return any(table.layout is main for table in self.tables or ())

    def _read(self) -> dict[str, Batch]:
        """Ask everything in one snapshot."""
        with self.database.session() as session:
            self._recognise()
            self._use(session)
            began, asked_at = time.monotonic(), time.time()
            batches = {
                kind: reader.read(session.connection, self._plan(kind, asked_at))
                for kind, reader in self._readers.items()
            }
            self._pace(batches, time.monotonic() - began)
            self._read_groups(session, batches)
            self._read_health(session)
            return batches

    def _plan(self, kind: str, now: float) -> Plan:
        position = self.positions[kind]
        position.pass_to(now)
        followed = kind in self._group_readers
        return position.plan(now, min(self._chunk, A_STEP) if followed else self._chunk)

    def _read_groups(self, session: Session, batches: dict[str, Batch]) -> None:
        """Read who is in groups, and what becomes of them, in the same snapshot."""
        for kind, reader in self._group_readers.items():
            position = self.positions[kind]
            seen = reader.read(
                session.connection,
                position.open_groups,
                batches[self.database.family.main.kind],
                batches[kind],
                begins=position.followed_above is None,
            )
            batches[kind] = replace(batches[kind], groups_seen=seen)

    def _pace(self, batches: Mapping[str, Batch], spent: float) -> None:
        """Fit the next chunk to what this one took, in time and room, if there was more to read."""
        fitting = [
            batch.plan.chunk
            / max(
                spent / CHUNK_SECONDS,
                batch.fetched / chunks.MOST_ROWS,
                len(batch.groups) / chunks.MOST_GROUPS,
                0.25,
            )
            for kind, batch in batches.items()
            if batch.goes_on and kind not in self._group_readers
        ]
        if fitting:
            self._chunk = round(min(max(min(fitting), SMALLEST_CHUNK), LARGEST_CHUNK))

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
            self._note(stage.kind, stage.position, stage.change)
            stage.position.apply(stage.change)
        self.tally.apply(save.changes)
        if save.staged:
            self._whole = all(stage.position.live for stage in save.staged)

    def _use(self, session: Session) -> None:
        if session.tables is self.tables:
            return
        before = None if self.tables is None else {table.layout for table in self.tables}
        self.tables, self._readers = session.tables, session.readers
        for layout in self.layouts:
            if layout.kind not in self._readers and (before is None or layout in before):
                self._wait_for(layout, session)
        if self._has_main_table():
            self.waiting = ""
        self._group_readers = {}
        if session.main is not None and self.settings.groups:
            self._follow_groups(session.main, session.tables)

    def _follow_groups(self, main: ResultTable, tables: Iterable[ResultTable]) -> None:
        """Follow the groups in these tables; say why where it cannot be done."""
        for table in tables:
            kind = table.layout.kind
            if table.layout.members is None:
                continue
            if why := obstacle(main, table):
                log.info(
                    "groups are not followed until they complete",
                    extra={"backend": self.settings.name, "table": self._name(kind), "error": why},
                )
            else:
                self._group_readers[kind] = GroupReader(main, table, self.database.dialect)

    def _wait_for(self, layout: Layout, session: Session) -> None:
        """Say that a table is not there, and which ones are that may be meant."""
        maker = session.family.maker
        waiting = f"table does not exist yet; waiting for {maker} to create it"
        fields = {"backend": self.settings.name, "table": self.database.full_name(layout)}
        main = layout is session.family.main
        similar = self.database.lookalikes(session.connection) if main else ""
        if similar:
            log.warning(waiting, extra={**fields, "similar": similar})
        else:
            log.info(waiting, extra=fields)
        if main:
            said = f"{fields['table']}: {waiting}"
            self.waiting = "; ".join(filter(None, (said, may_be_meant(similar))))

    def _read_health(self, session: Session) -> None:
        if time.monotonic() < self._health_due:
            return
        connection = session.connection
        self.health = {
            kind: self._dated(kind, reader.health(connection))
            for kind, reader in self._readers.items()
        }
        self.recent.looked(self.health)
        self._health_due = time.monotonic() + HEALTH_INTERVAL

    def date_offsets(self) -> dict[str, float | None]:
        """Say by kind of table how far ahead of UTC its dates are, in seconds, if they told it."""
        told = {kind: self.positions[kind].settled for kind in self._readers if self.walls(kind)}
        return {kind: None if settled is None else settled.offset for kind, settled in told.items()}

    def walls(self, kind: str) -> bool:
        """Say whether the dates of a table have to tell their zone."""
        reader = self._readers.get(kind)
        return reader is not None and reader.walls

    def _dated(self, kind: str, health: Health) -> Health:
        """Read its date as the newest ones are."""
        if not self.walls(kind) or health.oldest_result is None:
            return health
        settled = self.positions[kind].settled
        oldest = None if settled is None else health.oldest_result - settled.offset
        return replace(health, oldest_result=oldest)

    def _note(self, kind: str, position: Position, change: Change) -> None:
        """Log what an operator should know, and remember the newest result's age."""
        if change.resets:
            log.warning(
                "ids began again below the last row read; reading goes on from there",
                extra={
                    "backend": self.settings.name,
                    "table": self._name(kind),
                    "last_id": position.cursor,
                    "from_id": change.cursor,
                },
            )
        before, settled = position.settled, change.settled
        if settled is not None and (before is None or before.offset != settled.offset):
            self._note_zone(kind, before, settled)
        now = time.time()
        moments = [done for o in change.outcomes if (done := getattr(o, "done", None)) is not None]
        if position is self.main and position.live and (some := dates.possible(moments, now)):
            self.skew = max(some) - now

    def _note_zone(self, kind: str, before: Settled | None, settled: Settled) -> None:
        fields = {"backend": self.settings.name, "table": self._name(kind), "zone": settled.name}
        if before is None:
            log.info("results have told which zone date_done is in", extra=fields)
            return
        log.warning(
            "date_done is in another zone from now on: by daylight saving, or a change of workers",
            extra={**fields, "before": before.name},
        )

    def log_progress(self) -> None:
        """Log how much is left to read."""
        for layout in self.layouts:
            position = self.positions[layout.kind]
            if position.backlog or position.below is not None:
                log.info(
                    "catching up",
                    extra={
                        "backend": self.settings.name,
                        "table": self.database.full_name(layout),
                        "backlog_ids": position.backlog,
                    },
                )

    def _name(self, kind: str) -> str:
        return next(self.database.full_name(one) for one in self.layouts if one.kind == kind)

    def counted(self) -> dict[Metric, list[Sample]]:
        """Return the counts to serve."""
        if self._whole:
            self._counted = self.tally.samples()
        return self._counted
