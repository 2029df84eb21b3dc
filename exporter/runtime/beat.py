"""Looks once a minute at what celery beat is to send, and has sent, as its tables say.

This stands beside the counting of results, which goes on whatever becomes of it. What it takes to
read tables is loaded where there are some.
"""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING

from exporter.backends.database import Database
from exporter.backends.schedules.places import Places
from exporter.config.settings import Backend
from exporter.errors import BackendError, Reason
from exporter.metrics.catalogue import Metric
from exporter.metrics.samples import Sample
from exporter.sql.connection import unexpected

if TYPE_CHECKING:
    from exporter.runtime.looks import Look, Looks

log = logging.getLogger(__name__)

LOOK_INTERVAL = 60.0  # seconds

NO_RIGHT = "no right to read the tables of celery beat: GRANT SELECT on them to this account"
NO_TABLES = (
    "there are no tables of celery beat: see whether beat_database and beat_schema name those of "
    "django-celery-beat or sqlalchemy-celery-beat"
)


class Beat:
    """Follows the tables of one backend's beat, if there are any."""

    def __init__(self, settings: Backend, results: Database) -> None:
        """Use the connection of `results`, unless another database is configured."""
        own = settings.beat()
        self.samples: dict[Metric, list[Sample]] = {}
        self._backend = settings.name
        self.own = own is not None  # whether it has a database of its own
        self._database = results if own is None else Database(own)
        self._places = Places(self._database.dialect, settings.beat_schema)
        self._looks: Looks | None = None  # None: there never were any tables
        self._due = 0.0  # monotonic
        self._forbidden = False  # whether that was said
        self._schedule = None if self.own else settings.beat_schedule
        self._by_app = False  # whether there were no tables, but there is that

    @property
    def last(self) -> Look | None:
        """What the last look has found; None: there are no tables."""
        return self._looks.last if self._looks else None

    def carry_on(self, old: Beat) -> None:
        """Go on counting where another stands."""
        if old._looks is not None:
            self._reading().carry_on(old._looks)

    def look(self, *, answering: bool) -> bool:
        """Look if it is time to; say whether that was done.

        `answering`: whether the database of the results does.
        """
        now = time.monotonic()
        if now < self._due or not (answering or self.own or self._by_app):
            return False
        self._due = now + LOOK_INTERVAL
        self.look_now(answering=answering or self.own)
        if self._looks is not None:
            self._looks.tell(self._backend)
            self.samples = self._looks.samples()
        return True

    def look_now(self, *, answering: bool = True) -> None:
        """Look, and tell nobody."""
        try:
            if answering:
                self._look()
            else:
                self._plan()
        except BackendError as error:
            self._failed(error)
        except Exception as error:  # noqa: BLE001  # our own: results are to be counted
            self._failed(unexpected(error, Reason.QUERY))

    def close(self) -> None:
        """Discard a connection of its own."""
        if self.own:
            self._database.close()

    def _look(self) -> None:
        with self._database.connected() as connection:
            place = self._places.find(connection)
            found = place and self._reading().reader.read(connection, place)
        self.close()  # until the next minute
        self._by_app = place is None and self._schedule is not None
        if found:
            self._reading().understand(found, time.time())
        elif self.own:
            self._reading().missing(NO_RIGHT if place else NO_TABLES)
        elif self._by_app:
            self._plan()
        else:
            self._hidden(there=place is not None)

    def _plan(self) -> None:
        """Take what the app has set, since there are no tables."""
        if self._schedule is not None:
            self._reading().plan(self._schedule, time.time())

    def _hidden(self, *, there: bool) -> None:
        """Take what nobody asked for, and may not be read, for not there."""
        if there and not self._forbidden:
            log.info(NO_RIGHT, extra={"backend": self._backend})
        self._forbidden = there
        if self._looks is not None:
            self._looks.forget()

    def _failed(self, error: BackendError) -> None:
        """Keep what was seen last. Where nothing was, and nobody asked, nothing is missed."""
        if self.own or self._looks is not None:
            self._reading().failed(str(error))
        else:
            log.debug("no look at celery beat", extra={"backend": self._backend}, exc_info=error)

    def _reading(self) -> Looks:
        from exporter.runtime.looks import Looks  # noqa: PLC0415

        self._looks = self._looks or Looks(self._database.dialect)
        return self._looks
