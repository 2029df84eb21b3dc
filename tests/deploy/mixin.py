"""What the dashboards and alerts of celery-exporter's mixin ask, as they are asked.

Grafana 17508 and 17509, and its alert on failures; github.com/danihodovic/celery-exporter,
celery-mixin, as of August 2026. What asks for workers, queues and run times needs a broker
exporter; such metrics are left out.
"""

from __future__ import annotations

from typing import NamedTuple

TARGET = 'cluster="$cluster",namespace="$namespace",job=~"$job"'
OVERVIEW = f'{TARGET},queue_name!~"None"'
BY_QUEUE = f'{OVERVIEW},queue_name=~"$queue_name"'
BY_TASK = f'{BY_QUEUE},name=~"$task"'
STORED = ("succeeded", "failed", "retried", "revoked")
EVENTS = ("sent", "received", "rejected")  # which no result tells of


class Query(NamedTuple):
    expression: str
    has_data: bool


def _count(state: str, filters: str, window: str) -> str:
    return f"round(increase(celery_task_{state}_total{{{filters}}}[{window}]))"


def _ratio(filters: str, window: str, by: str) -> str:
    succeeded = f"sum({_count('succeeded', filters, window)}){by}"
    failed = f"sum({_count('failed', filters, window)}){by}"
    return f"{succeeded}/({succeeded}+{failed})"


ALERTED = 'job=~".*celery.*",queue_name!~"None",name!~"None"'
LABELS = " by (job,namespace,queue_name,name)"

QUERIES = [
    # Both dashboards: counts and graphs of each state.
    *(
        Query(f"sum({_count(state, filters, window)}){by}", state in STORED)
        for state in (*STORED, *EVENTS)
        for filters, window, by in (
            (OVERVIEW, "6h", ""),
            (BY_QUEUE, "$__range", " by (job) > 0"),
            (BY_QUEUE, "$__rate_interval", ""),
            (BY_TASK, "$__range", " by (name) > 0"),
            (BY_TASK, "$__rate_interval", " by (name) > 0"),
        )
    ),
    # The overview.
    Query(_ratio(OVERVIEW, "1w", ""), has_data=True),
    Query(f"{_ratio(BY_QUEUE, '$__range', ' by (job)')} > -1", has_data=True),
    *(
        Query(
            f"round(sum(increase(celery_task_failed_total{{{BY_QUEUE}}}[1w])) by (job,{by}) > 0)",
            has_data=True,
        )
        for by in ("name", "exception")
    ),
    # By task.
    Query(f"{_ratio(BY_TASK, '$__range', ' by (name)')} > -1", has_data=True),
    Query(
        f"round(sum(increase(celery_task_failed_total{{{BY_TASK}}}[$__range])) "
        "by (name,exception) > 0)",
        has_data=True,
    ),
    Query(
        f"sum({_count('failed', BY_TASK, '$__rate_interval')}) by (name,exception) > 0",
        has_data=True,
    ),
    # CeleryTaskHighFailRate.
    Query(
        f"sum(increase(celery_task_failed_total{{{ALERTED}}}[10m])){LABELS}"
        f"/(sum(increase(celery_task_failed_total{{{ALERTED}}}[10m])){LABELS}"
        f"+sum(increase(celery_task_succeeded_total{{{ALERTED}}}[10m])){LABELS})*100 > 5",
        has_data=True,
    ),
]

#: The queries of their variables, in their order.
VARIABLES = {
    "cluster": "label_values(celery_worker_up{}, cluster)",
    "namespace": 'label_values(celery_worker_up{cluster="$cluster"}, namespace)',
    "job": 'label_values(celery_worker_up{cluster="$cluster", namespace="$namespace"}, job)',
    "queue_name": f"label_values(celery_task_received_total{{{OVERVIEW}}}, queue_name)",
    "task": f"label_values(celery_task_received_total{{{BY_QUEUE}}}, name)",
}
