"""The tables of django-celery-results, ``django_celery_results_taskresult`` and ``_groupresult``.

Source: django_celery_results/models.py and its migrations; docs/django-tables.md says what differs.
"""

from __future__ import annotations

from collections.abc import Set as AbstractSet

from exporter.backends.family import Family, Layout, WiderIds
from exporter.counting import feeds

TASK = Layout(
    kind="task",
    name="django_celery_results_taskresult",
    feed=feeds.tasks_without_retries,
    id="id",
    done="date_done",
    state="status",
    task="task_name",
    worker="worker",
    task_id="task_id",
    result="result",
    traceback="traceback",
    args="task_args",
    kwargs="task_kwargs",
    created="date_created",
    started="date_started",
    entry="periodic_task_name",
    utc=True,
    setting="task",
)
GROUP = Layout(
    kind="group",
    name="django_celery_results_groupresult",
    feed=feeds.saved_groups,
    id="id",
    done="date_done",
    task_id="group_id",
    members="result",
    utc=True,
    setting="group",
)


def _version(columns: AbstractSet[str]) -> str:
    """Name the oldest version whose migrations make a task table with these columns."""
    if "date_started" in columns:
        return "django-celery-results-2.6"
    newer = "periodic_task_name" in columns
    return "django-celery-results-2.3" if newer else "django-celery-results-2.2"


FAMILY = Family(
    name="django",
    program="django-celery-results",
    maker="manage.py migrate",
    layouts=(TASK, GROUP),
    version=_version,
    similar=("taskresult", "taskmeta"),
    assignment="CELERY_{NAME} = {value}",
    older="Upgrade to django-celery-results 2.6 or newer, and run manage.py migrate.",
    wider_ids=WiderIds(
        "Django finds no row whose id is beyond those of its model: name this class in "
        "INSTALLED_APPS, instead of django_celery_results",
        (
            "from django_celery_results.apps import CeleryResultConfig",
            "class BigIds(CeleryResultConfig):",
            '    default_auto_field = "django.db.models.BigAutoField"',
        ),
        always=True,
    ),
)
