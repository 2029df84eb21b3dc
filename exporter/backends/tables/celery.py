"""Celery's own tables, ``celery_taskmeta`` and ``celery_tasksetmeta``.

Source: celery/backends/database/models.py; docs/celery-tables.md says what differs by version.
"""

from __future__ import annotations

from collections.abc import Set as AbstractSet

from exporter.backends.tables import Layout

TASK = Layout(
    kind="task",
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
)
GROUP = Layout(
    kind="group",
    id="id",
    done="date_done",
    task_id="taskset_id",
    sequence="taskset_id_sequence",
)

LAYOUTS = (TASK, GROUP)

# Parts of the names of tables that may be meant where the one of the tasks is not there: Celery's
# own in another schema or with another name around it, and that of django-celery-results.
LIKE_TASKS = ("taskmeta", "taskresult")
DJANGO = "django_celery_results_taskresult"


def schema_family(columns: AbstractSet[str]) -> str:
    """Name the oldest Celery that creates a task table with these columns."""
    if "stamps" in columns or "children" in columns:
        return "celery-5.7"
    return "celery-4.4" if "name" in columns else "celery-4.0"
