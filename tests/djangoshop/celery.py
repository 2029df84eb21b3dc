"""The Celery app of the shop, and its tasks."""

from __future__ import annotations

import time
from typing import Any

import django
from celery import Celery, chord, group

app = Celery("shop")
app.config_from_object("django.conf:settings", namespace="CELERY")
django.setup()


class Till:
    """A class that another one is in."""

    class Jammed(Exception):  # noqa: N818
        """With a signature of its own, so that it cannot be pickled."""

        def __init__(self, number: int, reason: str) -> None:
            super().__init__(f"{number} {reason}")


@app.task(name="shop.sell")
def sell(price: int = 1) -> int:
    """Succeed."""
    return price


@app.task(name="shop.count")
def count(seconds: float) -> None:
    """Take a while."""
    time.sleep(seconds)


@app.task(name="shop.refund")
def refund(kind: str) -> None:
    """Fail."""
    if kind == "Jammed":
        raise Till.Jammed(1, "drawer\nnot a class: ValueError")
    raise {"ValueError": ValueError, "KeyError": KeyError}[kind]("no")


@app.task(name="shop.order", bind=True, max_retries=3)
def order(self: Any, fails: int) -> None:
    """Succeed after so many retries."""
    if self.request.retries < fails:
        raise self.retry(countdown=0.2, exc=ConnectionError("wholesaler"))


@app.task(name="shop.close")
def close(_: Any = None) -> None:
    """End a chord."""


@app.task(name="shop.day")
def day() -> None:
    """Save a group, and begin a chord."""
    group(sell.s(1), sell.s(2)).apply_async(queue="orders").save()
    chord([sell.s(1).set(queue="orders"), sell.s(2).set(queue="orders")])(
        close.s().set(queue="orders")
    )
