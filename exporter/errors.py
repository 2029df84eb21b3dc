"""What can go wrong, in words for the person who meets it.

Every error says what is wrong, where, and what to do; none ever holds a URL or a password.
"""

from __future__ import annotations

from enum import StrEnum


class ExporterError(Exception):
    """Base of everything this package raises on purpose."""


class ConfigError(ExporterError):
    """The configuration cannot be used. Holds every fault found, one line each."""

    def __init__(self, faults: list[str]) -> None:
        super().__init__("\n".join(faults))
        self.faults = faults


MOST_FAULTS = 50  # shown; one mistake in a template is one in each of thousands of backends


def shown(faults: list[str]) -> list[str]:
    """Return as many as are shown, and how many more there are."""
    more = len(faults) - MOST_FAULTS
    return [*faults[:MOST_FAULTS], f"and {more:,} more"] if more > 0 else faults


class Reason(StrEnum):
    """Why a poll failed: the values of the ``reason`` label."""

    CONNECT = "connect"
    TIMEOUT = "timeout"
    QUERY = "query"
    SCHEMA = "schema"
    PERMISSION = "permission"
    CHECKPOINT = "checkpoint"
    ASSUMPTION = "assumption"  # the server does otherwise than what is taken for granted


class BackendError(ExporterError):
    """A backend could not be read. The poller logs it, backs off and tries again."""

    def __init__(self, reason: Reason, message: str, *, unexpected: bool = False) -> None:
        super().__init__(message)
        self.reason = reason
        self.unexpected = unexpected  # by nobody: its cause's traceback is worth a look


class CheckpointError(BackendError):
    """The checkpoint cannot be read or written: nothing is counted until it can."""

    def __init__(self, message: str, *, unexpected: bool = False) -> None:
        super().__init__(Reason.CHECKPOINT, message, unexpected=unexpected)


class BackendAbsent(BackendError):  # noqa: N818  # not an error yet
    """There is no database yet. Celery will create it: look again at the next poll."""

    def __init__(self, message: str) -> None:
        super().__init__(Reason.CONNECT, message)
