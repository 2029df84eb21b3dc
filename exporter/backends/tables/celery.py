"""Celery's own tables, ``celery_taskmeta`` and ``celery_tasksetmeta``.

Source: celery/backends/database/models.py; docs/celery-tables.md says what differs by version.
"""

from __future__ import annotations

from collections.abc import Set as AbstractSet

from sqlalchemy import Integer, LargeBinary, String

from exporter.backends.family import Family, Layout, WiderIds
from exporter.counting import feeds

TASK = Layout(
    kind="task",
    name="celery_taskmeta",
    feed=feeds.tasks,
    id="id",
    done="date_done",
    state="status",
    task="name",
    worker="worker",
    queue="queue",
    retries="retries",
    task_id="task_id",
    result="result",
    traceback="traceback",
    args="args",
    kwargs="kwargs",
    sequence="task_id_sequence",
    setting="task",
)
GROUP = Layout(
    kind="group",
    name="celery_tasksetmeta",
    feed=feeds.saved_groups,
    id="id",
    done="date_done",
    task_id="taskset_id",
    members="result",
    sequence="taskset_id_sequence",
    setting="group",
)


def _version(columns: AbstractSet[str]) -> str:
    """Name the oldest Celery that creates a task table with these columns."""
    if "stamps" in columns or "children" in columns:
        return "celery-5.7"
    return "celery-4.4" if "name" in columns else "celery-4.0"


FAMILY = Family(
    name="celery",
    program="Celery",
    maker="Celery",
    layouts=(TASK, GROUP),
    version=_version,
    # In another schema, or with another name around it; and django-celery-results'.
    similar=("taskmeta", "taskresult"),
    extended=(
        ("name", String(155)),
        ("args", LargeBinary()),
        ("kwargs", LargeBinary()),
        ("worker", String(155)),
        ("retries", Integer()),
        ("queue", String(155)),
    ),
    older="Celery 4.4 and newer make them. Add them before the setting, or workers store nothing; "
    "those of 5.7 and newer do so when they start, if their account may.",
    wider_ids=WiderIds(
        "Celery's models call each id an INTEGER, and psycopg and pg8000 send it as such: workers "
        "with these drivers also need the lines for their app",
        (
            "from celery.backends.database.models import Task, TaskSet",
            "from sqlalchemy import BigInteger",
            "Task.__table__.c.id.type = TaskSet.__table__.c.id.type = BigInteger()",
        ),
        always=False,
    ),
)
