"""Its Celery app, for real workers and a real beat."""

import json
import os

from celery import Celery

app = Celery(
    "calculator",
    broker=os.environ["CELERY_BROKER_URL"],
    backend=os.environ.get("CELERY_RESULT_BACKEND"),
)
app.conf.update(
    result_extended=True,
    timezone="Europe/Paris",
    **json.loads(os.environ["CALCULATOR_SETTINGS"]),
)


@app.task(name="multiply_two_numbers")
def multiply_two_numbers(one: int, other: int) -> int:
    return one * other


@app.task(name="sum_two_numbers")
def sum_two_numbers(one: int, other: int) -> int:
    return one + other
