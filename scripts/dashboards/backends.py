"""Whether the backends are read as they should be, and how the exporter itself is."""

from exporter.metrics import catalogue as c
from exporter.metrics.catalogue import Metric
from scripts.dashboards.parts import (
    GREEN,
    YES_OR_NO,
    Column,
    Filters,
    Panel,
    Query,
    Step,
    backends,
    dashboard,
    graph,
    number,
    per_minute,
    rows,
    runbook,
    whether,
)

F = Filters()
INFO = ("backend", "dialect", "driver", "server_version", "schema_family")
TABLE = "{{backend}} {{table}}"


def _since(metric: Metric, by: str) -> str:
    return f"time() - max by ({by}) ({F.of(metric)})"


def _rate(metric: Metric, by: str) -> str:
    return per_minute(F.of(metric), by)


def _gauge(metric: Metric, by: str = "backend, table") -> str:
    return f"max by ({by}) ({F.of(metric)})"


def _poll(suffix: str) -> str:
    return f"rate({F.of(c.POLL_DURATION, suffix=suffix)}[$__rate_interval])"


def _of_process(name: str) -> str:
    """Select a metric that all processes have, of exporters only."""
    value = F.process(name)
    value = f"rate({value}[$__rate_interval])" if name.endswith("_total") else value
    return f"{value}\nand on (job, instance)\n{F.of(c.BUILD_INFO)}"


def _reloaded(metric: Metric, what: str) -> Panel:
    return whether(
        f"{what} in use",
        f"Whether the {what.lower()} is in use as it is in its file (yes) or was refused (no).",
        Column(f"min by (instance) ({F.of(metric)})", "{{instance}}", "none"),
        YES_OR_NO,
        6,
    )


