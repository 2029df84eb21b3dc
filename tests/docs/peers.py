"""The metrics of those that docs/migration.md compares us with."""

from __future__ import annotations

#: As of 0.12.2, and the waiting time that came after it.
CELERY_EXPORTER = {
    *(f"celery_task_{what}_total" for what in ("sent", "received", "started", "succeeded")),
    *(f"celery_task_{what}_total" for what in ("failed", "retried", "revoked", "rejected")),
    *("celery_task_runtime", "celery_task_queue_wait_time", "celery_queue_length"),
    *("celery_worker_up", "celery_worker_tasks_active", "celery_active_consumer_count"),
    *("celery_active_worker_count", "celery_active_process_count"),
}
#: As of 2.1, without those of its own process.
FLOWER = {
    *("flower_events_total", "flower_task_runtime_seconds", "flower_worker_online"),
    *("flower_task_prefetch_time_seconds", "flower_worker_prefetched_tasks"),
    "flower_worker_number_of_currently_executing_tasks",
}
HISTOGRAMS = ("celery_task_runtime", "flower_task_runtime_seconds")
#: As samples are called.
THEIRS = {
    *CELERY_EXPORTER,
    *FLOWER,
    *(f"{name}_{part}" for name in HISTOGRAMS for part in ("bucket", "sum", "count")),
}
