"""`check`: what is there, in the order of the file, whatever is wrong with one of them."""

from __future__ import annotations

import re
import threading
from typing import TYPE_CHECKING

import pytest

from exporter.check import check
from exporter.config import Backend, Config, from_url
from exporter.parallel import AT_ONCE, in_order
from tests.counting.follow import create_tables, insert
from tests.servers.database import SQLite

if TYPE_CHECKING:
    from pathlib import Path


def backend(url: str, name: str, **settings: object) -> Backend:
    return from_url(url, name=name, **settings).backends[0]


def checked(capsys: pytest.CaptureFixture[str], *backends: Backend) -> tuple[int, str]:
    code = check(Config(backends, None, 0.0))
    return code, capsys.readouterr().out


def test_one_backend_hides_no_other(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Neither a wrong option nor a file that is none, whichever comes first."""
    folder = tmp_path / "folder"
    folder.mkdir()
    with SQLite(tmp_path).fresh_database() as database:
        with create_tables(database).begin() as connection:
            insert(connection)
        url = database.reader_url
        code, out = checked(
            capsys,
            backend(url, "option", database_engine_options={"ecco": True}),
            backend(url, "argument", database_engine_options={"connect_args": {"tiemout": 3}}),
            backend(f"sqlite:///{folder}", "folder"),
            backend(url, "well"),
        )
    assert code == 1
    heads = re.findall(r"^backend .*$", out, re.MULTILINE)
    assert heads == [
        "backend option: FAILED",
        "backend argument: FAILED",
        "backend folder: FAILED",
        "backend well: ok",
    ]
    assert "backends[option].database_engine_options" in out
    assert "tiemout" in out
    assert out.endswith("4 backends, 3 failed: option, argument, folder\n")


def test_many_at_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """In the order of the file; the summary names some."""
    backends = [backend(f"sqlite:///{tmp_path}/{n}.sqlite", f"b{n}") for n in range(100)]
    code, out = checked(capsys, *backends)
    assert code == 1
    assert re.findall(r"^backend (b\d+): FAILED$", out, re.MULTILINE) == [b.name for b in backends]
    assert out.endswith(
        "100 backends, 100 failed: b0, b1, b2, b3, b4, b5, b6, b7, b8, b9 and 90 more\n"
    )


def test_slow_servers_are_waited_for_together() -> None:
    """As many as there may be at once meet here; one after the other they never would."""
    meeting = threading.Barrier(AT_ONCE, timeout=30)

    def work(item: int) -> int:
        meeting.wait()
        return item

    assert list(in_order(work, range(2 * AT_ONCE))) == list(range(2 * AT_ONCE))
