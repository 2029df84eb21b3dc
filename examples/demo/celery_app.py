"""A small shop that runs on Celery: its tasks end in every way a task can end.

Configured by Celery's own environment variables, CELERY_BROKER_URL and CELERY_RESULT_BACKEND;
without them, by files in the folder DEMO_DIR. DEMO_SETTINGS (JSON) overrides any Celery setting,
e.g. '{"result_extended": false, "database_table_names": {"task": "shop_taskmeta"}}'.
"""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING

from celery import Celery, chain, chord, group
from kombu.transport import TRANSPORT_ALIASES

if TYPE_CHECKING:
    from celery import Task

folder = Path(os.environ.get("DEMO_DIR", ".")).resolve()

TRANSPORT_ALIASES["folder"] = "folder_broker:Transport"

app = Celery("shop")
app.conf.update(
    broker_url="folder://",
    broker_transport_options={
        "data_folder_in": str(folder / "queue"),
        "data_folder_out": str(folder / "queue"),
        "control_folder": str(folder / "control"),
        "polling_interval": 0.1,
    },
    result_backend=f"db+sqlite:///{folder}/results.sqlite",
    result_extended=True,
    task_track_started=True,
    task_default_queue="orders",
    task_routes={"reports.*": {"queue": "reports"}, "images.*": {"queue": "reports"}},
    broker_connection_retry_on_startup=True,
)
app.conf.update(json.loads(os.environ.get("DEMO_SETTINGS", "{}")))


class AddressRejectedError(Exception):
    """The mail server does not know the address."""


FAILURES = {
    failure.__name__: failure for failure in (AddressRejectedError, TimeoutError, ValueError)
}


@app.task(name="orders.place")
def place_order(items: int = 1) -> int:
    """Succeed at once."""
    return items


@app.task(name="mail.send")
def send_mail(failure: str | None = None) -> str:
    """Succeed, or fail with one of FAILURES."""
    if failure is not None:
        raise FAILURES[failure](f"cannot send: {failure}")
    return "sent"


@app.task(
    name="payments.charge",
    bind=True,
    autoretry_for=(ConnectionError,),
    max_retries=2,
    default_retry_delay=1,
)
def charge(self: Task, outages: int = 0) -> int:
    """Retry while the bank is out; with more than two outages, fail."""
    if self.request.retries < outages:
        raise ConnectionError("the bank does not answer")
    return self.request.retries


@app.task(name="reports.build", bind=True)
def build_report(self: Task, pages: int = 3, seconds_per_page: float = 1.0) -> int:
    """Report progress in a state of its own."""
    for page in range(pages):
        self.update_state(state="PROGRESS", meta={"page": page, "pages": pages})
        time.sleep(seconds_per_page)
    return pages


@app.task(name="reports.archive")
def archive_reports(seconds: float = 8.0) -> None:
    """Be seen STARTED for a while."""
    time.sleep(seconds)


@app.task(name="images.resize")
def resize_image(width: int) -> int:
    """Be one of many in a group or chord."""
    return width


@app.task(name="images.publish")
def publish_images(widths: list[int]) -> int:
    """End a chord."""
    return len(widths)


@app.task(name="images.import")
def import_image(widths: tuple[int, ...] = (320, 640, 1280)) -> str:
    """Start a chord: its body runs when every width is there."""
    return chord([resize_image.s(width) for width in widths])(publish_images.s()).id


@app.task(name="newsletters.send")
def send_newsletter(readers: int = 4) -> str:
    """Start a group and save it: the only thing that writes to Celery's table of groups."""
    mails = group([send_mail.s() for _ in range(readers)]).apply_async()
    mails.save()
    return mails.id


@app.task(name="orders.fulfil")
def fulfil_order() -> str:
    """Start a chain whose second link fails: Celery marks the third as failed, too."""
    links = chain(place_order.si(), send_mail.si("TimeoutError"), build_report.si())
    return links.apply_async().id


@app.task(name="orders.withdraw")
def withdraw_order(delay: float = 2.0) -> str:
    """Revoke a task before it is due."""
    order = place_order.apply_async(countdown=delay)
    app.control.revoke(order.id)
    return order.id


def _every(seconds: float, task: Task, *args: object, **options: object) -> dict[str, object]:
    return {"task": task.name, "schedule": seconds, "args": args, "options": options}


app.conf.beat_schedule = {
    "an order": _every(1, place_order),
    "a mail": _every(2, send_mail),
    "a mail to nobody": _every(7, send_mail, "AddressRejectedError"),
    "a mail to a slow server": _every(11, send_mail, "TimeoutError"),
    "a payment": _every(3, charge),
    "a payment, second try": _every(5, charge, 1),
    "a payment that fails": _every(9, charge, 9),
    "a report": _every(6, build_report),
    "the archive": _every(31, archive_reports),
    "an image": _every(7, import_image),
    "a newsletter": _every(10, send_newsletter),
    "an order that gets stuck": _every(12, fulfil_order),
    "an order withdrawn": _every(8, withdraw_order),
    "an order that expires": _every(13, place_order, countdown=3, expires=1),
}
