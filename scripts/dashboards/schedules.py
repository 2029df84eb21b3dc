"""Whether what is sent by a schedule, or expected, comes in time."""

from exporter.metrics import catalogue as c
from scripts.dashboards.parts import (
    GREEN,
    OF_A_TASK,
    TASK_OF_ROW,
    UP_OR_DOWN,
    Column,
    Filters,
    Query,
    Step,
    dashboard,
    graph,
    number,
    rows,
    runbook,
    whether,
)

F = Filters("task")
ENTRY = ("backend", "entry", "task")
BY = f"by ({', '.join(ENTRY)}) "
NAME = "{{backend}} {{entry}}"

DASHBOARD = dashboard(
    "schedules",
    "Schedules",
    "What celery beat sends from schedules in a database, and tasks that the exporter's "
    "configuration expects: when each is due, whether it is overdue, when it last succeeded.",
    F,
    {
        "Now": [
            runbook(
                whether(
                    "Schedules",
                    "Whether the tables of celery beat can be read.",
                    Column(f"min by (backend) ({F.of(c.BEAT_UP)})", "{{backend}}", "none"),
                    UP_OR_DOWN,
                    6,
                ),
                "CeleryBeatSchedulesNotRead",
            ),
            number(
                "Number of entries",
                "Entries in the tables of celery beat.",
                Column(f"sum({F.of(c.BEAT_ENTRIES)})", "Entries"),
                width=6,
            ),
            number(
                "Unreadable entries",
                "Entries that cannot be understood; the exporter's log says why.",
                Column(f"sum({F.of(c.BEAT_UNREADABLE)})", "Unreadable"),
                GREEN,
                Step(1, "yellow"),
                width=6,
            ),
            runbook(
                number(
                    "Overdue entries",
                    "Entries that are due and were not sent.",
                    Column(f"sum({F.of(c.ENTRY_OVERDUE)} > bool 0)", "Overdue"),
                    GREEN,
                    Step(1, "red"),
                    width=6,
                ),
                "CeleryBeatEntryOverdue",
            ),
        ],
        "celery beat": [
            runbook(
                rows(
                    "Entries",
                    "Beat writes what it has sent minutes later. The last success is that of the "
                    "entry's task, whoever sent it.",
                    ENTRY,
                    Column(f"max {BY}({F.of(c.ENTRY_ENABLED)})", "Enabled", "none"),
                    Column(f"max {BY}({F.of(c.ENTRY_PERIOD)})", "Period", "s"),
                    Column(f"time() - max {BY}({F.of(c.ENTRY_LAST_RUN)})", "Sent ago", "s"),
                    Column(f"max {BY}({F.of(c.ENTRY_NEXT_RUN)}) - time()", "Due in", "s"),
                    Column(f"max {BY}({F.of(c.ENTRY_OVERDUE)})", "Overdue for", "s"),
                    Column(
                        f"time() - max {BY}({F.of(c.ENTRY_LAST_SUCCESS)})", "Succeeded ago", "s"
                    ),
                    Column(f"sum {BY}(increase({F.of(c.ENTRY_RUNS)}[$__range]))", "Runs"),
                    links={"task": TASK_OF_ROW},
                ),
                "CeleryBeatEntryOverdue",
            ),
            runbook(
                graph(
                    "Overdue for",
                    "0 while the entry is on time.",
                    Query(f"max {BY}({F.of(c.ENTRY_OVERDUE)})", NAME),
                    unit="s",
                ),
                "CeleryBeatEntryOverdue",
            ),
            graph(
                "Runs per hour",
                "Times that beat sent the entry.",
                Query(f"sum {BY}(rate({F.of(c.ENTRY_RUNS)}[$__rate_interval])) * 3600", NAME),
            ),
        ],
        "Expected tasks": [
            runbook(
                rows(
                    "Expected tasks",
                    "Tasks that the key `expected` names, whoever sends them.",
                    OF_A_TASK,
                    Column(f"max by (backend, task) ({F.of(c.OVERDUE)})", "Overdue", "none"),
                    Column(
                        f"min by (backend, task) ({F.of(c.EXPECTED_WITHIN)})", "Expected every", "s"
                    ),
                    Column(
                        "time() - max by (backend, task) "
                        f"({F.of(c.LAST_FINISHED, 'SUCCESS')})\n"
                        f"and on (backend, task)\n{F.of(c.OVERDUE)}",
                        "Succeeded ago",
                        "s",
                    ),
                    links={"task": TASK_OF_ROW},
                ),
                "CeleryTaskOverdue",
            ),
        ],
    },
)
