"""The file of a unix socket: made, left behind, taken over, removed."""

from __future__ import annotations

import errno
import os
import socket
import stat
from typing import TYPE_CHECKING

import pytest

from exporter.web.unixsocket import listen_at

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "exporter.sock"


@pytest.fixture(params=[0o000, 0o022, 0o177])
def umask(request: pytest.FixtureRequest) -> Iterator[None]:
    before = os.umask(request.param)
    yield
    os.umask(before)


@pytest.mark.usefixtures("umask")
def test_owner_and_group_may_connect(path: Path) -> None:
    with listen_at(str(path)):
        assert stat.S_IMODE(path.stat().st_mode) == 0o660


def test_it_goes_with_the_socket(path: Path) -> None:
    with listen_at(str(path)) as sock:
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(path))
        sock.accept()[0].close()
    assert not path.exists()
    sock.close()


def test_one_that_was_left_is_replaced(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as killed:
        killed.bind(str(path))
        killed.listen()
    assert path.exists()
    with listen_at(str(path)), socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))


def test_one_in_use_is_left_alone(path: Path) -> None:
    """Even by a process that is too busy to accept."""
    with socket.socket(socket.AF_UNIX) as busy:
        busy.bind(str(path))
        busy.listen(0)
        for _ in range(3):
            with pytest.raises(OSError) as caught:  # noqa: PT011 (its number is compared)
                listen_at(str(path))
            assert caught.value.errno == errno.EADDRINUSE
        assert path.exists()


def test_what_is_another_s_by_now_is_left_alone(path: Path) -> None:
    with listen_at(str(path)) as sock:
        path.unlink()
        path.write_text("precious")
        sock.close()
    assert path.read_text() == "precious"


def test_folder_that_may_not_be_written(tmp_path: Path) -> None:
    """Nothing is left open (else pytest would complain of it)."""
    with pytest.raises(FileNotFoundError):
        listen_at(str(tmp_path / "none" / "exporter.sock"))
