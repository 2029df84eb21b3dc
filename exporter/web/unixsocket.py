"""A unix socket to listen on: its file, who may connect, and what was left of one."""

from __future__ import annotations

import errno
import os
import socket
import stat
from contextlib import closing, suppress
from pathlib import Path

_BACKLOG = 128
_OWNER_AND_GROUP = 0o660  # to connect takes the right to write; whatever the umask is


class UnixSocket(socket.socket):
    """A listening socket that takes its file with it."""

    def __init__(self, path: str) -> None:
        super().__init__(socket.AF_UNIX)
        self._path = Path(path)
        self._file: os.stat_result | None = None
        try:
            self.bind(path)
            self._file = self._path.lstat()
            self._path.chmod(_OWNER_AND_GROUP)  # before anybody can connect
            self.listen(_BACKLOG)
        except OSError:
            self.close()
            raise
        self.settimeout(0)

    def close(self) -> None:
        """Remove the file, unless it is another's by now; then close."""
        file, self._file = self._file, None
        if file is not None:
            with suppress(OSError):
                if os.path.samestat(file, self._path.lstat()):
                    self._path.unlink()
        super().close()


def listen_at(path: str) -> UnixSocket:
    """Listen at a path, also where a process that was killed has left its socket."""
    with suppress(FileNotFoundError):
        if not stat.S_ISSOCK(os.lstat(path).st_mode):
            raise FileExistsError(errno.EEXIST, "")
        if _somebody_listens(path):
            raise OSError(errno.EADDRINUSE, "")
        Path(path).unlink()
    return UnixSocket(path)


def _somebody_listens(path: str) -> bool:
    with closing(socket.socket(socket.AF_UNIX)) as client:
        client.settimeout(0)
        try:
            client.connect(path)
        except ConnectionRefusedError:
            return False
        except BlockingIOError:  # too many wait to be accepted
            pass
    return True
