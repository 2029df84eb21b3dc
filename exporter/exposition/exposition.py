"""What /metrics answers: rendered by those who publish, put together by the scrape that asks next.

Only the formats and encodings that somebody asks for are rendered. Whoever publishes renders, and
deflates, what has changed of its own; so many backends cost no more than each by itself.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import zip_longest
from types import MappingProxyType

from exporter.exposition.formats import Format
from exporter.exposition.pieces import Gzip, Piece, Run, plain
from exporter.exposition.rendering import (
    NOTHING_FIXED,
    Fixed,
    Renderer,
    head,
    render_process,
)
from exporter.metrics.catalogue import CATALOGUE, Metric
from exporter.metrics.samples import Samples

FORGET_AFTER = 300.0  # seconds without a scrape; longer than any sensible scrape interval

Finish = Callable[[bytes], bytes]  # takes the last lines and returns the whole
_NOTHING: Mapping[Metric, Piece] = MappingProxyType({})


class _Part:
    """What one backend has published last."""

    def __init__(self, backend: str | None, fixed: Fixed) -> None:
        self.fixed = fixed
        self._backend = backend
        self._samples: Samples = {}
        self._renderers: dict[Format, Renderer] = {}
        self._pieces: dict[Format, Mapping[Metric, Piece]] = {}
        self._lock = threading.Lock()  # a scrape needs it only in a format that is new

    @property
    def rendered(self) -> int:
        return sum(renderer.rendered for renderer in self._renderers.values())

    def publish(self, samples: Samples, wanted: Mapping[Format, bool]) -> None:
        """Render these samples in the formats that are wanted; whether compressed, too."""
        with self._lock:
            known = self._renderers
            self._renderers = {
                form: known.get(form) or Renderer(form, self._backend, self.fixed)
                for form in wanted
            }
            self._pieces = {
                form: _rendered(renderer, samples, compressed=wanted[form])
                for form, renderer in self._renderers.items()
            }
            self._samples = samples

    def pieces(self, form: Format) -> Mapping[Metric, Piece]:
        """Return what was rendered in this format: now, if nobody wanted that before."""
        found = self._pieces.get(form)
        if found is not None or not self._samples:
            return found or _NOTHING
        with self._lock:
            if form not in self._pieces:
                renderer = self._renderers[form] = Renderer(form, self._backend, self.fixed)
                self._pieces[form] = renderer.render(self._samples)
            return self._pieces[form]


def _rendered(renderer: Renderer, samples: Samples, *, compressed: bool) -> Mapping[Metric, Piece]:
    pieces = renderer.render(samples)
    for piece in pieces.values():
        if compressed and piece.large:
            _ = piece.deflated  # so that no scrape need wait for it
    return pieces


@dataclass(slots=True)
class _Copy:
    """The exposition in one format and encoding."""

    asked: float  # monotonic
    published: int = -1  # how much had been published when it was put together
    finish: Finish = bytes


@dataclass(frozen=True, slots=True)
class _Join:
    """What was put together in one format, and of what."""

    rendered: Sequence[Mapping[Metric, Piece]] = ()
    runs: Mapping[Metric, Run] = field(default_factory=dict)


class Exposition:
    """What each part of the exporter has published last."""

    def __init__(self, fresh: Callable[[], Samples] = dict) -> None:
        """`fresh`: what is asked for anew at each scrape."""
        self._fresh = fresh
        self._published = 0  # times
        self._parts: dict[str | None, _Part] = {}
        self._copies: dict[tuple[Format, bool], _Copy] = {}
        self._own = {form: Renderer(form) for form in Format}  # of what is fresh
        self._lock = threading.Lock()  # of these; held for a moment only
        self._joins: dict[Format, _Join] = {}
        self._joining = threading.Lock()

    @property
    def rendered(self) -> int:
        """How many samples were rendered for the copies there are."""
        parts = sum(part.rendered for part in self._parts.values())
        return parts + sum(renderer.rendered for renderer in self._own.values())

    def publish(self, backend: str | None, samples: Samples, fixed: Fixed = NOTHING_FIXED) -> None:
        """Serve these samples from now on; `backend` None: those of the exporter itself."""
        with self._lock:
            part = self._parts.get(backend)
            if part is None or part.fixed != fixed:
                part = self._parts[backend] = _Part(backend, fixed)
            wanted = self._wanted(time.monotonic() - FORGET_AFTER)
        part.publish(samples, wanted)
        with self._lock:
            self._published += 1

    def withdraw(self, backend: str) -> None:
        """Serve nothing of a backend any more."""
        with self._lock:
            self._parts.pop(backend, None)
            self._published += 1

    def cached(self, form: Format, *, compressed: bool = False) -> bytes | None:
        """Return the exposition at once, or None where it must be rendered or put together."""
        copy = self._copies.get((form, compressed))
        if copy is None or copy.published != self._published:
            return None
        copy.asked = time.monotonic()
        return copy.finish(self._last(form))

    def body(self, form: Format, *, compressed: bool = False) -> bytes:
        """Return the exposition in this format, whatever that takes."""
        last = self._last(form)
        with self._lock:
            copy = self._copies.setdefault((form, compressed), _Copy(time.monotonic()))
            copy.asked = time.monotonic()
        with self._joining:
            published = self._published
            if copy.published != published:
                runs = [*self._joined(form).values()]
                copy.finish = Gzip(runs) if compressed else partial(plain, runs)
                copy.published = published
            return copy.finish(last)

    def _last(self, form: Format) -> bytes:
        samples = self._fresh()
        with self._lock:
            own = self._own[form].render_whole(samples)
        return own + render_process(form)

    def _joined(self, form: Format) -> dict[Metric, Run]:
        """Join what all have of a metric, in the catalogue's order, where that has changed."""
        with self._lock:
            parts = [*self._parts.values()]
        rendered = [part.pieces(form) for part in parts]
        before = self._joins.get(form, _Join())
        pairs = zip_longest(before.rendered, rendered, fillvalue=_NOTHING)
        changed = [(old, new) for old, new in pairs if old is not new]
        runs: dict[Metric, Run] = {}
        for metric in CATALOGUE.values():
            run = before.runs.get(metric)
            if any(old.get(metric) is not new.get(metric) for old, new in changed):
                pieces = [piece for each in rendered if (piece := each.get(metric))]
                run = Run(head(metric, form), pieces) if pieces else None
            if run is not None:
                runs[metric] = run
        self._joins[form] = _Join(rendered, runs)
        return runs

    def _wanted(self, since: float) -> dict[Format, bool]:
        """Forget what nobody has asked for since; return which formats are left, whether packed."""
        self._copies = {key: copy for key, copy in self._copies.items() if copy.asked >= since}
        wanted: dict[Format, bool] = {}
        for form, compressed in self._copies:
            wanted[form] = wanted.get(form, False) or compressed
        self._joins = {form: join for form, join in self._joins.items() if form in wanted}
        return wanted
