"""One backend: poll, count, publish; wait longer after each failure."""

from __future__ import annotations

import gc
import logging
import random
import threading
import time
import traceback
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from operator import add
from typing import Any

from exporter.backends.database import WRONG_NAMES, Database, Session
from exporter.backends.reader import MOST_GROUPS, MOST_ROWS, Health, Reader, reader_of
from exporter.backends.tables import ResultTable, celery
from exporter.checkpoint.checkpoint import Checkpoint, Save, Staged
from exporter.config.settings import Backend
from exporter.counting import dates
from exporter.counting.folding import fold, series
from exporter.counting.lifecycle import Rules
from exporter.counting.position import CHUNK_ROWS, Batch, Change, Position
from exporter.counting.tally import Changes, Tally
from exporter.errors import BackendAbsent, BackendError, Reason
from exporter.exposition.exposition import Exposition
from exporter.metrics import catalogue
from exporter.metrics.catalogue import Metric
from exporter.metrics.samples import Histogram, Sample
from exporter.sql.connection import unexpected
from exporter.sql.waiting import waiting
from exporter.web.status import BackendStatus, TableStatus, TaskStatus

log = logging.getLogger(__name__)

HEALTH_INTERVAL = 60.0  # seconds between looks at the tables and at what changes slowly
PUBLISH_INTERVAL = 1.0  # seconds, while a poll lasts
LONGEST_BACKOFF = 60.0  # seconds
CHUNK_SECONDS = 0.25  # that a snapshot of a backlog is held open, about
SMALLEST_CHUNK = 500  # rows
LARGEST_CHUNK = 1_000_000  # rows; most of them come as groups
BREATH = 0.005  # seconds between two steps, for everybody else who uses the database
STUCK_AFTER = 60.0  # seconds beyond all timeouts


