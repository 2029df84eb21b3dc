"""Whatever comes in: an error of one line, or an answer; never a traceback, never the end."""

from __future__ import annotations

import contextlib
import socket
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families
from sqlalchemy import text

from exporter.checkpoint.checkpoint import open_file
from exporter.config import loading
from exporter.errors import ConfigError
from exporter.exposition.formats import Format
from exporter.web import webconfig
from tests.acceptance.process import one_backend, run, running, write
from tests.follow import Follower, create_tables, insert
from tests.servers.database import SQLite
from tests.soak.sizes import LONG

if TYPE_CHECKING:
    from collections.abc import Callable

Input = TypeVar("Input")
SECONDS = 150.0 if LONG else 2.0  # of each of the four
TESTS = Path(__file__).parents[1]
HOSTILE = [
    "\x00", "\ud800", "\x1b[31m", "\u202e", "\r\n", "'", '"', "\\", "{", "}", "${", "${X}", "&a",
    "*a", "<<", "!!python/object:os.system", "- ", ": ", "#", "0x10", "1e400", "-1", "~", "%", "[",
    "]", "9" * 400, "a" * 5000, "\ufeff", "\t", "2026-11-26", "yes",
]  # fmt: skip


def fuzz(name: str, inputs: st.SearchStrategy[Input], check: Callable[[Input], None]) -> None:
    """Try inputs for so long; say how many it were."""
    tried = 0

    @settings(max_examples=200, deadline=None, database=None, suppress_health_check=[*HealthCheck])
    @given(inputs)
    def attempt(one: Input) -> None:
        nonlocal tried
        tried += 1
        check(one)

    until = time.monotonic() + SECONDS
    while time.monotonic() < until:
        attempt()
    print(f"{name}: {tried} inputs")  # noqa: T201 - the figures, shown with -s
    assert tried


@st.composite
def edited(draw: st.DrawFn, texts: list[str]) -> str:
    """Return one of the texts after some edits: lines and words come, go and change places."""
    lines = draw(st.sampled_from(texts)).splitlines(keepends=True)
    words = [word for line in lines for word in line.split()] + HOSTILE
    some = st.sampled_from(words) | st.text(max_size=20)
    for _ in range(draw(st.integers(1, 6))):
        if not lines:
            break
        where = draw(st.integers(0, len(lines) - 1))
        line = lines[where]
        match draw(st.integers(0, 5)):
            case 0:
                del lines[where]
            case 1:
                lines.insert(draw(st.integers(0, len(lines) - 1)), line)
            case 2:
                lines[where] = line.replace(draw(st.sampled_from(words)), draw(some))
            case 3:
                at = draw(st.integers(0, len(line)))
                lines[where] = line[:at] + draw(some) + line[at:]
            case 4:
                lines[where] = " " * draw(st.integers(0, 8)) + line.lstrip(" ")
            case _:
                lines[where] = line[: draw(st.integers(0, len(line)))]
    return "".join(lines)


def texts_of(pattern: str) -> list[str]:
    return [path.read_text(encoding="utf-8", errors="replace") for path in TESTS.glob(pattern)]


@pytest.mark.parametrize(
    ("name", "corpus", "load"),
    [
        ("YAML", "config/*/*.yaml", lambda path: loading.load(path, {"X": "x", "PW": "p@ss"})),
        ("web configuration", "web/webconfig/*.yaml", webconfig.load),
    ],
)
@pytest.mark.timeout(900)
def test_configuration(
    name: str, corpus: str, load: Callable[[Path], object], tmp_path: Path
) -> None:
    file = tmp_path / "file.yaml"

    def check(content: str) -> None:
        file.write_bytes(content.encode("utf-8", "surrogatepass"))
        with contextlib.suppress(ConfigError):
            load(file)

    fuzz(name, edited(texts_of(corpus)), check)


