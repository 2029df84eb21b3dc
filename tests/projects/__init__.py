"""A Celery app and a Django project, to be loaded by child processes, and where they are."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.acceptance.process import environment
from tests.djangoshop import access

if TYPE_CHECKING:
    from tests.servers.database import Database

#: What finds the projects, and this checkout's exporter, whatever is installed.
PYTHONPATH = os.pathsep.join(map(str, (Path(__file__).parent, Path(__file__).parents[2])))


class Shop:
    """The shop, whose app keeps its results where it is told."""

    def __init__(self, folder: Path, result_backend: str) -> None:
        self.folder = folder
        self.move_to(result_backend)
        self.env = {"SHOP_FOLDER": str(folder), "PYTHONPATH": PYTHONPATH}

    def move_to(self, result_backend: str) -> None:
        """Change its result_backend."""
        (self.folder / "result_backend").write_text(result_backend)

    def store(self, *states: str) -> None:
        """Let the app store results of its task."""
        code = (
            "from shop.celery import add, app; from celery.app.task import Context; import uuid\n"
            "request = Context(task=add.name, hostname='w1@host', delivery_info={}, retries=0)\n"
            f"for state in {states}:\n"
            "    result = ValueError() if state == 'FAILURE' else 1\n"
            "    app.backend.store_result(str(uuid.uuid4()), result, state, request=request)"
        )
        subprocess.run(
            [sys.executable, "-c", code],
            env=environment(self.env),
            stdout=subprocess.DEVNULL,
            check=True,
        )

    def loads(self) -> dict[int, list[tuple[list[str], dict[str, str]]]]:
        """Return which processes have loaded the app, with their arguments and variables."""
        loads: dict[int, list[tuple[list[str], dict[str, str]]]] = {}
        for line in (self.folder / "loaded").read_text().splitlines():
            pid, arguments, variables = json.loads(line)
            loads.setdefault(pid, []).append((arguments, variables))
        return loads


def bookshop(folder: Path, **settings: Any) -> dict[str, str]:
    """Write the bookshop's settings, and return the variables that find them."""
    file = folder / "settings.json"
    file.write_text(json.dumps(settings))
    return {"BOOKSHOP_SETTINGS": str(file), "PYTHONPATH": PYTHONPATH}


def of_django(database: Database) -> dict[str, Any]:
    """Return the reader's access to a database as Django's DATABASES have it."""
    return access(database.reader)
