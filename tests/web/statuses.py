"""What the tests of the status page look at."""

from __future__ import annotations

from exporter.web.status import BackendStatus, HourStatus, ServiceStatus, TaskStatus

NOW = 1_800_000_000.0  # 2027-01-15 08:00:00 UTC


def backend(name: str = "orders", **changes: object) -> BackendStatus:
    """Return a backend that is well, but for what changes."""
    values: dict[str, object] = {
        "name": name,
        "up": True,
        "message": "",
        "server": "PostgreSQL 15.18, psycopg",
        "poll_interval": 15.0,
        "last_poll": NOW - 4,
        "poll_duration": 0.012,
        "since": NOW - 7000,
    }
    return BackendStatus(**(values | changes))  # type: ignore[arg-type]


def down(name: str = "orders", **changes: object) -> BackendStatus:
    """Return a backend that is not read."""
    values = {"up": False, "message": "connection refused", "reason": "connect"}
    return backend(name, **({**values, "since": NOW - 2573, "last_poll": NOW - 2580} | changes))


def service(*backends: BackendStatus, **changes: object) -> ServiceStatus:
    values: dict[str, object] = {"version": "1.2.3", "started": NOW - 7200, "backends": backends}
    return ServiceStatus(**(values | changes))  # type: ignore[arg-type]


def task(name: str, **finished: int) -> TaskStatus:
    return TaskStatus(name, finished, {}, None)


def lately(name: str, results: int, failures: int = 0, **exceptions: int) -> TaskStatus:
    """Return a task with so many results in each of the last 60 minutes."""
    return TaskStatus(
        task=name,
        finished={"SUCCESS": 1},
        unfinished={},
        last_finished=NOW - 30,
        results=(results,) * 60,
        failures=(failures,) * 60,
        exceptions=exceptions,
    )


def hour(results: int, failures: int = 0, known: int = 60) -> HourStatus:
    """Return an hour with so many results in each minute."""
    return HourStatus(NOW - 3570, known, (results,) * 60, (failures,) * 60, (False,) * 60)