REQUESTS = [
    "GET /metrics HTTP/1.1\r\nHost: x\r\nAccept: application/openmetrics-text;q=0.5\r\n\r\n",
    "GET /?sort=failures&task=a HTTP/1.1\r\nHost: x\r\nAccept-Encoding: gzip;q=1\r\n\r\n",
    "POST /-/reload HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabc",
    "HEAD /-/ready HTTP/1.0\r\nConnection: keep-alive\r\n\r\nGET /healthz HTTP/1.1\r\n\r\n",
    "PUT / HTTP/1.1\r\nTransfer-Encoding: chunked\r\nExpect: 100-continue\r\n\r\n5\r\nabcde\r\n0",
]


@pytest.mark.timeout(900)
def test_requests(tmp_path: Path) -> None:
    with SQLite(tmp_path).fresh_database() as database:
        with create_tables(database).begin() as connection:
            insert(connection, name="<b>\x1b")
        with running(tmp_path, one_backend(database.reader_url)) as exporter:
            exporter.wait_for("celery_task_results_total", 1, state="SUCCESS")
            host, _, port = exporter.address.rpartition(":")

            def check(request: bytes) -> None:
                with socket.create_connection((host, int(port)), timeout=10) as client:
                    client.settimeout(0.02)
                    with contextlib.suppress(OSError):
                        client.sendall(request)
                        while client.recv(1 << 16):
                            pass
                assert exporter.is_running()
                assert exporter.get("/-/healthy").status == 200

            as_bytes = edited(REQUESTS).map(lambda text: text.encode("utf-8", "surrogatepass"))
            fuzz("HTTP requests", as_bytes | st.binary(max_size=200), check)
            assert exporter.scrape().value("celery_task_results_total", state="SUCCESS") == 1
            assert not exporter.logged("Traceback")


ANYTHING: st.SearchStrategy[Any] = (
    st.none()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False)
    | st.binary(max_size=50)
    | st.text(st.characters(exclude_categories=["Cs"]), max_size=50)
    | st.sampled_from([hostile for hostile in HOSTILE if hostile.isascii()])
)
TABLE = """CREATE TABLE celery_taskmeta (
    id INTEGER PRIMARY KEY, task_id VARCHAR(155), status VARCHAR(50), result BLOB, traceback TEXT,
    date_done DATETIME, name VARCHAR(155), worker VARCHAR(155), queue VARCHAR(155), retries INTEGER
)"""
COLUMNS = ["task_id", "status", "result", "traceback", "date_done", "name", "worker", "queue",
           "retries"]  # fmt: skip
ROW = st.fixed_dictionaries(dict.fromkeys(COLUMNS, ANYTHING)).flatmap(
    lambda row: st.sampled_from(["SUCCESS", "FAILURE", "STARTED", row["status"]]).map(
        lambda status: row | {"status": status}
    )
)
INSERT = f"INSERT INTO celery_taskmeta ({','.join(COLUMNS)}) VALUES (:{',:'.join(COLUMNS)})"


@pytest.mark.timeout(900)
def test_rows(tmp_path: Path) -> None:
    """In a table that takes anything. In the end each finished row has counted once."""
    with SQLite(tmp_path).fresh_database() as database:
        engine = database.engine()
        with engine.begin() as connection:
            connection.execute(text(TABLE))
        checkpoint = open_file(tmp_path / "checkpoint.sqlite")
        follower = Follower(database.reader_url, checkpoint)

        def check(rows: list[dict[str, Any]]) -> None:
            with engine.begin() as connection:
                connection.execute(text(INSERT), rows)
            assert follower.poller.try_poll(), follower.poller.status.message
            exposition = follower.exposition.body(Format.TEXT).decode()
            assert [*text_string_to_metric_families(exposition)]

        fuzz("lists of rows", st.lists(ROW, min_size=1, max_size=20), check)
        follower.close()
        checkpoint.close()
        config = one_backend(database.reader_url)
        config["backends"][0]["name"] = "celery"
        config["checkpoint"] = {"path": str(tmp_path / "checkpoint.sqlite")}
        verified = run("verify", f"--config.file={write(tmp_path, config)}")
        assert (verified.returncode, verified.stderr) == (0, ""), verified.stdout[:2000]
