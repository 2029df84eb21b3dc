"""The status page of a real process: it tells of trouble, of its end, and of the last hour."""

from __future__ import annotations

import json
import signal
import socket
from typing import TYPE_CHECKING, Any

from tests.acceptance.process import FAST, Exporter, running
from tests.follow import create_tables, insert
from tests.servers.database import SQLite
from tests.servers.process import HOST

if TYPE_CHECKING:
    from pathlib import Path


def data(exporter: Exporter, query: str = "") -> Any:
    answer = exporter.get(f"/status.json{query}")
    assert answer.status == 200
    return json.loads(answer.body)


def first_line(exporter: Exporter) -> str:
    page = exporter.get("/").body
    return page.partition("<h1>")[2].partition("</h1>")[0]


def refused() -> int:
    """Return a port on which nobody listens."""
    with socket.create_server((HOST, 0)) as server:
        port: int = server.getsockname()[1]
        return port


def test_trouble_and_its_end(tmp_path: Path) -> None:
    """Of one backend among two; the exporter itself is healthy all the while."""
    with SQLite(tmp_path).fresh_database() as database:
        engine = create_tables(database)
        shop = {"name": "shop", "result_backend": database.reader_url, "timezone": "UTC", **FAST}
        dead = f"mysql+pymysql://u:secret-word@{HOST}:{refused()}/d"
        mail = {"name": "mail", "result_backend": dead, **FAST}
        with running(tmp_path, {"backends": [shop, mail]}) as exporter:
            exporter.wait_until(
                lambda: [trouble["level"] for trouble in data(exporter)["troubles"]] == ["down"],
                "one is down, and the other was polled",
            )
            assert data(exporter)["headline"].startswith(
                "Not well, 1 of 2 backends: mail has been down since "
            )
            assert first_line(exporter).startswith("Not well, 1 of 2 backends: mail has been down")
            (trouble,) = data(exporter)["troubles"]
            assert "connect" in trouble["why"].lower()
            assert trouble["todo"] in exporter.get("/").body
            assert "secret-word" not in exporter.get("/").body
            assert exporter.get("/-/healthy").status == 200
            (only,) = data(exporter, "?backend=shop")["backends"]
            assert (only["up"], only["tasks"]) == (True, [])
            with engine.begin() as connection:
                for _ in range(3):
                    insert(connection)
                insert(connection, "FAILURE", result=b'{"exc_type": "KeyError"}')
            exporter.wait_for("celery_task_results_total", 3, state="SUCCESS")
            (only,) = data(exporter, "?backend=shop")["backends"]
            (task,) = only["tasks"]
            assert (sum(only["hour"]["results"]), sum(only["hour"]["failures"])) == (4, 1)
            assert (sum(task["results"]), task["exceptions"]) == (4, {"KeyError": 1})
            (tmp_path / "config.yaml").write_text(json.dumps({"backends": [shop]}))
            exporter.send(signal.SIGHUP)
            exporter.wait_until(lambda: data(exporter)["level"] == "well", "its end")
            assert first_line(exporter).startswith("All is well: shop is up; newest result ")
