"""Celery's own tables, ``celery_taskmeta`` and ``celery_tasksetmeta``.

Source: celery/backends/database/models.py; docs/celery-tables.md says what differs by version.
"""

from __future__ import annotations

from collections.abc import Set as AbstractSet

from exporter.backends.family import Family, Layout
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
)
