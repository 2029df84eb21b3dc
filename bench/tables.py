"""Realistic result tables, made by the database's own set operations: millions of rows a minute.

Row n is a function of n. Moduli have no common factors, so that task, worker, state and so on are
independent of each other.
"""

from __future__ import annotations

import pickle
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from celery.backends.database.session import ResultModelBase
from sqlalchemy import Connection, Engine

HOLE = 1_021  # every so many ids, one is missing: rolled back
PIECE = 500_000  # rows a transaction
DAY = 86_400.0  # seconds; Celery keeps results for a day by default
ERRORS = (
    ValueError("no price for SKU 4711"),
    TimeoutError("payment gateway did not answer"),
    ConnectionError("mail server refused"),
    KeyError("customer"),
)
_FRAME = '  File "/srv/shop/lib/python3.11/site-packages/shop/orders/steps.py", line {}, in step\n'
TRACEBACK = "Traceback (most recent call last):\n" + "".join(
    _FRAME.format(line) + "    return self.next(order, price, currency)\n" for line in range(80, 91)
)


@dataclass(frozen=True)
class Shape:
    """What a table holds. 4 % of the finished have failed; one id in a thousand is missing."""

    rows: int
    unfinished: int = 0
    tasks: int = 100
    workers: int = 10
    queues: int = 5
    silent: bool = False  # of failures only the traceback tells the class
    made_up: bool = False  # each row has a name of its own
    age: float = DAY  # seconds since the first finished


def present(last: int) -> int:
    """Return how many rows there are up to this id."""
    return last - last // HOLE


def fill(engine: Engine, shape: Shape) -> None:
    """Create Celery's tables, with rows that have finished one after the other."""
    ResultModelBase.metadata.create_all(engine)
    begin = _now() - timedelta(seconds=shape.age)
    step = shape.age / shape.rows
    with engine.connect() as connection:
        if connection.dialect.name == "sqlite":
            connection.exec_driver_sql("PRAGMA synchronous = OFF")
        for first in range(1, shape.rows + 1, PIECE):
            last = min(first + PIECE - 1, shape.rows)
            _insert(connection, shape, first, last, begin + timedelta(seconds=first * step), step)
            connection.commit()
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.exec_driver_sql(_SETTLE[connection.dialect.name])


def append(connection: Connection, shape: Shape, first: int, last: int) -> None:
    """Insert rows that finish now; the caller commits."""
    _insert(connection, shape, first, last, _now(), 0.0)


def _now() -> datetime:
    return datetime.now(UTC).replace(tzinfo=None)


def _insert(
    connection: Connection, shape: Shape, first: int, last: int, begin: datetime, step: float
) -> None:
    name = connection.dialect.name
    if name == "mysql":  # MariaDB, too
        connection.exec_driver_sql("SET SESSION sql_mode = 'ANSI_QUOTES,PIPES_AS_CONCAT'")
    numbers = _NUMBERS[name].format(first=first, last=last)
    done = _DONE[name].format(first=first, begin=begin, step=step, micro=round(step * 1e6))
    task = "n" if shape.made_up else f"n % 997 % {shape.tasks}"
    every = shape.rows // shape.unfinished if shape.unfinished else shape.rows + 1
    unfinished = f"n <= {shape.rows} AND n % {every} = 0"
    failed = "n % 25 = 0"
    failures = _choice(name, [_failure(error) for error in ERRORS])
    statement = f"""
        INSERT INTO celery_taskmeta (id, task_id, status, result, date_done, traceback, name,
                                     args, kwargs, worker, retries, queue)
        SELECT n,
               {_TASK_ID[name]},
               CASE WHEN {unfinished} THEN 'STARTED' WHEN {failed} THEN 'FAILURE'
                    ELSE 'SUCCESS' END,
               CASE WHEN {unfinished} THEN NULL
                    WHEN {failed} THEN {"NULL" if shape.silent else failures}
                    ELSE {_choice(name, [_pickled(), _json()])} END,
               {done},
               CASE WHEN NOT ({unfinished}) AND {failed}
                    THEN {_text(TRACEBACK)} || 'ValueError: no price for SKU ' || n END,
               'shop.orders.step_' || ({task}),
               {_bytes(name, b'["0d4e51a2", 12345, "EUR"]')},
               {_bytes(name, b'{"notify": true}')},
               'celery@worker-' || (n % 101 % {shape.workers}),
               CASE WHEN n % 19 = 0 THEN n % 3 ELSE 0 END,
               'queue-' || ({task} % {shape.queues})
        FROM ({numbers}) AS numbers
        WHERE n % {HOLE} <> 0
    """  # noqa: S608
    connection.execution_options(no_parameters=True).exec_driver_sql(statement)


_NUMBERS = {
    "postgresql": "SELECT * FROM generate_series({first}, {last}) AS n",
    "mysql": "SELECT seq AS n FROM seq_{first}_to_{last}",
    "sqlite": "WITH RECURSIVE count(n) AS (SELECT {first} UNION ALL SELECT n + 1 FROM count"
    " WHERE n < {last}) SELECT n FROM count",
}
_DONE = {
    "postgresql": "TIMESTAMP '{begin}' + (n - {first}) * INTERVAL '{step:.6f} seconds'",
    "mysql": "TIMESTAMPADD(MICROSECOND, (n - {first}) * {micro}, '{begin}')",
    "sqlite": "strftime('%Y-%m-%d %H:%M:%f', '{begin}', ((n - {first}) * {step:.6f})"
    " || ' seconds') || '000'",
}
_TASK_ID = {
    "postgresql": "'a3c5e7f1-0000-4000-8000-' || lpad(to_hex(n), 12, '0')",
    "mysql": "'a3c5e7f1-0000-4000-8000-' || lpad(lower(hex(n)), 12, '0')",
    "sqlite": "'a3c5e7f1-0000-4000-8000-' || printf('%012x', n)",
}
# What a server does by itself in time.
_SETTLE = {
    "postgresql": "VACUUM ANALYZE celery_taskmeta",
    "mysql": "ANALYZE TABLE celery_taskmeta",
    "sqlite": "ANALYZE",
}


def _pickled() -> bytes:
    """Return what Celery up to 5.6 stores."""
    return pickle.dumps({"ok": True, "order": 12345, "lines": list(range(10))})


def _json() -> bytes:
    """Return what Celery stores from 5.7 on."""
    return b'{"ok": true, "order": 12345, "lines": [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]}'


def _failure(error: Exception) -> bytes:
    if isinstance(error, KeyError):
        return pickle.dumps(error)
    text = f'{{"exc_type": "{type(error).__name__}", "exc_message": ["{error}"], '
    return (text + '"exc_module": "builtins"}').encode()


def _choice(name: str, values: list[bytes]) -> str:
    whens = [f"WHEN {i} THEN {_bytes(name, value)}" for i, value in enumerate(values)]
    return f"CASE n % 103 % {len(values)} {' '.join(whens)} END"


def _bytes(name: str, value: bytes) -> str:
    return f"'\\x{value.hex()}'::bytea" if name == "postgresql" else f"X'{value.hex()}'"


def _text(value: str) -> str:
    return "'" + value.replace("'", "''") + "'"
