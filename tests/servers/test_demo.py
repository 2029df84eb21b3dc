"""`make demo` shows something soon and leaves nothing behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import get_context
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

from kombu import Connection
from kombu.simple import SimpleQueue
from kombu.transport import TRANSPORT_ALIASES

from tests.scrape import Scrape
from tests.servers.process import HOST, free_port, wait_until
from tests.servers.worker import DEMO

LISTEN = "CELERY_RESULTS_EXPORTER_WEB_LISTEN_ADDRESS"


def start(folder: Path, address: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, DEMO / "run.py"],
        env=os.environ | {"TMPDIR": str(folder), LISTEN: address},
        stdout=subprocess.PIPE,
        text=True,
    )


@contextmanager
def orders(folder: Path) -> Iterator[SimpleQueue]:
    """Open a queue of the demo's broker."""
    sys.path.insert(0, str(DEMO))
    TRANSPORT_ALIASES["folder"] = "folder_broker:Transport"
    folders = {"data_folder_in": folder, "data_folder_out": folder, "control_folder": folder}
    options = {name: str(path) for name, path in folders.items()} | {"polling_interval": 0.01}
    with Connection("folder://", transport_options=options) as connection:
        yield connection.SimpleQueue("orders")


def send(folder: Path, number: int) -> None:
    """Send that many messages."""
    with orders(folder) as queue:
        for n in range(number):
            queue.put({"order": n})


def scrape(url: str) -> Scrape:
    """Return all that is served, nothing while nobody serves."""
    try:
        with urlopen(url, timeout=5) as answer:  # noqa: S310 - always http
            return Scrape(answer.read().decode())
    except (URLError, ConnectionError):
        return Scrape("")


def results(url: str) -> set[tuple[str, str]]:
    """Return the tasks and states that were counted at least once."""
    return {
        (labels["task"], labels["state"])
        for labels, value in scrape(url).named("celery_task_results_total")
        if value > 0
    }


def assert_schedule(url: str) -> None:
    """What the app has set for a real beat is served, and succeeds."""
    of_beat = {
        (name.removeprefix("celery_beat_"), labels.get("entry")): value
        for name, labels, value in scrape(url).samples
        if name.startswith("celery_beat_")
    }
    assert of_beat["up", None] == 1
    assert of_beat["entries", None] == 15  # those of the demo, and Celery's cleanup
    assert of_beat["entries_unreadable", None] == 0
    assert of_beat["entry_period_seconds", "a payment"] == 3
    age = time.time() - of_beat["entry_last_success_timestamp_seconds", "an order"]
    assert age < 60
    next_run = of_beat["entry_next_run_timestamp_seconds", "celery.backend_cleanup"]
    assert next_run % 86_400 == 4 * 3600


def left_behind(folder: Path) -> list[str]:
    """Return the files of the demo and the commands of its processes."""
    left = [str(path) for path in folder.iterdir()]
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if f"TMPDIR={folder}".encode() in (process / "environ").read_bytes():
                left.append((process / "cmdline").read_text())
        except OSError:  # it ended meanwhile, or is not ours
            continue
    return left


def test_demo_shows_results_and_leaves_nothing(tmp_path: Path) -> None:
    address = f"{HOST}:{free_port()}"
    with start(tmp_path, address) as demo:
        try:
            wait_until(
                lambda: (
                    demo.poll() is not None
                    or (
                        len({task for task, _ in results(f"http://{address}/metrics")}) >= 5
                        and {state for _, state in results(f"http://{address}/metrics")}
                        == {"SUCCESS", "FAILURE", "REVOKED"}
                    )
                ),
                "5 tasks and 3 states",
                timeout=60,
            )
            assert demo.poll() is None
            assert_schedule(f"http://{address}/metrics")
            assert left_behind(tmp_path)
        finally:
            demo.send_signal(signal.SIGINT)
            printed, _ = demo.communicate(timeout=30)
    assert demo.returncode == 0
    assert f"http://{address}/metrics" in printed
    assert left_behind(tmp_path) == []


def test_no_message_is_read_before_it_is_written(tmp_path: Path) -> None:
    """The worker ended with JSONDecodeError, often within the first minute."""
    senders = [get_context("spawn").Process(target=send, args=(tmp_path, 1000)) for _ in range(2)]
    with orders(tmp_path) as queue:
        for sender in senders:
            sender.start()
        for _ in range(2000):
            queue.get(timeout=30).ack()
    for sender in senders:
        sender.join(10)
        assert sender.exitcode == 0


def test_demo_tells_which_part_failed(tmp_path: Path) -> None:
    with start(tmp_path, "nonsense") as demo:
        printed, _ = demo.communicate(timeout=30)
    assert demo.returncode == 1
    assert "The exporter ended with 2" in printed
    assert LISTEN in printed
    assert left_behind(tmp_path) == []