DASHBOARD = dashboard(
    "backends",
    "Backends",
    "Whether each result backend is read in time and in full, what its tables are like, and how "
    "the exporter itself is.",
    F,
    {
        "Reading": [
            backends(F, 12),
            runbook(
                whether(
                    "Followed",
                    "Whether a replica follows the backend (yes), or none does (no).",
                    Column(_gauge(c.LEADER, "job, backend"), "{{job}} {{backend}}", "none"),
                    YES_OR_NO,
                    12,
                ),
                "CeleryResultsNoLeader",
            ),
            runbook(
                graph(
                    "Time since the last good poll",
                    "Compare it with the time for which the tables keep results, below.",
                    Query(_since(c.LAST_POLL, "backend"), "{{backend}}"),
                    unit="s",
                ),
                "CeleryResultsHalfWayToLoss",
            ),
            runbook(
                graph(
                    "Failed polls per minute by reason",
                    "Why polls fail; the exporter's log and status page have the messages.",
                    Query(_rate(c.POLL_ERRORS, "backend, reason"), "{{backend}} {{reason}}"),
                ),
                "CeleryResultBackendDown",
            ),
            runbook(
                graph(
                    "Poll duration",
                    "Beside the interval between polls.",
                    Query(
                        f"histogram_quantile(0.99, sum by (backend, le) ({_poll('_bucket')}))",
                        "{{backend}} 99 %",
                    ),
                    Query(
                        f"sum by (backend) ({_poll('_sum')})\n/\n"
                        f"sum by (backend) ({_poll('_count')})",
                        "{{backend}} mean",
                    ),
                    Query(_gauge(c.POLL_INTERVAL, "backend"), "{{backend}} interval"),
                    unit="s",
                ),
                "CeleryResultPollsSlow",
            ),
            graph(
                "Polls per minute",
                "Including failed ones.",
                Query(_rate(c.POLLS, "backend"), "{{backend}}"),
            ),
            runbook(
                graph(
                    "Backlog",
                    "Ids between the last row read and the newest row of the table.",
                    Query(_gauge(c.BACKLOG), TABLE),
                ),
                "CeleryResultsLagging",
            ),
            graph(
                "Gaps and watched rows",
                "Missing ids that a late commit may fill, and rows that may still change.",
                Query(_gauge(c.GAP_IDS), f"{TABLE} gap ids"),
                Query(_gauge(c.WATCHED), f"{TABLE} watched"),
                Query(_gauge(c.WATCHED_FOLDED), f"{TABLE} watched, folded"),
            ),
            runbook(
                graph(
                    "Late rows, ids given up and id resets per minute",
                    "Rows that appeared below the last one read, ids for which none did, and times "
                    "that ids began again.",
                    Query(_rate(c.LATE_ROWS, "backend, table"), f"{TABLE} late"),
                    Query(_rate(c.EXPIRED_GAPS, "backend, table"), f"{TABLE} given up"),
                    Query(_rate(c.ID_RESETS, "backend, table"), f"{TABLE} resets"),
                ),
                "CeleryResultIdsBeganAgain",
            ),
            runbook(
                graph(
                    "Clock of the results",
                    "By how much the newest result is dated ahead of the exporter's clock. Hours "
                    "are a wrong `timezone`.",
                    Query(_gauge(c.CLOCK_SKEW, "backend"), "{{backend}}"),
                    unit="s",
                ),
                "CeleryResultsClockSkew",
            ),
        ],
        "Tables": [
            rows(
                "Result backends",
                "What each of them is; the family is the oldest release whose tables look so.",
                INFO,
                Column(f"max by ({', '.join(INFO)}) ({F.of(c.INFO)})", "Present"),
                width=12,
            ),
            rows(
                "Capabilities",
                "What each backend offers to the exporter (1) or not (0).",
                ("backend", "capability"),
                Column(_gauge(c.CAPABILITY, "backend, capability"), "Has it"),
                width=12,
            ),
            runbook(
                graph(
                    "Age of the oldest results",
                    "For how long the tables keep results: whether cleanup runs.",
                    Query(
                        f"time() - min by (backend, table) ({F.of(c.OLDEST_RESULT)})",
                        TABLE,
                    ),
                    unit="s",
                ),
                "CeleryResultsHalfWayToLoss",
            ),
            graph(
                "Rows",
                "As the database's catalogue estimates them.",
                Query(_gauge(c.ROWS_ESTIMATE), TABLE),
            ),
            runbook(
                graph(
                    "Id space used",
                    "At 100 % Celery cannot store results.",
                    Query(_gauge(c.ID_USED), TABLE),
                    unit="percentunit",
                ),
                "CeleryResultIdSpaceUsed",
            ),
            graph(
                "Time since a group was saved",
                "Newest date_done of the table of groups.",
                Query(_since(c.GROUP_LAST_SAVED, "backend"), "{{backend}}"),
                unit="s",
            ),
        ],
        "Exporter": [
            rows(
                "Exporters",
                "Which version runs where.",
                ("instance", "version", "python_version", "sqlalchemy_version"),
                Column(
                    "max by (instance, version, python_version, sqlalchemy_version) "
                    f"({F.of(c.BUILD_INFO)})",
                    "Running",
                ),
                width=12,
            ),
            _reloaded(c.RELOAD_SUCCESSFUL, "Configuration"),
            _reloaded(c.WEB_RELOAD_SUCCESSFUL, "Web configuration"),
            runbook(
                graph(
                    "Series, and results folded per minute",
                    "Where series_limit is near, new labels count under __other__.",
                    Query(_gauge(c.SERIES, "backend"), "{{backend}} series"),
                    Query(_rate(c.SERIES_FOLDED, "backend"), "{{backend}} folded"),
                    Query(_rate(c.RESULTS_DROPPED, "backend"), "{{backend}} dropped by rules"),
                ),
                "CeleryResultsFolded",
            ),
            runbook(
                graph(
                    "Checkpoint: time since the last commit",
                    "Nothing is written while nothing changes.",
                    Query(_since(c.CHECKPOINT_COMMIT, "instance"), "{{instance}}"),
                    unit="s",
                ),
                "CeleryResultsCheckpointNotWritten",
            ),
            graph(
                "Checkpoint: size",
                "Of its files.",
                Query(_gauge(c.CHECKPOINT_SIZE, "instance"), "{{instance}}"),
                unit="bytes",
            ),
            runbook(
                number(
                    "Checkpoint: rewritten",
                    "Times within the time shown that it was found deleted or replaced.",
                    Column(
                        f"sum by (backend) (increase({F.of(c.CHECKPOINT_REWRITES)}[$__range]))",
                        "{{backend}}",
                    ),
                    GREEN,
                    Step(1, "yellow"),
                    width=12,
                ),
                "CeleryResultsCheckpointLost",
            ),
            graph(
                "Memory",
                "Resident memory of each exporter.",
                Query(_of_process("process_resident_memory_bytes"), "{{instance}}"),
                unit="bytes",
            ),
            graph(
                "CPU",
                "Cores used by each exporter.",
                Query(_of_process("process_cpu_seconds_total"), "{{instance}}"),
                unit="percentunit",
            ),
        ],
    },
)