class Poller:
    """Follows one backend until told to stop."""

    def __init__(
        self, settings: Backend, exposition: Exposition, checkpoint: Checkpoint | None = None
    ) -> None:
        self.settings = settings
        self.database = Database(settings)
        self.tally = Tally(settings.series_limit, settings.first_zero)
        rules = Rules(
            start=settings.start,
            poll_interval=settings.poll_interval,
            late_commit_grace=settings.late_commit_grace,
            revision_window=settings.revision_window,
            named=settings.result_extended,
            label_sets=settings.series_limit // 2,
        )
        self.positions = {layout.kind: Position(rules) for layout in celery.LAYOUTS}
        self.tried = threading.Event()
        self._checkpoint = checkpoint
        self._restored = checkpoint is None
        self._unanswered: Save | None = None  # we do not know whether it was kept
        self._exposition = exposition
        # What is served of the tally. History comes at once, when all of it is counted: served bit
        # by bit it would be an increase (R12).
        self._counted: dict[Metric, list[Sample]] = {}
        self._whole = False  # none of it is history that was read in part
        self._stop = threading.Event()
        self._beat = 0.0  # monotonic; polls begin so many intervals from then on
        self._patient_until = float("inf")  # monotonic; later than this they are stuck
        self._readers: dict[str, Reader] = {}
        self._chunk = CHUNK_ROWS
        self._tables: tuple[ResultTable, ...] | None = None
        self._health: dict[str, Health] = {}
        self._health_due = 0.0
        self._skew: float | None = None
        self._up: bool | None = None
        self._message = "not tried yet"
        self._waiting = ""  # for a table, and which
        self._failures = 0
        self._seen: set[object] = set()  # unexpected errors, by their place in code
        self._polls = 0
        self._errors: Counter[Reason] = Counter(dict.fromkeys(Reason, 0))
        self._durations = Histogram.empty(catalogue.POLL_BUCKETS)
        self._duration: float | None = None
        self._last_poll: float | None = None
        self._born = time.time()
        self._published = 0.0

    # -- polls -------------------------------------------------------------------------------

    def begin(self, beat: float) -> None:
        """Expect polls from now on, so many intervals from this moment on.

        By the monotonic clock; it may lie ahead.
        """
        self._beat = beat

    def run(self) -> float:
        """Poll; return when to poll again, by the monotonic clock."""
        started = time.monotonic()
        self.try_poll()
        now = time.monotonic()
        due = now + self._delay(now, now - started)
        self._patient_until = due + STUCK_AFTER
        return due

    def stop(self) -> None:
        """Ask a poll to end after the step it is in."""
        self._stop.set()

    def close(self) -> None:
        """Discard the connection."""
        self.database.close()

    def stuck(self) -> bool:
        """Whether polls make no progress."""
        return time.monotonic() > self._patient_until

    def _delay(self, now: float, spent: float) -> float:
        """Seconds to the next poll: on a steady beat, or backing off."""
        interval = self.settings.poll_interval
        if not self._failures:
            return (self._beat - now) % interval if spent < interval else 0.0
        backoff = min(interval * 2.0 ** min(self._failures - 1, 16), LONGEST_BACKOFF)
        return max(interval, backoff) * random.uniform(0.9, 1.1)  # noqa: S311  # jitter

    def try_once(self) -> bool:
        """Poll for the only time: what might get its name later counts without."""
        for position in self.positions.values():
            position.rules = replace(position.rules, waits=False)
        return self.try_poll()

    def try_poll(self) -> bool:
        """Poll once, take note of how it went, publish; return whether it worked."""
        started = time.monotonic()
        self._polls += 1
        try:
            self._poll()
        except BackendAbsent as error:
            self._failed(error, 1)
        except BackendError as error:
            self._failed(error, self._failures + 1)
        except Exception as error:  # noqa: BLE001  # our own: the other backends must go on
            self._failed(unexpected(error, Reason.QUERY), self._failures + 1)
        else:
            self._worked(time.monotonic() - started)
        self._publish()
        self.tried.set()
        return bool(self._up)

    def _worked(self, duration: float) -> None:
        if not self._up:
            log.info(
                "backend is up", extra={"backend": self.settings.name, "server": self._server()}
            )
        self._up, self._message, self._failures = True, self._waiting, 0
        self._durations = self._durations.observe(duration)
        self._duration = duration

    def _failed(self, error: BackendError, failures: int) -> None:
        known = self._up is False and self._message == str(error)
        self._up, self._message, self._failures = False, str(error), failures
        self._errors[error.reason] += 1
        self._chunk = max(self._chunk // 10, SMALLEST_CHUNK)  # it may have been too much at once
        level = logging.WARNING if not known or self._failures > 1 else logging.DEBUG
        fields = {"backend": self.settings.name, "reason": error.reason, "error": str(error)}
        log.log(level, "poll failed", extra=fields, exc_info=self._worth_a_look(error))

    def _worth_a_look(self, error: BackendError) -> BaseException | None:
        """Return what is behind an unexpected error, for who debugs any: once for each place."""
        cause = error.__cause__
        if cause is None or not (error.unexpected or log.isEnabledFor(logging.DEBUG)):
            return None
        innermost = traceback.extract_tb(cause.__traceback__, limit=-1)
        place = (type(cause), *((frame.filename, frame.lineno) for frame in innermost))
        new = place not in self._seen
        self._seen.add(place)
        return cause if new else None

    # -- a poll ------------------------------------------------------------------------------

    def _poll(self) -> None:
        """Read step by step until there is nothing left to read."""
        began = time.time()
        logged = time.monotonic()
        limits = self.settings.connect_timeout + 2 * self.settings.query_timeout
        if self._checkpoint is not None:
            limits += 2 * self._checkpoint.patience
        while True:
            self._patient_until = time.monotonic() + limits + STUCK_AFTER
            moved = self._step()
            if not self.tried.is_set():
                gc.freeze()  # what a backlog leaves stays: to look at it again and again is slow
            # What falls due meanwhile is the next poll's: else a busy table's poll never ends.
            now = min(began, time.time())
            busy = moved and any(p.busy(now) for p in self.positions.values())
            if self._stop.is_set() or not busy:
                return
            if time.monotonic() - self._published >= PUBLISH_INTERVAL:
                self._publish()
            if time.monotonic() - logged >= LONGEST_BACKOFF / 6:
                logged = time.monotonic()
                self._log_progress()
            with waiting():
                self._stop.wait(BREATH)

    def _step(self) -> bool:
        """Read one snapshot, understand it, take it over; say whether anything came of it."""
        self.restore()
        self._settle()
        self._stand_by_the_checkpoint()
        self._reveal()
        self._maybe_look_again()
        try:
            batches = self._read()
        except BackendAbsent:
            if not all(position.looked for position in self.positions.values()):
                self._recognise()
                self._take_over({})  # what will be there is new, all of it (R8)
            raise
        moved = self._take_over(batches)
        self._last_poll = time.time()
        return moved

    def _read(self) -> dict[str, Batch]:
        """Ask everything in one snapshot."""
        with self.database.session() as session:
            self._recognise()
            self._use(session)
            began, asked_at = time.monotonic(), time.time()
            batches = {
                kind: reader.read(session, self.positions[kind].plan(asked_at, self._chunk))
                for kind, reader in self._readers.items()
            }
            self._pace(batches, time.monotonic() - began)
            self._read_health(session)
            return batches

    def _pace(self, batches: Mapping[str, Batch], spent: float) -> None:
        """Fit the next chunk to what this one took, in time and room, if there was more to read."""
        fitting = [
            batch.plan.chunk
            / max(
                spent / CHUNK_SECONDS,
                batch.fetched / MOST_ROWS,
                len(batch.groups) / MOST_GROUPS,
                0.25,
            )
            for batch in batches.values()
            if batch.goes_on
        ]
        if fitting:
            self._chunk = round(min(max(min(fitting), SMALLEST_CHUNK), LARGEST_CHUNK))

    def _take_over(self, batches: Mapping[str, Batch]) -> bool:
        """Count what was read and keep it; say whether anything moved."""
        now = time.time()
        staged, changes = [], Changes()
        for kind, position in self.positions.items():
            batch = batches.get(kind) or Batch.of_no_table(position.plan(now))
            change = position.advance(batch, now)
            changes.update(self.tally.count(kind, change, now, live=position.live))
            staged.append(Staged(kind, position, change))
        moved = any(stage.change.moves(stage.position) for stage in staged)
        self._keep(Save(tuple(staged), changes))
        return moved

    def _reveal(self) -> None:
        """Show what was 0 for long enough, also while the database is down."""
        self._keep(Save(changes=self.tally.reveal(time.time())))

    def _keep(self, save: Save) -> None:
        """Save, then take over; before anything is served. If it fails, nothing was."""
        if self._checkpoint is not None:
            self._unanswered = save
            self._checkpoint.save(self.settings.name, save, self.positions, self.tally)
            self._unanswered = None
        self._apply(save)

    def _apply(self, save: Save) -> None:
        for stage in save.staged:
            self._note(stage.kind, stage.position, stage.change)
            stage.position.apply(stage.change)
        self.tally.apply(save.changes)
        if save.staged:
            self._whole = all(position.live for position in self.positions.values())

    def _settle(self) -> None:
        """Find out what became of a save that failed: a lost answer may have been a yes."""
        if self._unanswered is None or self._checkpoint is None:
            return
        if self._checkpoint.holds(self.settings.name, self._unanswered):
            log.info(
                "the checkpoint holds what it seemed to refuse",
                extra={"backend": self.settings.name},
            )
            self._apply(self._unanswered)
        self._unanswered = None

    def restore(self) -> None:
        """Go on from the checkpoint, if there is one, and serve at once what it has kept.

        By the backend's name: the server, which says what tables these are, may be down.
        """
        if self._restored or self._checkpoint is None:
            return
        known = self._checkpoint.restore(self.settings.name, self.positions, self.tally)
        self._restored = True
        self._whole = all(position.complete for position in self.positions.values())
        if known:
            log.info("going on from the checkpoint", extra={"backend": self.settings.name})
            self._publish()
        else:
            log.info("the checkpoint has nothing yet", extra={"backend": self.settings.name})

    def _recognise(self) -> None:
        """Make sure that these are the tables that were counted, before any row of them is."""
        if self._checkpoint is not None:
            self._checkpoint.recognise(self.settings.name, self.database.identities())

    def _stand_by_the_checkpoint(self) -> None:
        """Have all of it in the checkpoint, or go on from what was put in the place of that."""
        checkpoint = self._checkpoint
        if checkpoint and not checkpoint.keep(self.settings.name, self.positions, self.tally):
            self._restored = False
            self.restore()

    def _maybe_look_again(self) -> None:
        task_table = any(table.layout.kind == "task" for table in self._tables or ())
        if not task_table or time.monotonic() >= self._health_due:
            self.database.look_again()

    def _use(self, session: Session) -> None:
        tables = session.tables
        if tables is self._tables:
            return
        before = {t.layout.kind for t in self._tables} if self._tables is not None else None
        self._tables = tables
        zone = self.settings.timezone
        dialect = self.database.dialect
        self._readers = {t.layout.kind: reader_of(t, dialect, zone) for t in tables}
        for layout in celery.LAYOUTS:
            if layout.kind not in self._readers and (before is None or layout.kind in before):
                self._wait_for(layout.kind, session)
        if "task" in self._readers:
            self._waiting = ""

    def _wait_for(self, kind: str, session: Session) -> None:
        """Say that a table is not there, and which ones are that may be meant."""
        waiting = "table does not exist yet; waiting for Celery to create it"
        fields = {"backend": self.settings.name, "table": self._table_name(kind)}
        similar = self.database.lookalikes(session.connection) if kind == "task" else ""
        if similar:
            log.warning(waiting, extra={**fields, "similar": similar})
        else:
            log.info(waiting, extra=fields)
        if kind == "task":
            hint = f". There is {similar}: {WRONG_NAMES}" if similar else ""
            self._waiting = f"{fields['table']}: {waiting}{hint}"

    def _read_health(self, session: Session) -> None:
        if time.monotonic() < self._health_due:
            return
        self._health = {kind: reader.health(session) for kind, reader in self._readers.items()}
        self._health_due = time.monotonic() + HEALTH_INTERVAL

    def _note(self, kind: str, position: Position, change: Change) -> None:
        """Log what an operator should know, and remember the newest result's age."""
        if change.resets:
            log.warning(
                "ids began again below the last row read; reading goes on from there",
                extra={
                    "backend": self.settings.name,
                    "table": self._table_name(kind),
                    "last_id": position.cursor,
                    "from_id": change.cursor,
                },
            )
        now = time.time()
        moments = [done for o in change.outcomes if (done := getattr(o, "done", None)) is not None]
        if kind == "task" and position.live and (believed := dates.possible(moments, now)):
            self._skew = max(believed) - now

    def _log_progress(self) -> None:
        for kind, position in self.positions.items():
            if position.backlog or position.below is not None:
                log.info(
                    "catching up",
                    extra={
                        "backend": self.settings.name,
                        "table": self._table_name(kind),
                        "backlog_ids": position.backlog,
                    },
                )

    # -- what others see ---------------------------------------------------------------------

    def _publish(self) -> None:
        if self._whole:
            self._counted = self.tally.samples()
        samples: dict[Metric, list[Sample]] = {**self._counted, **self._own_samples()}
        samples |= self._unfinished(self.settings.series_limit - series(samples))
        samples[catalogue.SERIES] = [Sample((), series(samples))]
        self._exposition.publish(self.settings.name, samples)
        self._published = time.monotonic()

    def _unfinished(self, limit: int) -> dict[Metric, list[Sample]]:
        """Return the gauges of unfinished rows, within what counters leave of the limit (R10)."""
        task = self.positions["task"]
        oldest = fold(catalogue.OLDEST_UNFINISHED, task.oldest().items(), limit // 2, min)
        rows = fold(catalogue.UNFINISHED, task.unfinished.items(), limit - len(oldest), add)
        return {
            catalogue.UNFINISHED: [Sample(labels, count) for labels, count in rows],
            catalogue.OLDEST_UNFINISHED: [Sample(labels, since) for labels, since in oldest],
        }

    def _own_samples(self) -> dict[Metric, list[Sample]]:
        born = self._born
        samples = {
            catalogue.POLL_INTERVAL: [Sample((), self.settings.poll_interval)],
            catalogue.POLLS: [Sample((), self._polls, born)],
            catalogue.POLL_ERRORS: [
                Sample((reason.value,), count, born) for reason, count in self._errors.items()
            ],
            catalogue.POLL_DURATION: [Sample((), self._durations)],
        }
        if self._up is not None:  # there was a poll
            samples[catalogue.UP] = [Sample((), float(self._up))]
        if self._checkpoint is not None:
            rewrites = self._checkpoint.rewrites[self.settings.name]
            samples[catalogue.CHECKPOINT_REWRITES] = [Sample((), rewrites, born)]
        if self._last_poll is not None:
            samples[catalogue.LAST_POLL] = [Sample((), self._last_poll)]
        if self._skew is not None:
            samples[catalogue.CLOCK_SKEW] = [Sample((), self._skew)]
        if self._tables is not None:
            samples |= self._database_samples(self._tables)
        return samples

    def _database_samples(self, tables: tuple[ResultTable, ...]) -> dict[Metric, list[Sample]]:
        present = {table.layout.kind: table for table in tables}
        task = present.get("task")
        family = celery.schema_family(task.all_columns) if task else ""
        dialect = self.settings.url.get_backend_name()
        info = (dialect, self.database.driver, self.database.server.split(" ")[-1], family)
        capabilities = {
            "extended": task is not None and task.extended,
            "date_done_index": task is not None and task.date_done_index,
            "snapshot": self.database.dialect.snapshot,
            "table_task": task is not None,
            "table_group": "group" in present,
        }
        samples = {
            catalogue.INFO: [Sample(info, 1)],
            catalogue.CAPABILITY: [
                Sample((name,), float(has)) for name, has in capabilities.items()
            ],
        }

        def each(metric: Metric, values: dict[str, Any]) -> None:
            samples[metric] = [Sample((k,), v) for k, v in values.items() if v is not None]

        each(catalogue.BACKLOG, {kind: self.positions[kind].backlog for kind in present})
        each(catalogue.GAP_IDS, {kind: self.positions[kind].gap_ids for kind in present})
        watched = {kind: self.positions[kind].watched for kind in present}
        each(catalogue.WATCHED, {kind: len(rows) for kind, rows in watched.items()})
        each(catalogue.WATCHED_FOLDED, {kind: rows.folded for kind, rows in watched.items()})
        each(catalogue.ID_USED, {kind: h.id_used_ratio for kind, h in self._health.items()})
        each(catalogue.OLDEST_RESULT, {kind: h.oldest_result for kind, h in self._health.items()})
        each(catalogue.ROWS_ESTIMATE, {kind: h.rows_estimate for kind, h in self._health.items()})
        return samples

    @property
    def status(self) -> BackendStatus:
        """What people want to know, made when they ask. Called from another thread."""
        task = self.positions["task"]
        finished: dict[str, Counter[str]] = {}
        for name, state, count in self.tally.by_task():
            finished.setdefault(name, Counter())[state] += count
        unfinished: dict[str, Counter[str]] = {}
        for (name, state, _, _), count in list(task.unfinished.items()):
            unfinished.setdefault(name, Counter())[state] += count
        last: dict[str, float] = {}
        for (metric, labels), moment in list(self.tally.newest.items()):
            if metric is catalogue.LAST_FINISHED:
                last[labels[0]] = max(moment, last.get(labels[0], moment))
        return BackendStatus(
            name=self.settings.name,
            up=self._up,
            message=self._message,
            rewritten=self._checkpoint.rewritten.get(self.settings.name)
            if self._checkpoint is not None
            else None,
            server=self._server(),
            poll_interval=self.settings.poll_interval,
            last_poll=self._last_poll,
            poll_duration=self._duration,
            tables=tuple(self._table_status(layout.kind) for layout in celery.LAYOUTS),
            tasks=tuple(
                TaskStatus(name, finished.get(name, {}), unfinished.get(name, {}), last.get(name))
                for name in sorted(finished.keys() | unfinished.keys())
            ),
        )

    def _table_status(self, kind: str) -> TableStatus:
        table = next((t for t in self._tables or () if t.layout.kind == kind), None)
        position = self.positions[kind]
        return TableStatus(
            kind=kind,
            name=self._table_name(kind),
            present=table is not None,
            columns=tuple(table.table.c.keys()) if table else (),
            highest_id=position.top,
            backlog_ids=position.backlog,
            gap_ids=position.gap_ids,
            watched_rows=len(position.watched),
        )

    def _table_name(self, kind: str) -> str:
        layout = next(layout for layout in celery.LAYOUTS if layout.kind == kind)
        name, schema = self.database.table_name(layout)
        return f"{schema}.{name}" if schema else name

    def _server(self) -> str:
        return f"{self.database.server}, {self.database.driver}" if self.database.server else ""
