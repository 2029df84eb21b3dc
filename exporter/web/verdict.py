"""PURE: whether all is well, in a line, and all that is not, the worst first."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from operator import attrgetter

from exporter.durations import ago, span
from exporter.web.status import ServiceStatus
from exporter.web.troubles import Level, Trouble, of_backend, of_exporter


@dataclass(frozen=True, slots=True)
class Verdict:
    """All troubles, and what they come to."""

    headline: str
    troubles: tuple[Trouble, ...]
    levels: Mapping[str, Level]  # of the worst of each backend that has one

    @property
    def level(self) -> Level:
        """Of the worst of all."""
        return self.troubles[0].level if self.troubles else Level.WELL


def verdict(status: ServiceStatus, now: float) -> Verdict:
    """Judge; ``now`` is Unix time."""
    troubles = list(of_exporter(status, now))
    for backend in status.backends:
        troubles += of_backend(backend, now)
    troubles.sort(key=attrgetter("level"), reverse=True)  # else in the order of the backends
    levels = {trouble.backend: trouble.level for trouble in reversed(troubles)}
    return Verdict(_headline(status, troubles, now), tuple(troubles), levels)


def _headline(status: ServiceStatus, troubles: Sequence[Trouble], now: float) -> str:
    if not troubles:
        return f"All is well: {_up(status)}{_newest(status, now)}"
    worst = troubles[0].level
    those = [trouble for trouble in troubles if trouble.level is worst]
    if worst is Level.DOWN:
        others = sum(trouble.level is Level.LOOK for trouble in troubles)
        more = f"; and {_things(others)} more to look at" if others else ""
        return f"Not well{_down(status, those, now)}{more}"
    first = those[0].said + (f"; and {_things(len(those) - 1)} more" if those[1:] else "")
    if worst is Level.LOOK:
        return f"Worth a look: {first}"
    return f"Nothing is wrong, but not all numbers are here yet: {first}"


def _up(status: ServiceStatus) -> str:
    count = len(status.backends)
    shared = len(status.followers) > count
    if count == 1:
        which = ", which this replica follows," if shared else ""
        return f"{status.backends[0].name}{which} is up"
    which = " that this replica follows" if shared else ""
    return f"all {count:,} backends{which} are up"


def _newest(status: ServiceStatus, now: float) -> str:
    moments = [t.last_finished for b in status.backends for t in b.tasks if t.last_finished]
    return f"; newest result {ago(max(moments), now)}" if moments else ""


def _down(status: ServiceStatus, troubles: Sequence[Trouble], now: float) -> str:
    names = {trouble.backend for trouble in troubles if trouble.backend}
    count = max(len(status.backends), len(status.followers))
    if len(names) <= 1:
        share = f", 1 of {count:,} backends" if names and count > 1 else ""
        return f"{share}: {troubles[0].said}"
    since = min((t.since for t in troubles if t.since is not None), default=None)
    longest = f", the first of them for {span(now - since)}" if since is not None else ""
    return f": {len(names):,} of {count:,} backends are not read{longest}"


def _things(count: int) -> str:
    return "one thing" if count == 1 else f"{count:,} things"
