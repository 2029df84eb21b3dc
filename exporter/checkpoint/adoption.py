"""Which tables the counts of each backend are of: those of others are refused, or adopted once."""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager

from exporter.errors import CheckpointError
from exporter.sql.identity import Identity

log = logging.getLogger(__name__)


def refused(backend: str, known: Mapping[str, Identity], found: Mapping[str, Identity]) -> str:
    """Say that these are other tables, and what to do about it; "": they are the same."""
    for kind, new in found.items():
        old = known.get(kind, new)
        if not new.is_that(old):
            return (
                f"the checkpoint holds counts of {old}, and this is {new}: if the results have "
                f"moved there, say so once with --checkpoint.adopt={backend}; if these are "
                "others, give the backend another name"
            )
    return ""


class KnownTables:
    """By backend and kind. `adopt` names backends whose results have moved."""

    def __init__(self, adopt: Collection[str]) -> None:
        self._adopt = set(adopt)
        self._known: dict[str, Mapping[str, Identity]] = {}

    def of(self, backend: str) -> Mapping[str, Identity]:
        """Return a backend's tables; none where nothing is known of it."""
        return self._known.get(backend, {})

    def learn(self, backend: str, tables: Mapping[str, Identity]) -> None:
        """Take these for a backend's, whatever was known."""
        self._known[backend] = dict(tables)

    @contextmanager
    def recognised(
        self, backend: str, found: Mapping[str, Identity]
    ) -> Iterator[Mapping[str, Identity]]:
        """Yield those of the known ones of which something is new; learn it once that is kept.

        Raise CheckpointError where they are others, and not to be adopted.
        """
        known = self.of(backend)
        latest = {kind: new.after(known.get(kind)) for kind, new in found.items()}
        refusal = refused(backend, known, latest)
        if refusal and backend not in self._adopt:
            raise CheckpointError(refusal)
        yield {kind: new for kind, new in latest.items() if known.get(kind, new) != new}
        self.learn(backend, latest)
        if refusal:
            self._adopt.discard(backend)
            log.warning(
                "adopted: counts go on with another table; remove --checkpoint.adopt",
                extra={
                    "backend": backend,
                    "from_table": ", ".join(map(str, known.values())),
                    "to_table": ", ".join(map(str, found.values())),
                },
            )
