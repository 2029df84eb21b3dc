"""A Django project that keeps its Celery results in its own database."""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sqlalchemy import make_url

from tests.servers.forkserver import DJANGO

if TYPE_CHECKING:
    from sqlalchemy import URL

ROOT = Path(__file__).parents[2]
ENGINES = {"sqlite": "sqlite3", "postgresql": "postgresql", "mysql": "mysql"}
SHOP = "DJANGO_SHOP"  # the variable that tells `settings` what a test wants otherwise


def environment(url: URL | str, **settings: Any) -> dict[str, str]:
    """Return the variables of a process of this project, whose settings may be set otherwise."""
    settings["DATABASES"] = {"default": database(make_url(url))}
    told = {SHOP: json.dumps(settings), "DJANGO_SETTINGS_MODULE": f"{__name__}.settings"}
    return {**os.environ, **told, "PYTHONPATH": str(ROOT)}


def database(url: URL) -> dict[str, Any]:
    """Return an entry of Django's DATABASES, for several processes that write at once.

    With SQLite's own mode of transactions, two that have read and want to write fail at once.
    """
    sqlite = url.get_backend_name() == "sqlite"
    waiting = {"timeout": 60, "transaction_mode": "IMMEDIATE"} if sqlite else {}
    return {**access(url), "OPTIONS": waiting}


def access(url: URL) -> dict[str, Any]:
    """Return what DATABASES say of where a database is, and of the account."""
    kind = url.get_backend_name()
    return {
        "ENGINE": f"django.db.backends.{ENGINES[kind]}",
        "NAME": url.database,
        "USER": url.username or "",
        "PASSWORD": url.password or "",
        "HOST": url.host or "",
        "PORT": url.port or "",
    }


def migrate(url: URL | str, to: str = "", **settings: Any) -> None:
    """Make the tables, or bring them to a migration."""
    command = ("migrate", "django_celery_results", *to.split())
    with tempfile.TemporaryFile() as log:
        files = log.fileno(), log.fileno()
        code = DJANGO.start(command, *files, environment(url, **settings)).wait(60)
        log.seek(0)
        assert code == 0, log.read().decode()
