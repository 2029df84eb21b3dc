"""The `check` command: connect to each backend and the checkpoint; say what is found there.

And what is missing there, with what to do about it: `exporter.backends.findings` has the words.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeVar

import click
from sqlalchemy import URL

from exporter import __version__, flags, redaction
from exporter.backends import examination
from exporter.backends.database import Database, Session, may_be_meant
from exporter.backends.family import Layout
from exporter.backends.findings import Finding, Seen, Severity, TableSeen, findings
from exporter.backends.groups import obstacle
from exporter.backends.reader import Health
from exporter.checkpoint.adoption import refused
from exporter.checkpoint.lease import LIMITS, Leases
from exporter.checkpoint.migrations import VERSION
from exporter.checkpoint.saved import Saved, read
from exporter.checkpoint.store import IN_A_DATABASE, Store
from exporter.config.settings import AUTO, Backend, Config
from exporter.counting import dates
from exporter.counting.results import STATES, Row
from exporter.counting.zones import LONGEST_WATCH, Settled
from exporter.counting.zones import doubts as zone_doubts
from exporter.durations import ago, span, utc
from exporter.errors import BackendError, CheckpointError, ConfigError, Reason
from exporter.printable import printable, some
from exporter.runtime.beat import Beat
from exporter.runtime.options import Options
from exporter.sql.connection import trouble
from exporter.sql.identity import Identity

log = logging.getLogger(__name__)


MOST_STATES = 10  # that are listed
MOST_FAULTS = 20  # likewise
AT_ONCE = 32  # backends, each waiting for a server of its own
LONGEST_STATEMENT = 5_000  # characters

Output = Literal["text", "json"]
Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(slots=True)
class Report:
    """What was found: facts to print, and what an operator should do something about."""

    facts: list[tuple[str, str]] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)
    tables: tuple[TableSeen, ...] = ()

    def lines(self, of: str) -> Iterator[str]:
        """Render it for people."""
        verdict = "FAILED" if self.errors else "ok"
        yield f"{printable(of)}: {verdict}"
        width = max((len(label) for label, _ in self.facts), default=0)
        for label, value in self.facts:
            yield f"  {label:<{width}}  {printable(value)}"
        yield from (f"  warning: {printable(warning)}" for warning in self.warnings)
        yield from (f"  error: {printable(error)}" for error in self.errors)
        for finding in sorted(self.findings, key=lambda each: [*Severity].index(each.severity)):
            yield f"  {finding.severity}: {printable(finding.what)}"
            yield f"    why: {printable(finding.why)}"
            if finding.todo:
                yield f"    do: {printable(finding.todo)}"
            yield from (f"    app: {printable(line)}" for line in finding.settings)
            yield from (f"    SQL: {printable(it, LONGEST_STATEMENT)};" for it in finding.sql)

    def data(self) -> dict[str, Any]:
        """Return it for programs, by the names in docs/check.md."""
        return {
            "ok": not self.errors,
            "facts": dict(self.facts),
            "errors": self.errors,
            "warnings": self.warnings,
        }


@click.command(
    params=[
        click.Option(
            ["--output"],
            type=click.Choice(("text", "json")),
            default="text",
            show_default=True,
            help="For people, or for programs.",
        ),
        *flags.options(),
    ]
)
def command(*, output: Output, **given: Any) -> int:
    """Try each backend and print what it finds, and what could be better."""
    try:
        code: int = _with_config(output=output, **given)
    except ConfigError as error:
        if output == "json":
            faults = [printable(redaction.mask(fault)) for fault in error.faults]
            _print_data({}, None, faults)
        raise
    return code


@flags.configured(log_level="warning")
def _with_config(config: Config, options: Options, *, output: Output) -> int:
    return check(config, options.adopt, output)


def check(config: Config, adopt: Collection[str] = (), output: Output = "text") -> int:
    """Check everything; return 0 where all is well, 1 where something is wrong."""
    checkpoint, kept = _examine_checkpoint(config.checkpoint)

    def examine(settings: Backend) -> Report:
        known = {} if settings.name in adopt else kept.known.get(settings.name, {})
        return _examine(settings, known, kept.zones.get(settings.name, {}))

    reports: dict[str, Report] = {}
    for settings, report in zip(config.backends, in_order(examine, config.backends), strict=True):
        reports[settings.name] = report
        if output == "text":
            _print(f"backend {settings.name}", report)
    failed = [name for name, report in reports.items() if report.errors]
    failed += ["checkpoint"] * bool(checkpoint.errors)
    if output == "json":
        _print_data(reports, None if config.checkpoint is None else checkpoint)
        return int(bool(failed))
    if config.checkpoint is not None:
        _print("checkpoint", checkpoint)
    if len(config.backends) > 1:
        summary = f"{len(config.backends):,} backends, {len(failed):,} failed"
        sys.stdout.write(f"{summary}: {some(failed)}\n" if failed else f"{summary}\n")
    return int(bool(failed))


def _print(of: str, report: Report) -> None:
    """Print it at once, since the next one may take long."""
    sys.stdout.write("\n".join(report.lines(of)) + "\n")
    sys.stdout.flush()


def _print_data(
    reports: Mapping[str, Report], checkpoint: Report | None, faults: Sequence[str] = ()
) -> None:
    """Print one document, also where there is nothing but faults of the configuration."""
    of_all = [*reports.values(), *([checkpoint] if checkpoint else [])]
    document = {
        "version": __version__,
        "ok": not faults and not any(report.errors for report in of_all),
        "errors": list(faults),
        "backends": [
            {"name": name}
            | report.data()
            | {
                "findings": [asdict(finding) for finding in report.findings],
                "tables": [_table_data(table) for table in report.tables],
            }
            for name, report in reports.items()
        ],
        "checkpoint": checkpoint.data() if checkpoint else None,
    }
    sys.stdout.write(json.dumps(document, indent=2) + "\n")


def _table_data(table: TableSeen) -> dict[str, Any]:
    health = table.health
    return {
        "kind": table.kind,
        "name": table.name,
        "columns": table.columns,
        "hidden_columns": table.hidden,
        "date_done_index": table.date_done_index,
        "highest_id": health.highest_id if health else None,
        "id_used_ratio": health.id_used_ratio if health else None,
        "oldest_result": health.oldest_result if health else None,
        "rows_estimate": health.rows_estimate if health else None,
        "newest_rows": len(table.newest),
        "newest_rows_with_a_name": sum(bool(row.task) for row in table.newest),
        "writable": table.writable,
    }


def in_order(work: Callable[[Item], Result], items: Sequence[Item]) -> Iterator[Result]:
    """Yield the result for each item, in the order of the items, as soon as it is there.

    `work` must not raise: what comes after would be lost. If nobody wants more, no more is begun.
    """
    if len(items) == 1:
        yield work(items[0])
        return
    with ThreadPoolExecutor(min(AT_ONCE, max(1, len(items)))) as pool:
        yield from pool.map(work, items)


Facts = list[tuple[str, str]]
Zones = Mapping[str, Settled]  # by kind


class _Kept(NamedTuple):
    """What a checkpoint knows of backends, by their names."""

    known: Mapping[str, Mapping[str, Identity]] = {}  # by kind
    zones: Mapping[str, Zones] = {}


def _examine_checkpoint(where: Path | URL | None) -> tuple[Report, _Kept]:
    report, kept = Report(), _Kept()
    try:
        if where is not None:
            facts, kept = _file(where) if isinstance(where, Path) else _database(where)
            report.facts += facts
    except CheckpointError as error:
        report.errors.append(str(error))
    return report, kept


def _file(path: Path) -> tuple[Facts, _Kept]:
    """Look, and leave no trace: the exporter may be running, or will run as somebody else."""
    if not path.exists():
        folder = path.absolute().parent
        if not os.access(folder, os.W_OK | os.X_OK):
            raise CheckpointError(f"checkpoint {path}: {folder} does not exist or is not writable")
        return [("file", f"{path} does not exist yet")], _Kept()
    if not os.access(path, os.W_OK):
        raise CheckpointError(f"checkpoint {path}: is not writable")
    checkpoint = read(path)
    try:
        facts, kept = _saved(checkpoint)
        return [("file", f"{path}, {path.stat().st_size} bytes"), *facts], kept
    finally:
        checkpoint.close()


def _database(url: URL) -> tuple[Facts, _Kept]:
    """Try every right; the tables are created where they are missing."""
    checkpoint = Saved(Store(url, IN_A_DATABASE, limits=LIMITS))
    leases = Leases(Store(url, IN_A_DATABASE, limits=LIMITS))
    try:
        server = checkpoint.probe()
        facts, kept = _saved(checkpoint)
        replicas = some(sorted(leases.look().replicas)) or "none"
        return [("server", server), *facts, ("replicas", replicas)], kept
    finally:
        leases.close()
        checkpoint.close()


def _saved(checkpoint: Saved) -> tuple[Facts, _Kept]:
    schema = checkpoint.schema()
    if schema is not None and schema < VERSION:
        return [("schema", f"{schema}: the next start brings it to {VERSION}")], _Kept()
    kept = _Kept(checkpoint.identities(), checkpoint.zones()) if schema else _Kept()
    return [("backends", ", ".join(kept.known) or "none yet")], kept


def _examine(settings: Backend, known: Mapping[str, Identity], zones: Zones) -> Report:
    report = Report()
    try:
        database = Database(settings)
        answering = False
        try:
            database.expect(known)
            with database.session() as session:
                answering = True
                seen = _describe(report, database, session, zones)
                _describe_groups(report, settings, session)
                refusal = refused(settings.name, known, database.identities())
            _judge(report, database, seen)
            if refusal:
                raise CheckpointError(refusal)
        except BackendError as error:
            if error.reason is Reason.PERMISSION and database.refused:
                with suppress(BackendError):
                    _judge(report, database, examination.refused(database))
            raise
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
    said = f"{look.package}, entries: {look.count:,}"
    said += f", overdue: {len(look.overdue):,}" if look.tells else ""
    report.facts.append(("schedules", said))
    for fault in look.faults[:MOST_FAULTS]:
        report.warnings.append(f"entry {fault.name!r} of celery beat cannot be read: {fault.why}")


def _judge(report: Report, database: Database, seen: Seen) -> None:
    """Say what could be better; without statements, where there is trouble about these."""
    try:
        seen = examination.with_statements(database, seen)
    except BackendError as error:
        report.warnings.append(f"which statements would help cannot be told: {trouble(error)}")
    report.findings = findings(seen)


def _describe(report: Report, database: Database, session: Session, zones: Zones) -> Seen:
    snapshot = "yes" if database.dialect.snapshot else "no: ranges are read row by row"
    report.facts += [
        ("server", f"{database.server}, {database.driver}"),
        ("snapshots", snapshot),
    ]
    seen = examination.examine(database, session)
    report.tables = seen.tables
    found = {table.layout: table for table in seen.tables}
    for layout in session.family.layouts:
        full_name, table = database.full_name(layout), found.get(layout)
        if table is None:
            report.facts.append((f"{layout.kind} table", f"{full_name} does not exist"))
            _describe_absence(report, database, session, layout)
        elif table.columns:
            report.facts.append((f"{layout.kind} table", full_name))
            _describe_table(report, database, session, table, zones.get(layout.kind))
        else:
            doubt = "" if table.hidden_surely else ", if it is there"
            report.facts.append((f"{layout.kind} table", f"{full_name} may not be read{doubt}"))
    report.warnings += [
        f"{database.full_name(other.main)} is there, too, and is not read: set tables to "
        f"{other.name} if it is meant"
        for other in database.unread
    ]
    return seen


def _describe_groups(report: Report, settings: Backend, session: Session) -> None:
    """Say whether groups are followed, where there is a table of them."""
    for table in session.tables:
        if table.layout.members is None or session.main is None:
            continue
        why = obstacle(session.main, table) if settings.groups else "groups is false"
        said = f"only counted: {why}" if why else "followed until they complete"
        report.facts.append((f"{table.layout.kind}s", said))


def _describe_absence(report: Report, database: Database, session: Session, layout: Layout) -> None:
    main, key = layout is session.family.main, database.key(layout)
    (report.errors if main else report.warnings).append(
        f"table {database.full_name(layout)!r} does not exist yet, or this account may not see it: "
        f"{session.family.maker} creates it" + (f"; check {key}" if key else "")
    )
    if main and (hint := may_be_meant(database.lookalikes(session.connection))):
        report.errors.append(hint)


def _describe_table(
    report: Report,
    database: Database,
    session: Session,
    table: TableSeen,
    settled: Settled | None,
) -> None:
    kind = table.kind
    report.facts.append((f"{kind} columns", ", ".join(table.columns)))
    if table.layout is session.family.main:
        _describe_names(report, table)
        _describe_states(report, table.newest)
    if table.date_done_index is not None:
        index = "yes" if table.date_done_index else "no: Celery's cleanup reads the whole table"
        report.facts.append((f"{kind} date_done index", index))
    if table.health is not None:
        report.facts += [(f"{kind} {label}", value) for label, value in _health(table.health)]
    moments = [row.done for row in table.newest if row.finished and row.done is not None]
    if session.readers[kind].walls:
        _describe_walls(report, database, kind, moments, settled)
    else:
        zone = database.zone(table.layout)
        _describe_dates(report, kind, moments, AUTO if zone is None else zone.key)
    if table.writable is not None:
        rights = "read and write" if table.writable else "read only"
        report.facts.append((f"{kind} rights", rights))


def _describe_dates(report: Report, kind: str, moments: Sequence[float], zone: str) -> None:
    now = time.time()
    if possible := dates.possible(moments, now):
        when = f"{ago(max(possible), now)}, {utc(max(possible))}"
        report.facts.append((f"{kind} newest result", when))
    report.warnings += dates.doubts(moments, now, zone)


def _describe_walls(
    report: Report,
    database: Database,
    kind: str,
    moments: Sequence[float],
    settled: Settled | None,
) -> None:
    """Describe dates that have to tell their zone."""
    report.facts.append((f"{kind} dates", _told(settled, database.settings.poll_interval)))
    report.warnings += zone_doubts(settled)
    if settled is None:
        report.warnings += dates.impossible(moments, time.time())
        return
    _describe_dates(report, kind, [moment - settled.offset for moment in moments], settled.name)


def _told(settled: Settled | None, poll_interval: float) -> str:
    """Say what is known of the zone of dates that have to tell it."""
    if settled is not None:
        return f"{settled.name}, as results have told; the last that agreed {utc(settled.agreed)}"
    if poll_interval > LONGEST_WATCH:
        return (
            f"of an unknown zone: set timezone, or poll_interval to {span(LONGEST_WATCH)} at most"
        )
    return (
        "of an unknown zone: results that finish while the exporter runs tell it, or set timezone"
    )


def _health(health: Health) -> Iterator[tuple[str, str]]:
    if health.highest_id is None:
        yield "rows", "none"
        return
    if health.rows_estimate is not None:
        yield "rows", f"about {health.rows_estimate}"
    used = "of an unknown range"
    if health.id_used_ratio is not None:
        used = f"{health.id_used_ratio:.2%} of the range used"
    yield "ids", f"up to {health.highest_id}, {used}"


def _describe_names(report: Report, table: TableSeen) -> None:
    """Say whether rows carry names: that the columns are there tells nothing of result_extended."""
    rows, named = len(table.newest), sum(bool(row.task) for row in table.newest)
    column = table.layout.task
    if column not in table.columns:
        why = f"there is no column {column}"
        if column in table.hidden:
            hidden = f"this account may not read column {column}"
            why = hidden if table.hidden_surely else f"{why}, or {hidden}"
        said = f"no: {why}, so task, worker and queue are empty"
    elif not rows:
        said = "the columns are there, but no rows yet that would show whether they are used"
    elif named:
        said = f"yes: of the newest {rows:,} rows {named:,} have a name"
    else:
        said = "the columns are there, but not used"
    report.facts.append(("task extended", said))


def _describe_states(report: Report, newest: Sequence[Row]) -> None:
    """List states that Celery does not know: an app's own, or text that is read wrongly."""
    foreign = Counter(row.state for row in newest if row.state not in STATES)
    if foreign:
        some = ", ".join(f"{state} {rows:,}" for state, rows in foreign.most_common(MOST_STATES))
        more = ", …" if len(foreign) > MOST_STATES else ""
        said = f"{some}{more} of the newest {len(newest):,} rows, unfinished to Celery"
        report.facts.append(("task states of your own", said))
