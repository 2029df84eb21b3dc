"""One task, or a few: how it ends, where it fails, how long it takes, whether it meets its aim."""

from exporter.metrics import catalogue as c
from scripts.dashboards.parts import (
    GREEN,
    Column,
    Filters,
    Query,
    Step,
    bars,
    dashboard,
    graph,
    number,
    per_minute,
    runbook,
)

F = Filters("task", "queue", "worker")
RESULTS = F.of(c.RESULTS)
FAILED = F.of(c.RESULTS, "FAILURE")
SUCCEEDED = F.of(c.RESULTS, "SUCCESS")
COUNTING = F.of(c.RESULTS, "SUCCESS|FAILURE")
RETRIES = F.of(c.RETRIES)


def _in_range(selector: str) -> str:
    return f"sum(increase({selector}[$__range]))"


def _quantile(quantile: float) -> str:
    """Take the exact run times where a table has them, else those that polls have seen."""
    exact, observed = (
        f"histogram_quantile({quantile}, sum by (backend, task, le) "
        f"(rate({F.of(metric, suffix='_bucket')}[$__rate_interval])))"
        for metric in (c.EXACT_RUNTIME, c.RUNTIME)
    )
    return f"{exact}\nor\n{observed}"


def _burn(window: str) -> Query:
    rate = F.recorded(f"celery_task:error_budget:burn_rate{window}")
    return Query(f"max by (backend, task) ({rate})", f"{{{{backend}}}} {{{{task}}}} {window}")


DASHBOARD = dashboard(
    "task",
    "Task",
    "One task, or several: choose them above. How it ends, which exceptions, workers and queues "
    "stand out, how long it takes, whether it is stuck, and whether it meets its objective.",
    F,
    {
        "Now": [
            number(
                "Results",
                "Results of the time shown.",
                Column(_in_range(RESULTS), "Results"),
            ),
            runbook(
                number(
                    "Success ratio",
                    "Successes among successes and failures of the time shown.",
                    Column(
                        f"{_in_range(SUCCEEDED)}\n/\n({_in_range(COUNTING)} > 0)",
                        "Succeeded",
                        "percentunit",
                    ),
                    Step(None, "red"),
                    Step(0.9, "yellow"),
                    Step(0.99, "green"),
                ),
                "CeleryTaskFailureRatioHigh",
            ),
            number(
                "Objective",
                "The success ratio it is to have, the highest where several tasks are shown; from "
                "the rules in objectives.yml.",
                Column(
                    'max(celery_task:success_objective:ratio{task=~"$task"}'
                    f"\nand on (task)\n{F.of(c.LAST_FINISHED)})",
                    "Objective",
                    "percentunit",
                ),
            ),
            runbook(
                number(
                    "Retries per result",
                    "Retries of the tasks that finished in the time shown.",
                    Column(f"{_in_range(RETRIES)}\n/\n({_in_range(RESULTS)} > 0)", "Retries"),
                    GREEN,
                    Step(1, "yellow"),
                ),
                "CeleryTaskRetryStorm",
            ),
            number(
                "Since the last success",
                "Time since the newest date_done of a success.",
                Column(f"time() - max({F.of(c.LAST_FINISHED, 'SUCCESS')})", "Success", "s"),
            ),
            number(
                "Since the last failure",
                "Time since the newest date_done of a failure.",
                Column(f"time() - max({F.of(c.LAST_FINISHED, 'FAILURE')})", "Failure", "s"),
            ),
        ],
        "Results": [
            graph(
                "Results per minute by state",
                "How it ends.",
                Query(per_minute(RESULTS, "state"), "{{state}}"),
            ),
            graph(
                "Results per minute by worker",
                "Who does the work; known only with result_extended.",
                Query(per_minute(RESULTS, "worker"), "{{worker}}"),
            ),
            graph(
                "Results per minute by queue",
                "Through which queue it came; known only with result_extended.",
                Query(per_minute(RESULTS, "queue"), "{{queue}}"),
            ),
            graph(
                "Replaced results per minute",
                "Results that counted once more, because another run of the same task id replaced "
                "them or their labels came later.",
                Query(
                    per_minute(F.of(c.REVISED), "from_state, to_state"),
                    "{{from_state}} → {{to_state}}",
                ),
            ),
        ],
        "Failures": [
            runbook(
                graph(
                    "Failures per minute by exception",
                    "Exemplars have the task id of the newest failure.",
                    Query(per_minute(F.of(c.FAILURES), "exception"), "{{exception}}"),
                ),
                "CeleryTaskFailureRatioHigh",
            ),
            graph(
                "Failures per minute by worker",
                "Whether one worker stands out.",
                Query(per_minute(FAILED, "worker"), "{{worker}}"),
            ),
            bars(
                "Failures by exception and queue",
                "Failures of the time shown.",
                Column(
                    "topk(10, sum by (exception, queue) "
                    f"(increase({F.of(c.FAILURES)}[$__range])) > 0)",
                    "{{exception}} {{queue}}",
                ),
            ),
            runbook(
                graph(
                    "Error budget burn rate",
                    "How many times as often as the objective allows it fails, over an hour, six "
                    "hours and three days; from the rules in objectives.yml.",
                    *(_burn(window) for window in ("1h", "6h", "3d")),
                ),
                "CeleryTaskErrorBudgetBurnsFast",
            ),
        ],
        "Time": [
            graph(
                "Run time",
                "Exact where the table stores when a task started (django-celery-results); else "
                "of the runs that polls have seen STARTED, to the poll interval.",
                *(
                    Query(_quantile(quantile), f"{{{{task}}}} {name}")
                    for quantile, name in ((0.5, "median"), (0.9, "90 %"), (0.99, "99 %"))
                ),
                unit="s",
            ),
            runbook(
                graph(
                    "Retries per minute",
                    "Retries of tasks that have finished.",
                    Query(per_minute(RETRIES, "task, worker"), "{{task}} {{worker}}"),
                ),
                "CeleryTaskRetryStorm",
            ),
            graph(
                "Unfinished by state",
                "Rows whose task has not finished.",
                Query(f"sum by (task, state) ({F.of(c.UNFINISHED)})", "{{task}} {{state}}"),
            ),
            runbook(
                graph(
                    "Age of the oldest unfinished",
                    "Time since the exporter first saw it.",
                    Query(
                        f"time() - min by (task, state) ({F.of(c.OLDEST_UNFINISHED)})",
                        "{{task}} {{state}}",
                    ),
                    unit="s",
                ),
                "CeleryTaskStuck",
            ),
            graph(
                "Unfinished rows deleted per minute",
                "Rows that were deleted before their task finished.",
                Query(per_minute(F.of(c.VANISHED), "task, state"), "{{task}} {{state}}"),
            ),
        ],
    },
)
