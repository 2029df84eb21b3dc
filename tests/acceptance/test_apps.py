"""The app, or Django's settings, say where the results are: from the start to a scrape."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

import pytest

from tests.acceptance.process import (
    FAST,
    environment,
    refusal,
    run,
    running,
)
from tests.acceptance.test_reload import ON, SUCCESSFUL, post
from tests.follow import create_tables, insert
from tests.projects import Shop, bookshop, of_django
from tests.servers.database import OWNER_PASSWORD, READER_PASSWORD, SQLite

if TYPE_CHECKING:
    from tests.acceptance.process import Exporter
    from tests.servers.database import Database

CELERY = (sys.executable, "-m", "celery", "--app=shop.celery", "results-exporter")
RESULTS = "celery_task_results_total"
#: What is known of the entries of the shop's beat.
SCHEDULE = {
    "nightly": {"enabled", "next_run_timestamp_seconds", "period_seconds"},
    "sunset": {"enabled", "next_run_timestamp_seconds", "period_seconds"},
    "shop.celery.add(…)": {"enabled", "period_seconds"},
    "celery.backend_cleanup": {"enabled", "next_run_timestamp_seconds", "period_seconds"},
}
IN_REDIS = "redis://:hunter2@db.example/0"
SECRETS = [
    form
    for one in (OWNER_PASSWORD, READER_PASSWORD, "hunter2")
    for form in (one, quote(one, safe=""))
]

on = pytest.mark.parametrize
on_two = on("database", ["sqlite", "postgresql"], indirect=True)
on_three = on("database", ["sqlite", "postgresql", "mariadb-mysqlclient"], indirect=True)


def assert_no_secret(*texts: str) -> None:
    assert [secret for secret in SECRETS if any(secret in text for text in texts)] == []


def schedule(exporter: Exporter) -> dict[str, set[str]]:
    """Return by entry of beat which metrics it has, but for its last success."""
    known: dict[str, set[str]] = {}
    for name, labels, _ in exporter.scrape().samples:
        if name.startswith("celery_beat_entry_") and "last_success" not in name:
            known.setdefault(labels["entry"], set()).add(name.removeprefix("celery_beat_entry_"))
    return known


def seen_by_ps(exporter: Exporter) -> str:
    folder = Path(f"/proc/{exporter.pid}")
    return ((folder / "cmdline").read_bytes() + (folder / "environ").read_bytes()).decode()


@on_two
def test_command_of_celery(database: Database, tmp_path: Path) -> None:
    """The app says where, under which names, in which zone; its process becomes the exporter."""
    shop = Shop(tmp_path, database.celery_url)
    shop.store("SUCCESS", "FAILURE", "STARTED")
    with running(tmp_path, None, "--log.level=debug", program=CELERY, **shop.env) as exporter:
        labels = {"backend": "shop", "task": "shop.celery.add", "worker": "w1@host"}
        exporter.wait_for("celery_task_unfinished", 1, state="STARTED", **labels)
        oldest = "celery_backend_oldest_result_timestamp_seconds"
        if database.owner.get_backend_name() == "sqlite":  # else it is not the app's to say
            exporter.wait_until(lambda: exporter.scrape().value(oldest, table="task"), oldest)
            told = exporter.scrape().value(oldest, table="task")
            assert told == pytest.approx(time.time(), abs=99)
        exporter.wait_until(lambda: schedule(exporter), "its schedule")
        assert schedule(exporter) == SCHEDULE
        # Before it became the exporter, and not again since.
        ((arguments, _),) = shop.loads()[exporter.pid]
        assert "results-exporter" in arguments
        assert "-m\0exporter\0--celery.settings-fd=" in seen_by_ps(exporter)
        assert_no_secret(seen_by_ps(exporter), exporter.printed())


def test_command_of_celery_takes_all_flags(tmp_path: Path) -> None:
    """What is wrong is said as ever: in one line, once the app has printed what it likes."""
    with SQLite(tmp_path).fresh_database() as database:
        shop = Shop(tmp_path, database.celery_url)
        (tmp_path / "exporter.py").write_text(
            "raise SystemExit(1)  # not ours, though it stands here"
        )
        shop.store("SUCCESS")
        checked = by_celery(shop, "check", "--log.format=json")
        assert (checked.returncode, checked.stderr) == (0, "")
        assert checked.stdout.startswith("The shop opens.\nbackend shop: ok\n")
        assert "Usage: celery-results-exporter" in by_celery(shop, "--help").stdout
        shop.move_to(IN_REDIS)
        for flags, expected in (
            ((), "celery --app: has its results in 'redis', which is no SQL database; "),
            (("--config.file=x",), "--config.file and celery --app exclude each other\n"),
        ):
            refused = by_celery(shop, *flags)
            assert refused.returncode == 2
            assert refused.stderr.startswith(f"celery-results-exporter: error: {expected}")
            assert refused.stderr.count("\n") == 1
            assert_no_secret(refused.stderr)


def by_celery(shop: Shop, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*CELERY, *arguments],
        capture_output=True,
        text=True,
        cwd=shop.folder,
        env=environment(shop.env),
        timeout=60,
        check=False,
    )


@on_two
def test_app_in_a_file(database: Database, tmp_path: Path) -> None:
    """Another process asks it, at each reload again; one that cannot be used changes nothing."""
    shop = Shop(tmp_path, database.celery_url)
    shop.store("SUCCESS", "SUCCESS")
    entry = {"celery_app": "shop.celery:app"} | FAST
    if database.server is not None:  # the reader's rights are enough
        (tmp_path / "password").write_text(READER_PASSWORD)
        entry |= {"username": "reader", "password_file": "password"}
        entry["timezone"] = "UTC"  # the server's: not the app's to say
    with running(tmp_path, {"backends": [entry]}, ON, "--log.level=debug", **shop.env) as exporter:
        exporter.wait_for(RESULTS, 2, backend="shop", state="SUCCESS")
        exporter.wait_until(lambda: schedule(exporter), "its schedule")
        scrape = exporter.scrape()
        assert schedule(exporter) == SCHEDULE
        assert scrape.value("celery_beat_entries") == 4
        next_run = scrape.value("celery_beat_entry_next_run_timestamp_seconds", entry="nightly")
        assert (next_run or 0) % 86_400 == 18 * 3600  # three in the night in Tokyo
        success = "celery_beat_entry_last_success_timestamp_seconds"
        assert scrape.value(success, entry="nightly") == pytest.approx(time.time(), abs=99)
        shop.move_to(IN_REDIS)
        answer = post(exporter)
        said = "backends[0].celery_app: has its results in 'redis', which is no SQL database; "
        assert (answer.status, said in answer.body) == (500, True)
        exporter.wait_for_log("the configuration was not reloaded", said)
        assert exporter.scrape().value(SUCCESSFUL) == 0
        shop.move_to(database.celery_url)
        shop.store("SUCCESS")
        exporter.wait_for(RESULTS, 3, backend="shop", state="SUCCESS")
        assert post(exporter).status == 200
        loads = shop.loads()
        assert exporter.pid not in loads
        asked = [each for of_one in loads.values() for each in of_one if "-c" not in each[0]]
        assert len(asked) == 3
        for arguments, variables in asked:
            assert "celery_results_exporter" in arguments
            assert_no_secret(*arguments, *variables.values())
        assert_no_secret(seen_by_ps(exporter), exporter.printed(), answer.body)


@on_three
def test_settings_of_django(database: Database, tmp_path: Path) -> None:
    with create_tables(database).begin() as connection:
        insert(connection)
    env = bookshop(tmp_path, DATABASES={"default": of_django(database)})
    checked = run("check", "--django-settings=bookshop.settings", **env)
    assert (checked.returncode, checked.stderr) == (0, "")
    assert checked.stdout.startswith("backend bookshop: ok\n")
    assert_no_secret(checked.stdout)


def test_settings_of_django_that_are_not_there() -> None:
    line = refusal("--django-settings=no_such.settings")
    assert (
        "--django-settings: cannot be read: ModuleNotFoundError: No module named 'no_such'" in line
    )
    line = refusal(CELERY_RESULTS_EXPORTER_DJANGO_SETTINGS="https://hunter2")
    assert "CELERY_RESULTS_EXPORTER_DJANGO_SETTINGS: is no module; write it like" in line
    line = refusal("--celery.settings-fd=77")
    assert "celery --app: nothing was handed over: Bad file descriptor" in line
