"""The whole use: a Django project with its schedules in its database, and results in a file."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from sqlalchemy import NullPool, create_engine, make_url, text

from tests.acceptance.process import FAST, QUICK_LOOKS, running
from tests.acceptance.test_prometheus import SCRAPE_EVERY_SECOND
from tests.servers.beat import Calculator
from tests.servers.process import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.acceptance.process import Exporter
    from tests.servers.prometheus import Prometheus

ALERTS = Path(__file__).parents[2] / "deploy" / "prometheus" / "alerts.yml"
ALERT = "CeleryBeatEntryOverdue"
FIRING = f'ALERTS{{alertname="{ALERT}",alertstate="firing"}}'

NIGHTLY = {"minute": "0", "hour": "3", "timezone": "Asia/Tokyo"}
ENTRIES: list[dict[str, Any]] = [
    {
        "name": "multiply every minute",
        "task": "multiply_two_numbers",
        "args": "[2, 3]",
        "crontab": {"minute": "*", "timezone": "Europe/Paris"},
    },
    {
        "name": "multiply every 2 s",
        "task": "multiply_two_numbers",
        "args": "[2, 3]",
        "interval": {"every": 2, "period": "seconds"},
    },
    {
        "name": "sum every 3 s",
        "task": "sum_two_numbers",
        "args": "[2, 3]",
        "interval": {"every": 3, "period": "seconds"},
    },
    {"name": "at night", "task": "sum_two_numbers", "args": "[2, 3]", "crontab": NIGHTLY},
    {
        "name": "switched off",
        "task": "sum_two_numbers",
        "enabled": False,
        "interval": {"every": 1, "period": "days"},
    },
]
SENT = {"multiply every 2 s", "sum every 3 s"}


def test_schedules_of_a_django_project(
    broker: str, prometheus: Callable[[str], Prometheus], tmp_path: Path
) -> None:
    """Sent by a real beat, run by a real worker; the alert fires when beat is stopped."""
    django = make_url(f"sqlite:///{tmp_path}/db.sqlite3")
    calculator = Calculator(
        folder=tmp_path,
        database=django,
        broker=broker,
        results=f"db+sqlite:///{tmp_path}/results.sqlite",
        settings={"beat_sync_every": 1, "result_expires": None},
    )
    calculator.schedule(*ENTRIES)
    config = {
        "defaults": FAST,
        "backends": [
            {
                "name": "shop",
                "result_backend": "db+sqlite:///results.sqlite",
                "timezone": "Europe/Paris",
                "beat_database": "sqlite:///db.sqlite3",
            }
        ],
    }
    with calculator.worker(), running(tmp_path, config, program=QUICK_LOOKS) as exporter:
        watching = prometheus(SCRAPE_EVERY_SECOND % exporter.address + _rules(tmp_path))
        with calculator.beat():
            _wait_for_runs(exporter, 2)
            _assert_on_time(exporter)
            wait_until(lambda: len(_overdue(watching)) == 4, "Prometheus to have them")
            assert set(_overdue(watching).values()) == {0.0}
            assert watching.query(f'ALERTS{{alertname="{ALERT}"}}') == {}
        _let_pass(django, "-20 minutes")
        wait_until(lambda: _entries(watching.query(FIRING)) >= SENT, "the alert")
        late = exporter.scrape().value("celery_beat_entry_overdue_seconds", entry="sum every 3 s")
        assert late is not None
        assert 1180 < late < 1300
        assert "at night" not in _entries(watching.query(FIRING))
        assert "overdue of 5 schedules" in exporter.get("/status.json").body
        with calculator.beat():
            wait_until(lambda: not watching.query(FIRING), "the alert to end")


def _rules(folder: Path) -> str:
    """Return the alert as it is in deploy/, but that it does not wait for minutes."""
    groups = yaml.safe_load(ALERTS.read_text())["groups"]
    (rule,) = [rule for group in groups for rule in group["rules"] if rule["alert"] == ALERT]
    file = folder / "alerts.yml"
    rules = [rule | {"for": "1s"}]
    file.write_text(yaml.safe_dump({"groups": [{"name": "beat", "rules": rules}]}))
    return f'\nglobal: {{evaluation_interval: 1s}}\nrule_files: ["{file}"]\n'


def _wait_for_runs(exporter: Exporter, runs: int) -> None:
    exporter.wait_until(
        lambda: all(
            (exporter.scrape().value("celery_beat_entry_runs_total", entry=name) or 0) >= runs
            and exporter.scrape().value(
                "celery_beat_entry_last_success_timestamp_seconds", entry=name
            )
            for name in SENT
        ),
        f"{runs} runs",
    )


def _assert_on_time(exporter: Exporter) -> None:
    scrape = exporter.scrape()
    assert scrape.value("celery_beat_up") == 1
    assert scrape.value("celery_beat_entries") == 5
    assert scrape.value("celery_beat_entries_unreadable") == 0
    enabled = {
        labels["entry"]: (labels["task"], value)
        for labels, value in scrape.named("celery_beat_entry_enabled")
    }
    assert enabled == {
        entry["name"]: (entry["task"], float(entry.get("enabled", True))) for entry in ENTRIES
    }
    period = {
        labels["entry"]: value for labels, value in scrape.named("celery_beat_entry_period_seconds")
    }
    assert period == {
        "multiply every minute": 60,
        "multiply every 2 s": 2,
        "sum every 3 s": 3,
        "at night": 86_400,
    }
    next_run = scrape.value("celery_beat_entry_next_run_timestamp_seconds", entry="at night")
    assert next_run is not None
    assert next_run % 86_400 == 18 * 3600  # three in the night in Tokyo
    sums = scrape.value("celery_task_last_finished_timestamp_seconds", task="sum_two_numbers")
    name = "celery_beat_entry_last_success_timestamp_seconds"
    for entry in ("sum every 3 s", "at night", "switched off"):  # by task
        assert abs((scrape.value(name, entry=entry) or 0) - (sums or 0)) < 10
    assert scrape.value("celery_backend_up") == 1


def _overdue(prometheus: Prometheus) -> dict[str, float]:
    found = prometheus.query("celery_beat_entry_overdue_seconds")
    return {dict(labels)["entry"]: value for labels, value in found.items()}


def _entries(found: dict[frozenset[tuple[str, str]], float]) -> set[str]:
    return {dict(labels)["entry"] for labels in found}


def _let_pass(database: Any, how_long: str) -> None:
    """Make it so that beat was stopped that long ago."""
    shifted = ", ".join(
        f"{column} = strftime('%Y-%m-%d %H:%M:%f', {column}, '{how_long}')"
        for column in ("last_run_at", "date_changed")
    )
    engine = create_engine(database, poolclass=NullPool)
    with engine.begin() as connection:
        connection.execute(text(f"UPDATE django_celery_beat_periodictask SET {shifted}"))
