"""The `check` command: connect to each backend and the checkpoint; say what is found there."""

from __future__ import annotations

import logging
import os
import sys
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import click
from sqlalchemy import URL

from exporter import flags
from exporter.backends.database import Database, Session, may_be_meant
from exporter.backends.family import ResultTable
from exporter.backends.reader import Health
from exporter.checkpoint.adoption import refused
from exporter.checkpoint.lease import LIMITS, Lease
from exporter.checkpoint.migrations import VERSION
from exporter.checkpoint.saved import Saved, read
from exporter.checkpoint.store import IN_A_DATABASE, Store
from exporter.config.settings import Backend, Config
from exporter.counting import dates
from exporter.counting.results import STATES, Row
from exporter.durations import ago, utc
from exporter.errors import CheckpointError
from exporter.printable import printable, some
from exporter.runtime.beat import Beat
from exporter.runtime.options import Options
from exporter.sql.connection import trouble
from exporter.sql.identity import Identity

log = logging.getLogger(__name__)


MOST_STATES = 10  # that are listed
MOST_FAULTS = 20  # likewise
AT_ONCE = 32  # backends, each waiting for a server of its own

Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(slots=True)
class Report:
    """What was found: facts to print, and what an operator should do something about."""

    facts: list[tuple[str, str]] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)

    def lines(self, of: str) -> Iterator[str]:
        """Render it."""
        verdict = "FAILED" if self.errors else "ok"
        yield f"{printable(of)}: {verdict}"
        width = max((len(label) for label, _ in self.facts), default=0)
        for label, value in self.facts:
            yield f"  {label:<{width}}  {printable(value)}"
        yield from (f"  warning: {printable(warning)}" for warning in self.warnings)
        yield from (f"  error: {printable(error)}" for error in self.errors)


@click.command(params=flags.options())
@flags.configured(log_level="warning")
def command(config: Config, options: Options) -> int:
    """Try each backend and print what it finds."""
    return check(config, options.adopt)


def check(config: Config, adopt: Collection[str] = ()) -> int:
    """Check everything; return 0 where all is well, 1 where something is wrong."""
    checkpoint, saved = _examine_checkpoint(config.checkpoint)

    def examine(settings: Backend) -> Report:
        known = {} if settings.name in adopt else saved.get(settings.name, {})
        return _examine(settings, known)

    reports = in_order(examine, config.backends)
    failed = [
        settings.name
        for settings, report in zip(config.backends, reports, strict=True)
        if _print(f"backend {settings.name}", report)
    ]
    if config.checkpoint is not None:
        failed += ["checkpoint"] * _print("checkpoint", checkpoint)
    if len(config.backends) > 1:
        summary = f"{len(config.backends):,} backends, {len(failed):,} failed"
        sys.stdout.write(f"{summary}: {some(failed)}\n" if failed else f"{summary}\n")
    return int(bool(failed))


def _print(of: str, report: Report) -> bool:
    """Print it at once, since the next one may take long; say whether something is wrong."""
    sys.stdout.write("\n".join(report.lines(of)) + "\n")
    sys.stdout.flush()
    return bool(report.errors)


def in_order(work: Callable[[Item], Result], items: Sequence[Item]) -> Iterator[Result]:
    """Yield the result for each item, in the order of the items, as soon as it is there.

    `work` must not raise: what comes after would be lost. If nobody wants more, no more is begun.
    """
    if len(items) == 1:
        yield work(items[0])
        return
    with ThreadPoolExecutor(min(AT_ONCE, max(1, len(items)))) as pool:
        yield from pool.map(work, items)


Known = Mapping[str, Mapping[str, Identity]]  # by backend and kind


def _examine_checkpoint(where: Path | URL | None) -> tuple[Report, Known]:
    report = Report()
    known: Known = {}
    try:
        if where is not None:
            facts, known = _file(where) if isinstance(where, Path) else _database(where)
            report.facts += facts
    except CheckpointError as error:
        report.errors.append(str(error))
    return report, known


def _file(path: Path) -> tuple[list[tuple[str, str]], Known]:
    """Look, and leave no trace: the exporter may be running, or will run as somebody else."""
    if not path.exists():
        folder = path.absolute().parent
        if not os.access(folder, os.W_OK | os.X_OK):
            raise CheckpointError(f"checkpoint {path}: {folder} does not exist or is not writable")
        return [("file", f"{path} does not exist yet")], {}
    if not os.access(path, os.W_OK):
        raise CheckpointError(f"checkpoint {path}: is not writable")
    checkpoint = read(path)
    try:
        facts, known = _saved(checkpoint)
        return [("file", f"{path}, {path.stat().st_size} bytes"), *facts], known
    finally:
        checkpoint.close()


def _database(url: URL) -> tuple[list[tuple[str, str]], Known]:
    """Try every right; the tables are created where they are missing."""
    checkpoint = Saved(Store(url, IN_A_DATABASE, limits=LIMITS))
    lease = Lease(Store(url, IN_A_DATABASE, limits=LIMITS))
    try:
        server = checkpoint.probe()
        facts, known = _saved(checkpoint)
        return [("server", server), *facts, ("leader", lease.look() or "none")], known
    finally:
        lease.close()
        checkpoint.close()


def _saved(checkpoint: Saved) -> tuple[list[tuple[str, str]], Known]:
    schema = checkpoint.schema()
    if schema is not None and schema < VERSION:
        return [("schema", f"{schema}: the next start brings it to {VERSION}")], {}
    known = checkpoint.identities() if schema else {}
    return [("backends", ", ".join(known) or "none yet")], known


