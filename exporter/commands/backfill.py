"""The `backfill` command: the past as OpenMetrics with timestamps, for promtool to make blocks of.

What was read is sorted before anything is written: OpenMetrics wants the samples of a series
together, and tables hold them by time.
"""

from __future__ import annotations

import logging
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, TypeVar

import click
from sqlalchemy import URL

from exporter import durations, flags
from exporter.backends.database import Database, may_be_meant
from exporter.backends.history import History
from exporter.checkpoint.saved import read
from exporter.config.settings import Backend, Config
from exporter.counting.history import Book, Grid, Past
from exporter.counting.tally import Tally
from exporter.durations import utc
from exporter.errors import BackendError, ConfigError, ExporterError, Reason
from exporter.exposition.formats import Format
from exporter.exposition.history import rendered
from exporter.exposition.rendering import Fixed, Renderer
from exporter.printable import some
from exporter.runtime.options import Options
from exporter.sql.connection import trouble
from exporter.sql.sorting import Sorting

log = logging.getLogger(__name__)

STDOUT = 1

Tell = Callable[[int], object]  # takes by how much more is done
Item = TypeVar("Item")
Callback = Callable[[click.Context, click.Parameter, str | None], int | None]


def _read_by(parse: Callable[[str], int]) -> Callback:
    """Return a callback for an option; a ValueError is to be read after the text."""

    def read_text(context: click.Context, param: click.Parameter, text: str | None) -> int | None:
        try:
            return None if text is None else parse(text)
        except ValueError as error:
            raise click.BadParameter(f"{text!r} {error}", context, param) from None

    return read_text


def _moment(text: str) -> int:
    """Return Unix time."""
    return int(durations.parse_moment(text, time.time()))


def _step(text: str) -> int:
    """Return seconds."""
    seconds = durations.parse(text)
    if seconds < 1 or seconds % 1:
        raise ValueError("is not whole seconds, one at least")
    return int(seconds)


@click.command(
    params=[
        click.Option(
            ["--from", "begin"],
            callback=_read_by(_moment),
            metavar="TIME",
            required=True,
            help="Results that finished since then: a date, an RFC 3339 time, a Unix time, or how "
            "long ago, such as 30d. UTC where it says no offset.",
        ),
        click.Option(
            ["--to", "end"],
            callback=_read_by(_moment),
            metavar="TIME",
            help="Results that finished before then (default: when the exporter began to count, "
            "if the checkpoint says so, else now).",
        ),
        click.Option(
            ["--step"],
            callback=_read_by(_step),
            default="1m",
            show_default=True,
            metavar="DURATION",
            help="How far the samples of a series are apart.",
        ),
        click.Option(
            ["--backend", "names"],
            multiple=True,
            metavar="NAME",
            help="Only this backend; repeatable (default: all).",
        ),
        click.Option(
            ["--output"],
            type=click.Path(path_type=Path, dir_okay=False),
            metavar="FILE",
            help="Where to write, whole or not at all (default: standard output).",
        ),
        *flags.options(),
    ]
)
@flags.configured(log_level="info")
def command(
    config: Config,
    _: Options,
    *,
    begin: int,
    end: int | None,
    step: int,
    names: tuple[str, ...],
    output: Path | None,
) -> int:
    """Print the counters of the past for `promtool tsdb create-blocks-from openmetrics`."""
    backends = _named(config, names)
    grids = _grids(config, backends, begin, end, step)
    with _writing(output) as out, Sorting() as sorting:
        book = Book()
        for backend, grid in zip(backends, grids, strict=True):
            _read(backend, grid, book, sorting)
        if not len(book):
            until = max(grid.end for grid in grids)
            raise ExporterError(f"no result finished between {utc(begin)} and {utc(until)}")
        renderers = {backend.name: _renderer(backend) for backend in backends}
        with _progress(len(book), "writing") as tell:
            series = _told(book.runs(sorting.sums()), tell)
            for piece in rendered(series, renderers):
                out.write(piece)
    return 0


def _named(config: Config, names: Sequence[str]) -> list[Backend]:
    known = {backend.name: backend for backend in config.backends}
    for name in names:
        if name not in known:
            raise ConfigError([f"--backend: there is no backend {name!r}, only {some([*known])}"])
    return [backend for backend in config.backends if not names or backend.name in names]


