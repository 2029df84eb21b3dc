"""A folder as the broker: kombu's filesystem transport, one process at a time.

kombu itself opens a file before it locks and writes it, so another process may read a message, or a
table of bindings, that is still empty; the worker then ends with JSONDecodeError.
"""

from __future__ import annotations

import fcntl
from collections.abc import Callable
from functools import wraps
from typing import Any, TypeVar

from kombu.transport import filesystem

Answer = TypeVar("Answer")


def _alone(method: Callable[..., Answer]) -> Callable[..., Answer]:
    @wraps(method)
    def locked(self: Channel, *args: Any, **kwargs: Any) -> Answer:
        with self.control_folder.joinpath("lock").open("wb") as file:  # closing it unlocks it
            fcntl.flock(file, fcntl.LOCK_EX)
            return method(self, *args, **kwargs)

    return locked


class Channel(filesystem.Channel):
    """Whatever reads or writes files of the broker."""

    _get = _alone(filesystem.Channel._get)  # noqa: SLF001
    _put = _alone(filesystem.Channel._put)  # noqa: SLF001
    _queue_bind = _alone(filesystem.Channel._queue_bind)  # noqa: SLF001
    _delete = _alone(filesystem.Channel._delete)  # noqa: SLF001
    get_table = _alone(filesystem.Channel.get_table)


class Transport(filesystem.Transport):
    """The transport of ``folder://``."""

    Channel = Channel
