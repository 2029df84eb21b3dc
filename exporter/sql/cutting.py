"""Ends a wait for a server by cutting the connection's socket, from another thread.

Drivers wait as long as bytes come, however slowly, and keep in memory all that comes.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from exporter.errors import BackendError, Reason
from exporter.sql.alarm import alarm

# A chunk of the largest labels takes half of it: what takes more was not asked for.
MOST_GROWTH = 256 * 1024**2  # bytes, while one waits

_STATM = Path("/proc/self/statm")  # proc(5); elsewhere memory is not watched


@contextmanager
def cut_off(descriptor: int, seconds: float) -> Iterator[None]:
    """Cut a socket when what is inside takes longer, or when the process grows too much meanwhile.

    Raises BackendError for the latter; for the former the driver has its own words.
    """
    most = resident() + MOST_GROWTH
    flooded = False

    def look(*, late: bool) -> bool:
        nonlocal flooded
        flooded = resident() > most
        if late or flooded:
            with suppress(OSError):
                handle.shutdown(socket.SHUT_RDWR)
        return flooded

    with socket.socket(fileno=os.dup(descriptor)) as handle, alarm(seconds, look):
        try:
            yield
        except Exception as error:
            if flooded:
                raise BackendError(
                    Reason.QUERY,
                    f"the server's answer took more than {MOST_GROWTH // 1024**2} MiB of memory; "
                    "it is not one to what was asked",
                ) from error
            raise


def resident() -> int:
    """Return the bytes of memory that the process takes; 0 where the system does not tell."""
    try:
        return int(_STATM.read_bytes().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return 0
