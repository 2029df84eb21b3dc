"""What /metrics answers: rendered by those who publish, so that a scrape copies bytes.

Only the formats and encodings that somebody asks for are rendered, one copy each.
"""

from __future__ import annotations

import threading
import time
import zlib
from collections.abc import Callable
from dataclasses import dataclass

from exporter.formats import Format
from exporter.rendering import Renderer, render_process
from exporter.tally import Samples

FORGET_AFTER = 300.0  # seconds without a scrape; longer than any sensible scrape interval
GZIP_LEVEL = 1  # a scrape over a network gains most from the first level
GZIP = 16 + zlib.MAX_WBITS

Finish = Callable[[bytes], bytes]  # takes the last lines and returns the whole


@dataclass(slots=True)
class _Copy:
    """The exposition in one format and encoding."""

    finish: Finish
    asked: float  # monotonic


class Exposition:
    """What each part of the exporter has published last."""

    def __init__(self, fresh: Callable[[], Samples] = dict) -> None:
        """`fresh`: what is asked for anew at each scrape."""
        self._fresh = fresh
        self._parts: dict[str | None, Samples] = {}
        self._renderers: dict[Format, Renderer] = {}
        self._copies: dict[tuple[Format, bool], _Copy] = {}
        self._lock = threading.Lock()  # a scrape needs it only to ask for a new copy

    @property
    def rendered(self) -> int:
        """How many samples were rendered for the copies there are."""
        return sum(renderer.rendered for renderer in self._renderers.values())

    def publish(self, backend: str | None, samples: Samples) -> None:
        """Serve these samples from now on; `backend` None: those of the exporter itself."""
        with self._lock:
            self._parts[backend] = samples
            self._forget(time.monotonic() - FORGET_AFTER)
            for form, renderer in self._renderers.items():
                text = renderer.render(self._parts)
                for (of, compressed), copy in self._copies.items():
                    if of is form:
                        copy.finish = _finish(text, compressed=compressed)

    def kept(self, form: Format, *, compressed: bool = False) -> bytes | None:
        """Return the exposition in this format at once, or None: nobody asked for it lately."""
        copy = self._copies.get((form, compressed))
        if copy is None:
            return None
        copy.asked = time.monotonic()
        last = Renderer(form).render({None: self._fresh()}) + render_process(form)
        return copy.finish(last)

    def body(self, form: Format, *, compressed: bool = False) -> bytes:
        """Return the exposition in this format, rendered now if nobody asked for it lately."""
        while (body := self.kept(form, compressed=compressed)) is None:
            self._add(form, compressed=compressed)
        return body

    def _add(self, form: Format, *, compressed: bool) -> None:
        with self._lock:
            if (form, compressed) not in self._copies:
                renderer = self._renderers.setdefault(form, Renderer(form))
                finish = _finish(renderer.render(self._parts), compressed=compressed)
                self._copies[form, compressed] = _Copy(finish, time.monotonic())

    def _forget(self, before: float) -> None:
        self._copies = {key: copy for key, copy in self._copies.items() if copy.asked >= before}
        wanted = {form for form, _ in self._copies}
        self._renderers = {form: self._renderers[form] for form in wanted}


def _finish(text: bytes, *, compressed: bool) -> Finish:
    if not compressed:
        return text.__add__
    deflate = zlib.compressobj(GZIP_LEVEL, wbits=GZIP)
    # Flushed, so that copies of the compressor go on from here cheaply. A second gzip member would
    # be legal, too, but browsers and curl stop after the first.
    head = deflate.compress(text) + deflate.flush(zlib.Z_SYNC_FLUSH)

    def finish(last: bytes) -> bytes:
        rest = deflate.copy()
        return head + rest.compress(last) + rest.flush()

    return finish
