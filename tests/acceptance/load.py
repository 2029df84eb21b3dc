"""What workers are given to do in these tests, and the tables that tell what became of it."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

from celery.states import READY_STATES
from sqlalchemy import column, func, select, table

from tests.servers.process import wait_until

if TYPE_CHECKING:
    from tests.servers.database import Database
    from tests.servers.worker import Worker

#: How many, of which task, with which arguments and options, and the rows that each one makes.
ROUND = (
    (20, "orders.place", (), {}, 1),
    (4, "mail.send", (), {}, 1),
    (1, "mail.send", ("ValueError",), {}, 1),
    (2, "mail.send", ("TimeoutError",), {}, 1),
    (1, "payments.charge", (1,), {}, 1),  # succeeds at the second try
    (1, "payments.charge", (9,), {}, 1),  # fails at the third
    (2, "reports.build", (2, 0.05), {"queue": "reports"}, 1),  # in a state of its own
    (1, "images.import", (), {"queue": "reports"}, 5),  # a chord
    (1, "newsletters.send", (), {}, 5),  # a group that is saved
    (1, "orders.fulfil", (), {}, 4),  # a chain that breaks
    (1, "orders.withdraw", (), {}, 2),  # one is revoked
    (1, "orders.place", (), {"countdown": 0.5, "expires": 0.1}, 1),
)
ROUND_ROWS = sum(number * each for number, *_, each in ROUND)


@dataclass(frozen=True)
class Tables:
    """The two tables, as their owner finds them."""

    database: Database
    task: str = "celery_taskmeta"
    group: str = "celery_tasksetmeta"
    schema: str | None = None

    def rows(self) -> Counter[tuple[str, ...]]:
        """Count the rows by task, state, worker and queue."""
        names = [column(name) for name in ("name", "status", "worker", "queue")]
        query = select(*names, func.count()).group_by(*names)
        with self.database.engine().connect() as connection:
            found = connection.execute(
                query.select_from(table(self.task, schema=self.schema))
            ).all()
        return Counter({tuple(label or "" for label in row[:4]): row[4] for row in found})

    def finished(self) -> Counter[tuple[str, ...]]:
        """Count the rows whose task is done."""
        return Counter({labels: n for labels, n in self.rows().items() if is_finished(labels)})

    def unfinished(self) -> Counter[tuple[str, ...]]:
        """Count the other rows."""
        return Counter({labels: n for labels, n in self.rows().items() if not is_finished(labels)})

    def groups(self) -> int:
        """Count the saved groups."""
        query = select(func.count()).select_from(table(self.group, schema=self.schema))
        with self.database.engine().connect() as connection:
            return connection.execute(query).scalar_one()

    def wait_for(self, finished: int, timeout: float = 30.0) -> None:
        """Wait until this many are done, and nothing changes any more."""

        def quiet() -> bool:
            rows = self.rows()
            return rows.total() == finished and all(map(is_finished, rows))

        wait_until(quiet, f"{finished} rows, each of them finished", timeout)


def is_finished(labels: tuple[str, ...]) -> bool:
    return labels[1] in READY_STATES


def send_load(worker: Worker, rows: int) -> None:
    """Have exactly this many rows made."""
    for _ in range(rows // ROUND_ROWS):
        for number, task, arguments, options, _each in ROUND:
            for _ in range(number):
                worker.send(task, *arguments, **options)
    for _ in range(rows % ROUND_ROWS):
        worker.send("orders.place")


def by(counts: Counter[tuple[str, ...]], *positions: int) -> Counter[tuple[str, ...]]:
    """Sum the counts by some of their labels."""
    sums: Counter[tuple[str, ...]] = Counter()
    for labels, count in counts.items():
        sums[tuple(labels[position] for position in positions)] += count
    return sums
