"""The families of tables that the load writes, and how each is made and emptied."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from celery import Celery
from celery.states import READY_STATES
from sqlalchemy import column, func, select, table

from exporter.backends.tables import celery, django
from tests import follow
from tests.backends import jobs
from tests.djangoshop import migrate
from tests.djangoshop.backend import Deleting

if TYPE_CHECKING:
    from collections.abc import Callable

    from exporter.backends.family import Family
    from tests.servers.database import Database


@dataclass(frozen=True)
class Written:
    """A family of two tables: of tasks, and of groups."""

    name: str
    family: Family
    create: Callable[[Database], object]
    deleting: Callable[[str, float], Any]  # a backend whose results expire after so many seconds
    flags: tuple[str, ...] = ()  # of the writer

    def results(self, database: Database) -> Counter[tuple[str, ...]]:
        """Count the finished rows by task, state, worker and queue."""
        tasks = self.family.layouts[0]
        assert tasks.state is not None
        names = [tasks.task, tasks.state, tasks.worker, tasks.queue]
        labels = [column(name) for name in names if name is not None]
        query = select(*labels, func.count()).select_from(table(tasks.name)).group_by(*labels)
        with database.engine().connect() as connection:
            found = connection.execute(query.where(column(tasks.state).in_(READY_STATES))).all()
        missing = ("",) * (len(names) - len(labels))
        return Counter({(*row[:-1], *missing): row[-1] for row in found})

    def sizes(self, database: Database) -> Counter[tuple[str, str]]:
        """Add up the bytes of the finished rows by task and part, all of them read here."""
        tasks, sizes = self.family.layouts[0], Counter[tuple[str, str]]()
        assert tasks.task is not None
        assert tasks.state is not None
        parts = [column(name) for name in tasks.payload.values()]
        query = select(column(tasks.task), *parts).select_from(table(tasks.name))
        with database.engine().connect() as connection:
            found = connection.execute(query.where(column(tasks.state).in_(READY_STATES))).all()
        for task, *values in found:
            for part, value in zip(tasks.payload, values, strict=True):
                stored = value.encode() if isinstance(value, str) else value or b""
                sizes[task, part] += len(stored)
        return sizes

    def groups(self, database: Database) -> int:
        """Count the saved groups."""
        query = select(func.count()).select_from(table(self.family.layouts[1].name))
        with database.engine().connect() as connection:
            return connection.execute(query).scalar_one()


def _celery(url: str, expires: float) -> Any:
    app = Celery(broker="memory://", backend=url, set_as_current=False)
    app.conf.result_extended = True
    app.conf.result_expires = expires
    return app.backend


def _create_django(database: Database) -> None:
    migrate(database.owner)


def _create_jobs(database: Database) -> None:
    jobs.METADATA.create_all(database.engine())


CELERY = Written("celery", celery.FAMILY, follow.create_tables, _celery)
DJANGO = Written("django", django.FAMILY, _create_django, Deleting, ("--tables=django",))
JOBS = Written("jobs", jobs.FAMILY, _create_jobs, jobs.Backend, ("--tables=jobs",))
FAMILIES = (CELERY, DJANGO, JOBS)
