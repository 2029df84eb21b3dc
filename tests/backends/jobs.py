"""A family of tables that nobody has: what one file says is all there is to say."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from functools import cached_property
from typing import TYPE_CHECKING, Any
from zoneinfo import ZoneInfo

from celery.states import READY_STATES
from sqlalchemy import (
    BigInteger,
    Column,
    DateTime,
    Engine,
    Integer,
    MetaData,
    NullPool,
    String,
    Table,
    create_engine,
    select,
)

from exporter.backends.family import Family, Layout
from exporter.counting import feeds

if TYPE_CHECKING:
    from celery.app.task import Context

JOB = Layout(
    kind="job",
    name="shop_jobs",
    feed=feeds.tasks,
    id="number",
    done="ended",
    state="outcome",
    task="function",
    worker="host",
    task_id="key",
    zone=ZoneInfo("UTC"),
)
BATCH = Layout(
    kind="batch", name="shop_batches", feed=feeds.saved_groups, id="number", done="ended"
)

FAMILY = Family(
    name="jobs",
    program="the shop",
    maker="the shop",
    layouts=(JOB, BATCH),
    version=lambda columns: "shop-2" if "host" in columns else "shop-1",
    similar=("job",),
)

METADATA = MetaData()
NUMBER = BigInteger().with_variant(Integer(), "sqlite")
JOBS = Table(
    "shop_jobs",
    METADATA,
    Column("number", NUMBER, primary_key=True),
    Column("key", String(155), unique=True),
    Column("outcome", String(50)),
    Column("function", String(155)),
    Column("host", String(155)),
    Column("ended", DateTime),
)
BATCHES = Table(
    "shop_batches",
    METADATA,
    Column("number", NUMBER, primary_key=True),
    Column("key", String(155), unique=True),
    Column("ended", DateTime),
)


class Backend:
    """Stores in these tables what Celery's own backend is told, in transactions like its own."""

    def __init__(self, url: str, expires: float = 0.0) -> None:
        self._url = url.removeprefix("db+")
        self._expires = timedelta(seconds=expires)

    def store_result(self, task_id: str, result: object, state: str, *, request: Context) -> None:
        """Store a state; the first SUCCESS stays."""
        del result
        mine = JOBS.c.key == task_id
        values = {
            "outcome": state,
            "function": request.task,
            "host": request.hostname,
            "ended": _now() if state in READY_STATES else None,
        }
        with self._engine.begin() as connection:
            before = connection.execute(select(JOBS.c.outcome).where(mine)).all()
            if not before:
                connection.execute(JOBS.insert().values(key=task_id))
            if before != [("SUCCESS",)]:
                connection.execute(JOBS.update().where(mine).values(values))

    def restore_group(self, group_id: str) -> Any:
        """Return the number of a batch, or None."""
        query = select(BATCHES.c.number).where(BATCHES.c.key == group_id)
        with self._engine.connect() as connection:
            return connection.execute(query).scalar()

    def save_group(self, group_id: str, result: object) -> None:
        """Save a batch."""
        del result
        with self._engine.begin() as connection:
            connection.execute(BATCHES.insert().values(key=group_id, ended=_now()))

    def forget(self, task_id: str) -> None:
        """Delete a job."""
        with self._engine.begin() as connection:
            connection.execute(JOBS.delete().where(JOBS.c.key == task_id))

    def cleanup(self) -> None:
        """Delete what has expired, found first: without an index MariaDB would lock every row."""
        for table in (JOBS, BATCHES):
            query = select(table.c.number).where(table.c.ended < _now() - self._expires)
            with self._engine.connect() as connection:
                expired = connection.execute(query).scalars().all()
            with self._engine.begin() as connection:
                connection.execute(table.delete().where(table.c.number.in_(expired)))

    @cached_property
    def _engine(self) -> Engine:
        """One of each process; its server may have been away. Who only deletes keeps nothing."""
        pool = NullPool if self._expires else None
        return create_engine(self._url, pool_pre_ping=True, poolclass=pool)


def _now() -> datetime:
    return datetime.now(UTC).replace(tzinfo=None)
