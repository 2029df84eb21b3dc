"""All backends and tasks at a glance; from here to one of them."""

from exporter.metrics import catalogue as c
from scripts.dashboards.parts import (
    BLUE,
    GREEN,
    OF_A_TASK,
    TASK_OF_ROW,
    TASK_OF_SERIES,
    Column,
    Filters,
    Query,
    Step,
    backends,
    bars,
    dashboard,
    graph,
    number,
    per_minute,
    rows,
    runbook,
    top,
)

F = Filters("task")
RESULTS = F.of(c.RESULTS)
FAILED = F.of(c.RESULTS, "FAILURE")
COUNTING = F.of(c.RESULTS, "SUCCESS|FAILURE")
FAILURES = F.of(c.FAILURES)
BURN_RATE = F.recorded("celery_task:error_budget:burn_rate6h")


def _of_range(selector: str, by: str) -> str:
    return f"sum{by}(increase({selector}[$__range]))"


def _ratio(by: str) -> str:
    return f"{_of_range(FAILED, by)}\n/\n({_of_range(COUNTING, by)} > 0)"


def _most(selector: str, by: str) -> str:
    return f"sum by ({by}) (increase({selector}[$__range] @ end()))"


BY_TASK = " by (backend, task) "
TASK = "backend, task"
ALERTS = F.recorded("ALERTS", 'alertname=~"Celery.+"')

DASHBOARD = dashboard(
    "overview",
    "Overview",
    "What Celery's SQL result backends say, as celery-results-exporter reads them: which backends "
    "are read, how tasks end, which ones fail, hang or are overdue.",
    F,
    {
        "Now": [
            backends(F, 4),
            number(
                "Results",
                "Results of the time shown.",
                Column(_of_range(RESULTS, ""), "Results"),
            ),
            runbook(
                number(
                    "Failure ratio",
                    "Failures among the results of the time shown; revoked results count neither "
                    "way.",
                    Column(_ratio(""), "Failed", "percentunit"),
                    GREEN,
                    Step(0.01, "yellow"),
                    Step(0.1, "red"),
                ),
                "CeleryTaskFailureRatioHigh",
            ),
            number(
                "Unfinished",
                "Rows whose task has not finished; running tasks have one only with "
                "task_track_started.",
                Column(f"sum({F.of(c.UNFINISHED)})", "Unfinished"),
            ),
            runbook(
                number(
                    "Oldest unfinished",
                    "How long ago the exporter first saw the oldest unfinished task.",
                    Column(f"time() - min({F.of(c.OLDEST_UNFINISHED)})", "Age", "s"),
                    GREEN,
                    Step(3600, "yellow"),
                ),
                "CeleryTaskStuck",
            ),
            runbook(
                number(
                    "Expected tasks overdue",
                    "Tasks named in `expected` that have not succeeded for too long.",
                    Column(f"sum({F.of(c.OVERDUE)})", "Overdue"),
                    GREEN,
                    Step(1, "red"),
                ),
                "CeleryTaskOverdue",
            ),
        ],
        "Tasks": [
            rows(
                "Tasks",
                "Results of the time shown, by task. A click on a task opens its dashboard.",
                OF_A_TASK,
                Column(_of_range(F.of(c.RESULTS, "SUCCESS"), BY_TASK), "Success"),
                Column(_of_range(FAILED, BY_TASK), "Failure"),
                Column(_of_range(F.of(c.RESULTS, "REVOKED"), BY_TASK), "Revoked"),
                Column(_ratio(BY_TASK), "Failure ratio", "percentunit"),
                Column(_of_range(F.of(c.RETRIES), BY_TASK), "Retries"),
                Column(f"sum{BY_TASK}({F.of(c.UNFINISHED)})", "Unfinished"),
                links={"task": TASK_OF_ROW},
            ),
            graph(
                "Results per minute by state",
                "How tasks end.",
                Query(per_minute(RESULTS, "state"), "{{state}}"),
            ),
            graph(
                "Results per minute by task, top 10",
                "The tasks with most results. A click on a point leads to the task.",
                Query(top(per_minute(RESULTS, TASK), _most(RESULTS, TASK)), "{{backend}} {{task}}"),
                links=[TASK_OF_SERIES],
            ),
        ],
        "Failures": [
            runbook(
                graph(
                    "Failures per minute by task, top 10",
                    "The tasks that fail most. A click on a point leads to the task.",
                    Query(
                        top(per_minute(FAILED, TASK), _most(FAILED, TASK)), "{{backend}} {{task}}"
                    ),
                    links=[TASK_OF_SERIES],
                ),
                "CeleryTaskFailureRatioHigh",
            ),
            bars(
                "Most failures by task and exception",
                "Failures of the time shown.",
                Column(
                    f"topk(10, {_of_range(FAILURES, ' by (backend, task, exception) ')} > 0)",
                    "{{backend}} {{task}} {{exception}}",
                ),
            ),
            runbook(
                graph(
                    "Error budget burn rate over 6 h, top 10",
                    "How many times as often as its objective allows a task fails; from the rules "
                    "in objectives.yml. At 1 the failures allowed in 30 days last for 30 days.",
                    Query(f"topk(10, {BURN_RATE} > 0)", "{{backend}} {{task}}"),
                    links=[TASK_OF_SERIES],
                ),
                "CeleryTaskErrorBudgetBurnsFast",
            ),
            rows(
                "Alerts",
                "Alerts that fire or are about to. The runbook says what to do for each.",
                ("alertname", "alertstate", "severity", "backend", "task"),
                Column(
                    f"max by (alertname, alertstate, severity, backend, task) ({ALERTS})", "Active"
                ),
                width=12,
            ),
        ],
        "Unfinished": [
            graph(
                "Unfinished by task and state",
                "Rows whose task has not finished.",
                Query(
                    f"sum by (backend, task, state) ({F.of(c.UNFINISHED)})",
                    "{{backend}} {{task}} {{state}}",
                ),
                links=[TASK_OF_SERIES],
            ),
            runbook(
                graph(
                    "Age of the oldest unfinished",
                    "Time since the exporter first saw the oldest unfinished task.",
                    Query(
                        f"time() - min by (backend, task, state) ({F.of(c.OLDEST_UNFINISHED)})",
                        "{{backend}} {{task}} {{state}}",
                    ),
                    unit="s",
                    links=[TASK_OF_SERIES],
                ),
                "CeleryTaskStuck",
            ),
            number(
                "Groups saved per hour",
                "Saved group results; each row of the group table counts once.",
                Column(f"sum by (backend) (increase({F.of(c.GROUP_RESULTS)}[1h]))", "{{backend}}"),
                BLUE,
                width=24,
            ),
        ],
    },
)
