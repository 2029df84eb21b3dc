"""A shop's Celery app. It notes which process has loaded it, and with which words in its view."""

import json
import os
import sys
from datetime import timedelta
from pathlib import Path

from celery import Celery
from celery.schedules import crontab, solar

_FOLDER = Path(os.environ["SHOP_FOLDER"])

print("The shop opens.")  # noqa: T201 - as apps do
with (_FOLDER / "loaded").open("a") as notes:
    notes.write(f"{json.dumps([os.getpid(), sys.orig_argv, dict(os.environ)])}\n")

app = Celery("shop")
app.conf.update(
    result_backend=(_FOLDER / "result_backend").read_text(),
    result_extended=True,
    database_table_names={"task": "shop_taskmeta", "group": "shop_groupmeta"},
    timezone="Asia/Tokyo",
    beat_schedule={
        "nightly": {"task": "shop.celery.add", "schedule": crontab(hour=3, minute=0)},
        "sunset": {"task": "shop.celery.add", "schedule": solar("sunset", 35.68, 139.69)},
    },
)


@app.on_after_finalize.connect
def plan(sender: Celery, **_: object) -> None:
    sender.add_periodic_task(timedelta(minutes=5), add.s(17, 4))


@app.task
def add(x: int, y: int) -> int:
    return x + y
