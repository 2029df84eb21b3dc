"""The `check` command: connect to each backend and the checkpoint; say what is found there."""

from __future__ import annotations

import logging
import os
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from sqlalchemy import URL

from exporter.checkpoint import IN_A_DATABASE, Checkpoint, read
from exporter.config import Backend, Config
from exporter.database import Database, Session
from exporter.errors import CheckpointError
from exporter.lease import LIMITS, Lease
from exporter.link import trouble
from exporter.parallel import in_order
from exporter.printable import printable, some
from exporter.reader import Health, Reader
from exporter.store import Store
from exporter.tables import ResultTable, celery

log = logging.getLogger(__name__)

AHEAD = 60.0  # seconds; clocks differ by less than this, zones by more


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


def check(config: Config) -> int:
    """Check everything; return 0 where all is well, 1 where something is wrong."""
    reports = in_order(_examine, config.backends)
    failed = [
        settings.name
        for settings, report in zip(config.backends, reports, strict=True)
        if _print(f"backend {settings.name}", report)
    ]
    if config.checkpoint is not None:
        failed += ["checkpoint"] * _print("checkpoint", _examine_checkpoint(config.checkpoint))
    if len(config.backends) > 1:
        summary = f"{len(config.backends):,} backends, {len(failed):,} failed"
        sys.stdout.write(f"{summary}: {some(failed)}\n" if failed else f"{summary}\n")
    return int(bool(failed))


def _print(of: str, report: Report) -> bool:
    """Print it at once, since the next one may take long; say whether something is wrong."""
    sys.stdout.write("\n".join(report.lines(of)) + "\n")
    sys.stdout.flush()
    return bool(report.errors)


def _examine_checkpoint(where: Path | URL) -> Report:
    report = Report()
    try:
        report.facts += _file(where) if isinstance(where, Path) else _database(where)
    except (CheckpointError, OSError) as error:
        report.errors.append(str(error))
    return report


def _file(path: Path) -> list[tuple[str, str]]:
    """Look, and leave no trace: the exporter may be running, or will run as somebody else."""
    if not path.exists():
        folder = path.absolute().parent
        if not os.access(folder, os.W_OK | os.X_OK):
            raise CheckpointError(f"checkpoint {path}: {folder} does not exist or is not writable")
        return [("file", f"{path} does not exist yet")]
    if not os.access(path, os.W_OK):
        raise CheckpointError(f"checkpoint {path}: is not writable")
    checkpoint = read(path)
    backends = checkpoint.backends()
    checkpoint.close()
    return [
        ("file", f"{path}, {checkpoint.size()} bytes"),
        ("backends", ", ".join(backends) or "none yet"),
    ]


def _database(url: URL) -> list[tuple[str, str]]:
    """Try every right; the tables are created where they are missing."""
    checkpoint = Checkpoint(Store(url, IN_A_DATABASE, limits=LIMITS))
    lease = Lease(Store(url, IN_A_DATABASE, limits=LIMITS))
    try:
        return [
            ("server", checkpoint.probe()),
            ("backends", ", ".join(checkpoint.backends()) or "none yet"),
            ("leader", lease.look() or "none"),
        ]
    finally:
        lease.close()
        checkpoint.close()


def _examine(settings: Backend) -> Report:
    report = Report()
    try:
        database = Database(settings)
        try:
            with database.session() as session:
                _describe(report, database, session)
        finally:
            database.close()
    except Exception as error:  # whatever it is, the other backends are told of
        log.debug("not read", extra={"backend": settings.name}, exc_info=error)
        report.errors.append(trouble(error))
    return report


def _describe(report: Report, database: Database, session: Session) -> None:
    snapshot = "yes" if database.dialect.snapshot else "no: ranges are read row by row"
    report.facts += [
        ("server", f"{database.server}, {database.driver}"),
        ("snapshots", snapshot),
    ]
    found = {table.layout.kind: table for table in session.tables}
    for layout in celery.LAYOUTS:
        name, schema = database.table_name(layout)
        full_name = f"{schema}.{name}" if schema else name
        table = found.get(layout.kind)
        if table is not None:
            report.facts.append((f"{layout.kind} table", full_name))
            _describe_table(report, database, session, table)
            continue
        report.facts.append((f"{layout.kind} table", f"{full_name} does not exist"))
        (report.errors if layout.kind == "task" else report.warnings).append(
            f"table {full_name!r} does not exist yet, or this account may not see it: Celery "
            f"creates it with the first result; check database_table_names.{layout.kind}"
        )


def _describe_table(
    report: Report, database: Database, session: Session, table: ResultTable
) -> None:
    kind = table.layout.kind
    health = Reader(table, database.dialect, database.settings.timezone).health(session)
    read = [column.name for column in table.table.c]
    report.facts.append((f"{kind} columns", ", ".join(read)))
    if kind == "task":
        extended = "yes" if table.extended else "no: task, worker and queue are empty"
        report.facts.append(("task extended", extended))
    index = "yes" if table.date_done_index else "no: Celery's cleanup reads the whole table"
    report.facts.append((f"{kind} date_done index", index))
    report.facts += [(f"{kind} {label}", value) for label, value in _health(health)]
    ahead = (health.newest_result or 0.0) - time.time()
    if ahead > AHEAD:
        report.warnings.append(
            f"the newest date_done lies {ahead / 3600:.1f} h ahead of the clock here: set timezone "
            f"(now {database.settings.timezone}) to that of the Celery app"
        )
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
    if health.newest_result is not None:
        yield "newest result", f"{time.time() - health.newest_result:.0f} s ago"
