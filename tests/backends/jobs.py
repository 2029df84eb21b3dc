"""A family of tables that nobody has: what one file says is all there is to say."""

from __future__ import annotations

from zoneinfo import ZoneInfo

from sqlalchemy import BigInteger, Column, DateTime, Integer, MetaData, String, Table

from exporter.backends.family import Family, Layout
from exporter.counting import feeds

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
    Column("ended", DateTime),
)
