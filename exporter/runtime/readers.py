"""Who reads a backend's tables, as of the last look at them, and what that offers."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping

from exporter.backends.database import Database, Session, may_be_meant
from exporter.backends.family import Layout, ResultTable
from exporter.backends.groups import GroupReader, group_reader_of, obstacle
from exporter.backends.reader import Reader
from exporter.config.settings import Backend

log = logging.getLogger(__name__)


class Readers:
    """Those of the tables that are there; what is not is waited for."""

    def __init__(self, settings: Backend, database: Database) -> None:
        self.tables: tuple[ResultTable, ...] | None = None  # None: never connected
        self.by_kind: Mapping[str, Reader] = {}
        self.of_groups: dict[str, GroupReader] = {}  # by kind, of those that are followed
        self.waiting = ""  # for the main table, and which
        self._settings = settings
        self._database = database

    def carry_on(self, old: Readers) -> None:
        """Take over what another one has found, until it was looked for here, too."""
        self.tables, self.waiting = old.tables, old.waiting
        self.by_kind, self.of_groups = old.by_kind, old.of_groups

    def use(self, session: Session) -> None:
        """Read what the session has found; say what is waited for."""
        if session.tables is self.tables:
            return
        before = None if self.tables is None else {table.layout for table in self.tables}
        self.tables, self.by_kind = session.tables, session.readers
        for layout in session.family.layouts:
            if layout.kind not in self.by_kind and (before is None or layout in before):
                self._wait_for(layout, session)
        if self.has_main:
            self.waiting = ""
        self.of_groups = {}
        if session.main is not None and self._settings.groups:
            self._follow_groups(session.main, session.tables)

    @property
    def has_main(self) -> bool:
        """Whether the main table is there."""
        return self.has(self._database.family.main)

    def has(self, layout: Layout) -> bool:
        """Whether this table is there."""
        return any(table.layout is layout for table in self.tables or ())

    def walls(self, kind: str) -> bool:
        """Say whether the dates of a table have to tell their zone."""
        reader = self.by_kind.get(kind)
        return reader is not None and reader.walls

    def capabilities(self) -> dict[str, bool]:
        """Say what the backend offers, as far as it was seen."""
        family = self._database.family
        present = {table.layout.kind: table for table in self.tables or ()}
        main = present.get(family.main.kind)
        return {
            "extended": main is not None and main.extended,
            "date_done_index": main is not None and main.date_done_index,
            "snapshot": self._database.dialect.snapshot,
            **{f"table_{layout.kind}": layout.kind in present for layout in family.layouts},
            **self._measured(),
            **self._groups(),
        }

    def _measured(self) -> dict[str, bool]:
        """Say whether it is read how long tasks ran, where the family may tell, and how much."""
        main = self._database.family.main
        reader = self.by_kind.get(main.kind)
        has: dict[str, bool] = {}
        if main.started:
            has["runtimes"] = reader is not None and reader.times
        if self._settings.payload_bytes:
            has["payload"] = reader is not None and reader.sizes
        return has

    def _groups(self) -> dict[str, bool]:
        """Say whether groups are followed, where there is a table of them and they should be."""
        wanted = [t for t in self.tables or () if t.layout.members and self._settings.groups]
        return {"groups": len(self.of_groups) == len(wanted)} if wanted else {}

    def _follow_groups(self, main: ResultTable, tables: Iterable[ResultTable]) -> None:
        """Follow the groups in these tables; say why where it cannot be done."""
        for table in tables:
            if table.layout.members is None:
                continue
            if why := obstacle(main, table):
                log.info(
                    "groups are not followed until they complete",
                    extra={**self.fields(table.layout), "error": why},
                )
            else:
                reader = group_reader_of(main, table, self._database.dialect)
                self.of_groups[table.layout.kind] = reader

    def _wait_for(self, layout: Layout, session: Session) -> None:
        """Say that a table is not there, and which ones are that may be meant."""
        maker = session.family.maker
        waiting = f"table does not exist yet; waiting for {maker} to create it"
        fields = self.fields(layout)
        main = layout is session.family.main
        similar = self._database.lookalikes(session.connection) if main else ""
        if similar:
            log.warning(waiting, extra={**fields, "similar": similar})
        else:
            log.info(waiting, extra=fields)
        if main:
            said = f"{fields['table']}: {waiting}"
            self.waiting = "; ".join(filter(None, (said, may_be_meant(similar))))

    def fields(self, layout: Layout) -> dict[str, str]:
        """Say of which table a line of the log is."""
        return {"backend": self._settings.name, "table": self._database.full_name(layout)}
