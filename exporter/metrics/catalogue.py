"""The catalogue: every metric this exporter serves, said once.

The reference in docs/metrics.md is generated from it, and a test fails where the two differ.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Type = Literal["counter", "gauge", "histogram"]

TASK = ("task", "state", "worker", "queue")
ENTRY = ("entry", "task")


@dataclass(frozen=True, slots=True, eq=False)
class Metric:
    """One metric family. `labels` are those beside ``backend``, which comes first.

    Compared by identity: there is one object for each name.
    """

    name: str
    type: Type
    help: str
    labels: tuple[str, ...] = ()
    per_backend: bool = True
    bounds: tuple[float, ...] = ()  # of a histogram's buckets; none: the configured ones

    @property
    def label_names(self) -> tuple[str, ...]:
        """All label names, in the order of a sample's values."""
        return ("backend", *self.labels) if self.per_backend else self.labels


RESULTS = Metric(
    "celery_task_results_total",
    "counter",
    "Finished task results, each row of the result table counted once.",
    TASK,
)
FAILURES = Metric(
    "celery_task_failures_total",
    "counter",
    "Results in state FAILURE, by class of the exception.",
    ("task", "queue", "exception"),
)
RETRIES = Metric(
    "celery_task_retries_total",
    "counter",
    "Retries of tasks that have finished (sum of the rows' retries column).",
    ("task", "worker", "queue"),
)
REVISED = Metric(
    "celery_task_results_revised_total",
    "counter",
    "Results that counted once more because another run of the same task id replaced them or "
    "their labels arrived later; by what they counted as before.",
    ("task", "from_state", "to_state"),
)
UNFINISHED = Metric(
    "celery_task_unfinished",
    "gauge",
    "Rows of the result table whose task has not finished, by last known state.",
    TASK,
)
OLDEST_UNFINISHED = Metric(
    "celery_task_oldest_unfinished_timestamp_seconds",
    "gauge",
    "When the exporter first saw the oldest task that is still unfinished, Unix time.",
    ("task", "state"),
)
VANISHED = Metric(
    "celery_task_unfinished_vanished_total",
    "counter",
    "Unfinished rows that were deleted before their task finished.",
    ("task", "state"),
)
LAST_FINISHED = Metric(
    "celery_task_last_finished_timestamp_seconds",
    "gauge",
    "Newest date_done of the finished results, Unix time; no sample while its zone is not known.",
    ("task", "state"),
)
OVERDUE = Metric(
    "celery_task_overdue",
    "gauge",
    "Whether a task that is configured as expected has not succeeded for too long (1) or has (0), "
    "as of the last poll that left nothing to read.",
    ("task",),
)
EXPECTED_WITHIN = Metric(
    "celery_task_expected_within_seconds",
    "gauge",
    "Longest time between two successes of the task, as configured.",
    ("task",),
)
RUNTIME = Metric(
    "celery_task_observed_runtime_seconds",
    "histogram",
    "Time from the poll that first saw the task STARTED to its date_done. "
    "Its resolution is the poll interval; tasks shorter than that are not seen.",
    ("task",),
)
EXACT_RUNTIME = Metric(
    "celery_task_runtime_seconds",
    "histogram",
    "Time from date_started to date_done of each result, of its last attempt as of when it first "
    "counted. Only django-celery-results 2.6 has date_started, of tasks with task_track_started.",
    ("task",),
)
RESULT_RETRIES = Metric(
    "celery_task_result_retries",
    "histogram",
    "Retries before each result that counted, if retries_buckets are set and its row tells.",
    ("task",),
)
PAYLOAD_BYTES = Metric(
    "celery_task_payload_bytes_total",
    "counter",
    "Bytes that results took in the result table when they counted, by the columns that "
    "payload_bytes names.",
    ("task", "part"),
)
GROUP_RESULTS = Metric(
    "celery_group_results_total",
    "counter",
    "Saved group results, each row of the group table counted once.",
)
GROUP_LAST_SAVED = Metric(
    "celery_group_last_saved_timestamp_seconds",
    "gauge",
    "Newest date_done of the saved group results, Unix time; no sample while its zone is not "
    "known.",
)
GROUP_OPEN = Metric(
    "celery_group_open",
    "gauge",
    "Saved groups with tasks that have not finished.",
)
OLDEST_OPEN_GROUP = Metric(
    "celery_group_oldest_open_timestamp_seconds",
    "gauge",
    "When the exporter first saw the oldest group that is still open, Unix time.",
)
GROUP_COMPLETED = Metric(
    "celery_group_completed_total",
    "counter",
    "Saved groups all of whose tasks have finished: SUCCESS if all have succeeded, else FAILURE.",
    ("state",),
)
GROUP_UNTOLD = Metric(
    "celery_group_untold_total",
    "counter",
    "Saved groups of which nobody can tell whether they complete, by reason.",
    ("reason",),
)
GROUP_TASKS = Metric(
    "celery_group_tasks",
    "histogram",
    "How many tasks saved groups have, those of groups within them too.",
    bounds=(1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0, 1000.0, 2000.0, 5000.0, 10_000.0),
)
GROUP_DURATION = Metric(
    "celery_group_observed_duration_seconds",
    "histogram",
    "Time from the poll that first saw the group to the one that saw its last task finish; 0 where "
    "that is the same. Groups that were saved before the exporter started are left out.",
)
UP = Metric(
    "celery_backend_up",
    "gauge",
    "Whether the last poll succeeded (1) or failed (0); no sample before the first poll.",
)
INFO = Metric(
    "celery_backend_info",
    "gauge",
    "The backend's server and driver, and the oldest release whose tables look so; always 1.",
    ("dialect", "driver", "server_version", "schema_family"),
)
CAPABILITY = Metric(
    "celery_backend_capability",
    "gauge",
    "What the backend offers to the exporter (1) or not (0).",
    ("capability",),
)
LAST_POLL = Metric(
    "celery_backend_last_poll_timestamp_seconds",
    "gauge",
    "When the last successful poll of the backend was, Unix time.",
)
POLL_INTERVAL = Metric(
    "celery_backend_poll_interval_seconds",
    "gauge",
    "How often the backend is polled while it is up, as configured.",
)
POLL_DURATION = Metric(
    "celery_backend_poll_duration_seconds", "histogram", "How long polls of the backend took."
)
POLLS = Metric(
    "celery_backend_polls_total", "counter", "Polls of the backend, including failed ones."
)
POLL_ERRORS = Metric(
    "celery_backend_poll_errors_total",
    "counter",
    "Polls of the backend that failed, by reason.",
    ("reason",),
)
BACKLOG = Metric(
    "celery_backend_backlog_ids",
    "gauge",
    "Ids between the last row read and the newest row of the table.",
    ("table",),
)
GAP_IDS = Metric(
    "celery_backend_gap_ids",
    "gauge",
    "Ids missing among the rows read that a late commit may still fill.",
    ("table",),
)
WATCHED = Metric(
    "celery_backend_watched_rows",
    "gauge",
    "Rows that are read again because they may change.",
    ("table",),
)
WATCHED_FOLDED = Metric(
    "celery_backend_watched_folded_rows",
    "gauge",
    "Watched rows with labels folded into __other__ until they finish.",
    ("table",),
)
LATE_ROWS = Metric(
    "celery_backend_late_rows_total",
    "counter",
    "Rows that became visible after rows with higher ids; a plain id cursor would miss them.",
    ("table",),
)
EXPIRED_GAPS = Metric(
    "celery_backend_expired_gap_ids_total",
    "counter",
    "Missing ids given up: rolled back, deleted, or later than late_commit_grace.",
    ("table",),
)
ID_RESETS = Metric(
    "celery_backend_id_resets_total",
    "counter",
    "Times that the table's ids began again below the last row read.",
    ("table",),
)
ID_USED = Metric(
    "celery_backend_id_used_ratio",
    "gauge",
    "Highest id relative to the largest that its column or its sequence allows; "
    "at 1 Celery cannot store results. No sample where the column's type has no known limit.",
    ("table",),
)
OLDEST_RESULT = Metric(
    "celery_backend_oldest_result_timestamp_seconds",
    "gauge",
    "date_done of the oldest results in the table, Unix time; shows whether cleanup runs. Where "
    "timezone is auto, it is read in the zone of the newest: if that was another one, hours off.",
    ("table",),
)
ROWS_ESTIMATE = Metric(
    "celery_backend_rows_estimate",
    "gauge",
    "Rows in the table as the database's catalogue estimates them.",
    ("table",),
)
DATE_OFFSET = Metric(
    "celery_backend_date_done_offset_seconds",
    "gauge",
    "By how much date_done is ahead of UTC, as settled by the results themselves. No sample before "
    "enough of them agree, or where timezone says it.",
    ("table",),
)
DATES_WITHHELD = Metric(
    "celery_backend_dates_withheld_total",
    "counter",
    "Results that were counted while it was not known in which zone their date_done is: from "
    "before the exporter watched, before the zone was settled, or in another zone than is settled. "
    "Some are told later. Only where timezone is auto.",
    ("table",),
)
CLOCK_SKEW = Metric(
    "celery_backend_clock_skew_seconds",
    "gauge",
    "Newest date_done relative to the exporter's clock when it was read. "
    "Hours mean that the configured timezone is not the workers'. No sample while the zone is not "
    "known.",
)
BEAT_UP = Metric(
    "celery_beat_up",
    "gauge",
    "Whether the last look at the schedules of celery beat, in its tables or of the app, succeeded "
    "(1) or failed (0). The other metrics of beat are as of the last that succeeded; without "
    "schedules there are none.",
)
BEAT_ENTRIES = Metric(
    "celery_beat_entries",
    "gauge",
    "Entries of celery beat; where there are more than 10,000 in its tables, none are read.",
)
BEAT_UNREADABLE = Metric(
    "celery_beat_entries_unreadable",
    "gauge",
    "Entries of celery beat without metrics of their own, since they or their schedules cannot be "
    "understood; the log says why.",
)
ENTRY_ENABLED = Metric(
    "celery_beat_entry_enabled",
    "gauge",
    "Whether beat is to send the entry (1) or not (0).",
    ENTRY,
)
ENTRY_LAST_RUN = Metric(
    "celery_beat_entry_last_run_timestamp_seconds",
    "gauge",
    "When beat last sent the entry, Unix time; beat writes this minutes later.",
    ENTRY,
)
ENTRY_NEXT_RUN = Metric(
    "celery_beat_entry_next_run_timestamp_seconds",
    "gauge",
    "When beat is to send the entry next, Unix time; in the past where it is overdue.",
    ENTRY,
)
ENTRY_PERIOD = Metric(
    "celery_beat_entry_period_seconds",
    "gauge",
    "Time from the entry's next run to the one after it.",
    ENTRY,
)
ENTRY_OVERDUE = Metric(
    "celery_beat_entry_overdue_seconds",
    "gauge",
    "How long the entry had been overdue at the last look, 0 when on time. Runs that beat may have "
    "sent without having written it yet are taken for sent.",
    ENTRY,
)
ENTRY_RUNS = Metric(
    "celery_beat_entry_runs_total",
    "counter",
    "Times that beat sent the entry, as written by beat minutes later.",
    ENTRY,
)
ENTRY_LAST_SUCCESS = Metric(
    "celery_beat_entry_last_success_timestamp_seconds",
    "gauge",
    "Newest date_done of the successful results of the entry, Unix time; of its task, whoever sent "
    "it, if the results of the task do not say which entry they come from.",
    ENTRY,
)
BUILD_INFO = Metric(
    "celery_results_exporter_build_info",
    "gauge",
    "The exporter's version; always 1.",
    ("version", "python_version", "sqlalchemy_version"),
    per_backend=False,
)
RELOAD_SUCCESSFUL = Metric(
    "celery_results_exporter_config_last_reload_successful",
    "gauge",
    "Whether the configuration in the file is the one in use (1) or was refused (0).",
    per_backend=False,
)
RELOAD_TIMESTAMP = Metric(
    "celery_results_exporter_config_last_reload_success_timestamp_seconds",
    "gauge",
    "When the configuration in use was read, Unix time.",
    per_backend=False,
)
CONFIG_HASH = Metric(
    "celery_results_exporter_config_hash",
    "gauge",
    "Hash of the configuration in use, including values of variables and secret files.",
    per_backend=False,
)
WEB_RELOAD_SUCCESSFUL = Metric(
    "celery_results_exporter_web_config_last_reload_successful",
    "gauge",
    "Whether the files of --web.config.file are in use as they are (1) or were refused (0).",
    per_backend=False,
)
CHECKPOINT_COMMIT = Metric(
    "celery_results_exporter_checkpoint_last_commit_timestamp_seconds",
    "gauge",
    "When counts and positions were last written to the checkpoint, Unix time.",
    per_backend=False,
)
CHECKPOINT_SIZE = Metric(
    "celery_results_exporter_checkpoint_size_bytes",
    "gauge",
    "Size of the checkpoint's files.",
    per_backend=False,
)
CHECKPOINT_REWRITES = Metric(
    "celery_results_exporter_checkpoint_rewrites_total",
    "counter",
    "Times that the backend's counts were rewritten because the checkpoint was deleted or "
    "replaced while in use.",
)
LEADER = Metric(
    "celery_results_exporter_leader",
    "gauge",
    "Whether this process follows the backend (1), or leaves it to other replicas (0).",
    ("backend",),
    per_backend=False,
)
SERIES = Metric(
    "celery_results_exporter_series",
    "gauge",
    "Series of the backend's task metrics.",
)
SERIES_FOLDED = Metric(
    "celery_results_exporter_series_folded_total",
    "counter",
    "Results counted under __other__ for at least one label, because series_limit is near.",
)
RESULTS_DROPPED = Metric(
    "celery_results_exporter_results_dropped_total",
    "counter",
    "Results that counted and are not served, because of a rule with the action drop or keep.",
)

CATALOGUE: dict[str, Metric] = {
    metric.name: metric for metric in list(globals().values()) if isinstance(metric, Metric)
}
TASK_METRICS = frozenset(metric for metric in CATALOGUE.values() if metric.labels[:1] == ("task",))

RUNTIME_BUCKETS = (
    1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1800.0, 3600.0, 7200.0, 21600.0, 86400.0,
)  # fmt: skip
POLL_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