def _examine(settings: Backend, known: Mapping[str, Identity]) -> Report:
    report = Report()
    try:
        database = Database(settings)
        answering = False
        try:
            database.expect(known)
            with database.session() as session:
                answering = True
                _describe(report, database, session)
                if refusal := refused(settings.name, known, database.identities()):
                    raise CheckpointError(refusal)
        finally:
            beat = Beat(settings, database)
            if beat.own or answering:
                _describe_beat(report, beat)
            database.close()
    except Exception as error:  # whatever it is, the other backends are told of
        log.debug("not read", extra={"backend": settings.name}, exc_info=error)
        report.errors.append(trouble(error))
    return report


def _describe_beat(report: Report, beat: Beat) -> None:
    """Say what there is of schedules; nothing where there is none, and none was asked for."""
    beat.look_now()
    if (look := beat.last) is None:
        return
    if not look.up:
        report.errors.append(f"schedules of celery beat: {look.message}")
        return
    said = f"{look.package}, entries: {look.count:,}, overdue: {len(look.overdue):,}"
    report.facts.append(("schedules", said))
    for fault in look.faults[:MOST_FAULTS]:
        report.warnings.append(f"entry {fault.name!r} of celery beat cannot be read: {fault.why}")


def _describe(report: Report, database: Database, session: Session) -> None:
    snapshot = "yes" if database.dialect.snapshot else "no: ranges are read row by row"
    report.facts += [
        ("server", f"{database.server}, {database.driver}"),
        ("snapshots", snapshot),
    ]
    found = {table.layout: table for table in session.tables}
    for layout in session.family.layouts:
        full_name = database.full_name(layout)
        if layout in found:
            report.facts.append((f"{layout.kind} table", full_name))
            _describe_table(report, database, session, found[layout])
            continue
        main = layout is session.family.main
        report.facts.append((f"{layout.kind} table", f"{full_name} does not exist"))
        key = database.key(layout)
        (report.errors if main else report.warnings).append(
            f"table {full_name!r} does not exist yet, or this account may not see it: "
            f"{session.family.maker} creates it" + (f"; check {key}" if key else "")
        )
        if main and (hint := may_be_meant(database.lookalikes(session.connection))):
            report.errors.append(hint)
    report.warnings += [
        f"{database.full_name(other.main)} is there, too, and is not read: set tables to "
        f"{other.name} if it is meant"
        for other in database.unread
    ]


def _describe_table(
    report: Report, database: Database, session: Session, table: ResultTable
) -> None:
    kind, zone = table.layout.kind, database.zone(table.layout)
    reader = session.readers[kind]
    newest, now = reader.newest(session.connection), time.time()
    read = [column.name for column in table.table.c]
    report.facts.append((f"{kind} columns", ", ".join(read)))
    if table is session.main:
        _describe_names(report, table, newest)
        _describe_states(report, newest)
    index = "yes" if table.date_done_index else "no: Celery's cleanup reads the whole table"
    report.facts.append((f"{kind} date_done index", index))
    health = reader.health(session.connection)
    report.facts += [(f"{kind} {label}", value) for label, value in _health(health)]
    moments = [row.done for row in newest if row.finished and row.done is not None]
    if possible := dates.possible(moments, now):
        when = f"{ago(max(possible), now)}, {utc(max(possible))}"
        report.facts.append((f"{kind} newest result", when))
    report.warnings += dates.doubts(moments, now, zone.key)
    can_write = database.dialect.can_write(session.connection, table.table)
    if can_write is not None:
        report.facts.append((f"{kind} rights", "read and write" if can_write else "read only"))
    if can_write:
        report.warnings.append(
            f"this account can write to the {kind} table; a SELECT grant is enough"
        )


def _health(health: Health) -> Iterator[tuple[str, str]]:
    if health.rows_estimate is not None:
        yield "rows", f"about {health.rows_estimate}"
    if health.highest_id is None:
        yield "rows", "none"
        return
    used = "of an unknown range"
    if health.id_used_ratio is not None:
        used = f"{health.id_used_ratio:.2%} of the range used"
    yield "ids", f"up to {health.highest_id}, {used}"


def _describe_names(report: Report, table: ResultTable, newest: Sequence[Row]) -> None:
    """Say whether rows carry names: that the columns are there tells nothing of result_extended."""
    rows, named = len(newest), sum(bool(row.task) for row in newest)
    if not table.extended:
        column = table.layout.task
        why = "this account may not read" if column in table.all_columns else "there is no"
        said = f"no: {why} column {column}, so task, worker and queue are empty"
    elif not rows:
        said = "the columns are there, but no rows yet that would show whether they are used"
    elif named:
        said = f"yes: of the newest {rows:,} rows {named:,} have a name"
    else:
        said = "the columns are there, but not used"
        report.warnings.append(
            f"none of the newest {rows:,} rows has a name, so task, worker and queue are empty: "
            "set result_extended = True in the Celery app"
        )
    report.facts.append(("task extended", said))


def _describe_states(report: Report, newest: Sequence[Row]) -> None:
    """List states that Celery does not know: an app's own, or text that is read wrongly."""
    foreign = Counter(row.state for row in newest if row.state not in STATES)
    if foreign:
        some = ", ".join(f"{state} {rows:,}" for state, rows in foreign.most_common(MOST_STATES))
        more = ", …" if len(foreign) > MOST_STATES else ""
        said = f"{some}{more} of the newest {len(newest):,} rows, unfinished to Celery"
        report.facts.append(("task states of your own", said))
