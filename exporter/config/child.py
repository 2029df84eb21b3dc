"""Asks what user code says, in a process of its own, since it is never loaded into ours."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterable
from contextlib import ExitStack, suppress
from typing import Any, Literal, NamedTuple, Self

Answer = dict[str, Any]  # see celery_results_exporter.answers

LONGEST = 30.0  # seconds
_LARGEST = 64 * 1024  # bytes, of all lines
_LINES = {"celery": 2, "django": 1}  # an app answers with its settings, then with its schedule
_AT_ONCE = 8


class Question(NamedTuple):
    """What to read: an app, or the settings of a project and perhaps one of their databases."""

    kind: Literal["celery", "django"]
    name: str
    database: str = ""


def ask(questions: Iterable[Question], within: float = LONGEST) -> dict[Question, Answer]:
    """Return the answer to each; none takes longer than this."""
    wanted = list(dict.fromkeys(questions))
    answers: dict[Question, Answer] = {}
    for first in range(0, len(wanted), _AT_ONCE):
        some = wanted[first : first + _AT_ONCE]
        with ExitStack() as ending:
            children = [ending.enter_context(_Child(question, within)) for question in some]
            answers |= {one: child.answer() for one, child in zip(some, children, strict=True)}
    return answers


def inherited(pipe: int) -> Answer:
    """Read the answer that whoever started us has left in a pipe."""
    with open(pipe, "rb") as file:
        return _read(file.read(_LARGEST))


class _Child:
    """A process that loads user code, answers, and is ended with all that it has started."""

    def __init__(self, question: Question, within: float) -> None:
        self._within = within
        self._lines = _LINES[question.kind]
        self._deadline = time.monotonic() + within
        self._pipe, end = os.pipe()
        with ExitStack() as on_failure:
            on_failure.callback(os.close, self._pipe)
            try:
                # -P, or this folder's own modules would be taken for ours and Python's. What the
                # code prints is nobody's answer.
                self._process = subprocess.Popen(  # noqa: S603 - our own, without a shell
                    [sys.executable, "-P", "-m", "celery_results_exporter", *question, str(end)],
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                    pass_fds=(end,),
                    start_new_session=True,
                )
            finally:
                os.close(end)
            on_failure.pop_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._pipe)
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()

    def answer(self) -> Answer:
        """Wait for it."""
        told = b""
        poll = select.poll()
        poll.register(self._pipe, select.POLLIN)
        while told.count(b"\n") < self._lines:
            left = self._deadline - time.monotonic()
            if left <= 0 or not poll.poll(left * 1000):
                return _broken_off(told, f"is not imported within {self._within:g} s")
            piece = os.read(self._pipe, _LARGEST)
            told += piece
            if not piece or len(told) > _LARGEST:
                return _broken_off(told, f"{self._end()} when it is imported")
        return _read(told)

    def _end(self) -> str:
        """Say how it ended without an answer."""
        try:
            code = self._process.wait(1.0)
        except subprocess.TimeoutExpired:
            return "closes the pipe it should answer through"
        how = f"exit code {code}" if code >= 0 else signal.Signals(-code).name
        return f"ends the process ({how})"


def _broken_off(told: bytes, fault: str) -> Answer:
    """Return what was told before it broke off: settings count without a schedule."""
    settings, newline, _ = told.partition(b"\n")
    return {**_read(settings), "beat": {"fault": fault}} if newline else {"fault": _instead(fault)}


def _instead(fault: str) -> str:
    return f"{fault}; give the URL of its database instead"


def _read(told: bytes) -> Answer:
    """Put together what the lines say."""
    answer: Answer = {}
    try:
        for line in told.splitlines():
            answer |= json.loads(line)
    except (ValueError, TypeError, RecursionError):
        answer = {}
    return answer or {"fault": _instead("gives no answer")}
