"""No password is ever shown, however it was given and whatever becomes of the connection."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, quote_plus

import pytest

from tests.acceptance.process import (
    FAST,
    OPENMETRICS,
    refusal,
    run,
    running,
    without_password,
    write,
)
from tests.follow import create_tables, insert
from tests.servers.database import READER_PASSWORD
from tests.servers.process import free_port

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from sqlalchemy import URL

    from tests.servers.mariadb import MariaDB
    from tests.servers.postgresql import PostgreSQL

#: Of nobody: with all that URLs, YAML, quotes, drivers and JSON trip over.
WRONG_PASSWORD = 'it\'s "w/r@ng" \\ {100%} ${X} <&;=?#+> é'  # noqa: S105
#: Of somebody whose name it is as well, so that servers tell it to us.
NAMESAKE = "s3cr@t/n4me"
SECRETS = (READER_PASSWORD, WRONG_PASSWORD, NAMESAKE)
WAYS = ("url", "variable", "whole", "file", "password_file", "options")


class Settings:
    """The configuration of many backends, and what it needs beside it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.backends: list[dict[str, Any]] = []
        self.env: dict[str, str] = {}

    def add(self, name: str, way: str, url: URL) -> None:
        """Add a backend whose password is given in this way."""
        key = name.upper().replace("-", "_")
        whole, password = url.render_as_string(hide_password=False), str(url.password)
        bare = without_password(url)
        file = self.folder / name
        backend: dict[str, Any] = {"name": name}
        match way:
            case "url":
                backend["result_backend"] = f"db+{whole}"
            case "variable":
                self.env[key] = password
                backend["result_backend"] = bare.replace("@", f":${{{key}}}@")
            case "whole":
                self.env[key] = whole
                backend["result_backend"] = f"${{{key}}}"
            case "file":
                file.write_text(f"{whole}\n")
                backend["result_backend_file"] = name
            case "password_file":
                file.write_text(f"{password}\n")
                backend |= {"result_backend": bare, "password_file": name}
            case "options":
                backend["result_backend"] = bare
                backend["database_engine_options"] = {
                    "connect_args": {"password": password.replace("${", "$${")}
                }
        self.backends.append(backend)

    def write(self) -> Path:
        """Write the configuration file."""
        return write(self.folder, self.config)

    @property
    def config(self) -> dict[str, Any]:
        return {"defaults": FAST | {"poll_interval": "1s"}, "backends": self.backends}


@pytest.fixture
def settings(
    postgresql: PostgreSQL, mariadb: MariaDB, tmp_path: Path
) -> Iterator[tuple[Settings, set[tuple[str]]]]:
    """Give backends for each driver, way and fate; and the names of those that work."""
    settings, working = Settings(tmp_path), set()
    closed = free_port()
    with (
        postgresql.fresh_database() as elephant,
        mariadb.fresh_database("mysql+pymysql") as seal,
        mariadb.fresh_database("mysql+mysqldb") as dolphin,
    ):
        for database in (elephant, seal, dolphin):
            with create_tables(database).begin() as connection:
                insert(connection, "FAILURE")
            right = database.reader
            wrong = right.set(username="nobody", password=WRONG_PASSWORD)
            for way in WAYS:
                prefix = f"{right.get_driver_name()}-{way}"
                settings.add(f"{prefix}-works", way, right)
                settings.add(f"{prefix}-nowhere", way, right.set(database="nosuch"))
                settings.add(f"{prefix}-wrong", way, wrong)
                settings.add(
                    f"{prefix}-named", way, right.set(username=NAMESAKE, password=NAMESAKE)
                )
                settings.add(f"{prefix}-refused", way, wrong.set(port=closed))
                working.add((f"{prefix}-works",))
        yield settings, working


def assert_no_secret(text: str) -> None:
    """Neither as it is nor as anything on the way to here may have written it."""
    for secret in SECRETS:
        written = {
            secret,
            quote(secret),
            quote(secret, safe=""),
            quote(secret, safe=" +"),
            quote_plus(secret),
            repr(secret)[1:-1],
            json.dumps(secret)[1:-1],
            json.dumps(secret, ensure_ascii=False)[1:-1],
            json.dumps(json.dumps(secret))[3:-3],
        }
        assert [form for form in written if form in text] == []


@pytest.mark.parametrize("log_format", ["logfmt", "json"])
def test_running_exporter_shows_no_password(
    settings: tuple[Settings, set[tuple[str]]], log_format: str, tmp_path: Path
) -> None:
    backends, working = settings
    flags = ("--log.level=debug", f"--log.format={log_format}")
    # Who debugs sees the traceback of each error.
    with running(tmp_path, backends.config, *flags, tracebacks=None, **backends.env) as exporter:
        exporter.wait_until(lambda: exporter.get("/-/ready").status == 200, "each was tried", 90)
        exporter.poll_again(1)
        assert exporter.scrape().sums("celery_backend_up", "backend").keys() == working
        for path, accept in (
            ("/metrics", "text/plain"),
            ("/metrics", OPENMETRICS),
            ("/", "text/html"),
            ("/status.json", "application/json"),
            ("/-/ready", "*/*"),
            ("/-/healthy", "*/*"),
        ):
            answer = exporter.get(path, accept)
            assert answer.status == 200
            assert_no_secret(answer.body)
        assert "nobody" in exporter.get("/").body  # whose passwords these are
    assert "nobody" in exporter.printed()
    assert_no_secret(exporter.printed())


@pytest.mark.parametrize("command", ["check", "once"])
def test_commands_show_no_password(
    settings: tuple[Settings, set[tuple[str]]], command: str
) -> None:
    backends, working = settings
    config = backends.write()
    ended = run(command, f"--config.file={config}", "--log.level=debug", **backends.env)
    assert ended.returncode == 1
    assert all(name in ended.stdout for (name,) in working)
    assert "nobody" in ended.stdout + ended.stderr
    assert_no_secret(ended.stdout + ended.stderr)


@pytest.mark.parametrize(
    "url",
    [
        "postgresql+psycopg://reader:hunter2@hunter3/hunter4@127.0.0.1/shop",
        "mysql+pymysql://reader:hunter2:hunter3@hunter4@127.0.0.1:port/shop",
        "mysql://reader:hunter2#hunter3/@127.0.0.1",
        "postgres://reader:hunter2@127.0.0.1/shop",
        "hunter2@127.0.0.1",
    ],
)
def test_url_that_cannot_be_read_is_not_shown(url: str) -> None:
    """A password that was not encoded becomes part of what follows it."""
    assert "hunter" not in refusal(CELERY_RESULT_BACKEND=url)
    assert "hunter" not in refusal(f"--celery.result-backend={url}")