def _grids(
    config: Config, backends: Sequence[Backend], begin: int, end: int | None, step: int
) -> list[Grid]:
    """Return one for each backend; `end` None: where the exporter began, or now."""
    now = int(time.time())
    if end is not None and end > now:
        raise ConfigError(["--to: lies in the future"])
    begun = _begun(config, backends) if end is None else {}
    usual = now if end is None else end
    grids = [Grid(begin, begun.get(one.name, usual), step) for one in backends]
    for backend, grid in zip(backends, grids, strict=True):
        if begin < grid.end:
            continue
        if backend.name not in begun:
            raise ConfigError([f"--from: is not before {'now' if end is None else '--to'}"])
        raise ExporterError(
            f"backend {backend.name}: by its checkpoint the exporter counts it since "
            f"{utc(grid.end)}, and --from is no earlier; give an earlier --from, or --to"
        )
    return grids


def _begun(config: Config, backends: Sequence[Backend]) -> dict[str, int]:
    """Say since when backends are counted, as far as a checkpoint says so; Unix time."""
    where = config.checkpoint
    if where is None or (not isinstance(where, URL) and not where.exists()):
        return {}
    saved = read(where)
    try:
        if saved.schema() is None:
            return {}
        begun = {backend.name: saved.began(backend.name) for backend in backends}
    finally:
        saved.close()
    return {name: int(moment) for name, moment in begun.items() if moment is not None}


def _renderer(backend: Backend) -> Renderer:
    fixed = Fixed(tuple(backend.extra_labels.items()), backend.relabelling().without)
    return Renderer(Format.OPENMETRICS, backend.name, fixed)


def _read(backend: Backend, grid: Grid, book: Book, sorting: Sorting) -> None:
    """Read one backend; an error names it."""
    database = Database(backend)
    tally = Tally(
        backend.series_limit,
        0.0,
        backend.relabelling(),
        measures=backend.measures(),
    )
    past = Past(backend.name, tally, grid, backend.stale_after, book)
    try:
        undated = _read_tables(database, past, sorting)
    except BackendError as error:
        log.debug("not read", extra={"backend": backend.name}, exc_info=error)
        raise ExporterError(f"backend {backend.name}: {trouble(error)}") from error
    finally:
        database.close()
    log.info(
        "read",
        extra={"backend": backend.name, "results": past.results, "until": utc(grid.end)},
    )
    if undated:
        log.warning(
            "results without a date are left out: nothing says when they finished",
            extra={"backend": backend.name, "results": undated},
        )


def _read_tables(database: Database, past: Past, sorting: Sorting) -> int:
    """Read all tables; return how many of their rows have no date."""
    undated = 0
    with database.session() as session:
        if session.main is None:
            name = database.full_name(session.family.main)
            missing = f"table {name!r} does not exist, or this account may not see it"
            hint = may_be_meant(database.lookalikes(session.connection))
            raise BackendError(Reason.SCHEMA, "; ".join(filter(None, (missing, hint))))
    if any(reader.walls for reader in session.readers.values()):
        advice = "set it to the zone that date_done is written in, UTC or a name like Europe/Paris"
        key = f"backends[{past.name}].timezone"
        raise ConfigError([f"{key}: is auto, which tells nothing of the past: {advice}"])
    for layout in session.family.layouts:
        history = History(database, layout, past.grid)
        ends = history.ends()
        if ends is None:
            continue
        lowest, highest = ends
        with _progress(highest - lowest + 1, f"{past.name}, {layout.kind} table") as tell:
            for piece in history.pieces(lowest, highest):
                sorting.add(past.cells(layout.kind, layout.feed, piece.groups))
                undated += piece.undated
                tell(piece.upto + 1 - lowest)
                lowest = piece.upto + 1
    return undated


@contextmanager
def _progress(length: int, label: str) -> Iterator[Tell]:
    """Show on a terminal how much is done."""
    if not sys.stderr.isatty():
        yield lambda _: None
        return
    with click.progressbar(length=length, label=label, file=sys.stderr) as bar:
        yield bar.update


@contextmanager
def _writing(output: Path | None) -> Iterator[BinaryIO]:
    """Open what is to be written; a file has its name only once it is whole."""
    part = None if output is None else output.with_name(f"{output.name}.part")
    to = str(part or "standard output")
    try:
        file = os.fdopen(STDOUT, "wb", closefd=False) if part is None else part.open("wb")
    except OSError as error:
        raise ConfigError([f"--output: {to}: {error.strerror}"]) from None
    try:
        with file:
            yield file
        if part is not None and output is not None:
            part.replace(output)
    except BaseException as error:
        if part is not None:
            part.unlink(missing_ok=True)
        if isinstance(error, OSError) and not isinstance(error, BrokenPipeError):
            raise ExporterError(f"{to} cannot be written: {error.strerror}") from None
        raise


def _told(series: Iterable[Item], tell: Tell) -> Iterator[Item]:
    for one in series:
        yield one
        tell(1)
