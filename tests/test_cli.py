"""The command line, as a process: exit codes, one line a fault, no traceback, no password."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
from typing import TYPE_CHECKING

import click
import pytest
from click.testing import CliRunner

from exporter import flags, logs
from tests.acceptance.process import EXPORTER, environment, run

if TYPE_CHECKING:
    from pathlib import Path

    from exporter.config.settings import Config
    from exporter.runtime.options import Options

PREFIX = "celery-results-exporter: error: "
DURATION_FAULT = "backends[0].poll_interval: '5 parsecs' is not a duration; write it like 15s or 5m"


def faults(*arguments: str, **env: str) -> list[str]:
    """Run what must be refused, and return its complaints."""
    result = run(*arguments, **env)
    assert result.returncode == 2, result
    assert result.stdout == ""
    assert "Traceback" not in result.stderr
    assert "hunter2" not in result.stderr
    lines = result.stderr.splitlines()
    assert all(line.startswith(PREFIX) for line in lines), result.stderr
    return [line.removeprefix(PREFIX) for line in lines]


def test_version_is_like_prometheus_s() -> None:
    result = run("--version")
    assert result.returncode == 0
    assert re.fullmatch(
        r"celery-results-exporter, version \S+ \(python 3\.\S+, sqlalchemy 2\S+, celery 5\S+\)\n",
        result.stdout,
    )


def test_help_names_every_flag_and_variable() -> None:
    result = run("--help", COLUMNS="200")
    assert result.returncode == 0
    shown = " ".join(result.stdout.split())
    for flag, variable in {
        "--config.file": "CELERY_RESULTS_EXPORTER_CONFIG_FILE",
        "--celery.result-backend": "CELERY_RESULT_BACKEND",
        "--django-settings": "CELERY_RESULTS_EXPORTER_DJANGO_SETTINGS",
        "--web.listen-address": "CELERY_RESULTS_EXPORTER_WEB_LISTEN_ADDRESS",
        "--web.systemd-socket": "CELERY_RESULTS_EXPORTER_WEB_SYSTEMD_SOCKET",
        "--web.telemetry-path": "CELERY_RESULTS_EXPORTER_WEB_TELEMETRY_PATH",
        "--web.config.file": "CELERY_RESULTS_EXPORTER_WEB_CONFIG_FILE",
        "--web.enable-lifecycle": "CELERY_RESULTS_EXPORTER_WEB_ENABLE_LIFECYCLE",
        "--log.level": "CELERY_RESULTS_EXPORTER_LOG_LEVEL",
        "--log.format": "CELERY_RESULTS_EXPORTER_LOG_FORMAT",
    }.items():
        assert flag in shown
        assert f"[env var: {variable}]" in shown
    for command in ("run", "check", "once", "verify"):
        assert re.search(rf"^  {command} ", result.stdout, re.MULTILINE)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["chek"], "No such command 'chek'"),
        (["--log.levl=debug"], "No such option '--log.levl'"),
        (["--config"], "No such option '--config'"),
        (["--config.file"], "Option '--config.file' requires an argument; see --help"),
        (["--config.file="], "--config.file: it is empty"),
        (["check", "run"], "Got unexpected extra argument (run); see --help"),
        (["--log.level=loud"], "--log.level: 'loud' is not one of 'debug', 'info', 'warning'"),
        (["--log.level=loud", "once"], "--log.level: 'loud' is not one of 'debug', 'info'"),
        (["--log.format=xml"], "--log.format: 'xml' is not one of 'logfmt', 'json'"),
        (["--web.config.file="], "--web.config.file: it is empty"),
        (["verify", "--celery.result-backend=sqlite:///x"], "verify needs a checkpoint"),
        (
            ["mysql://u:hunter2@h/d"],
            "No such command 'mysql://u:***@h/d'; see --help",
        ),
        (
            ["--config.file=x", "--celery.result-backend=sqlite:///x"],
            "--config.file and --celery.result-backend exclude each other",
        ),
        (
            [],
            "nothing to read: give --config.file=FILE, --celery.result-backend=URL or --django-set",
        ),
    ],
)
def test_usage_errors_are_one_line(arguments: list[str], expected: str) -> None:
    (line,) = faults(*arguments)
    assert line.startswith(expected)


@pytest.mark.parametrize("command", [[], ["run"], ["check"], ["once"]])
def test_every_fault_of_a_file_has_its_line(tmp_path: Path, command: list[str]) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(
        "backends:\n- name: a\n  result_backend: mysq://u:hunter2@h/d\n  poll_interval: 5 parsecs\n"
    )
    expected = [
        f"{path}:3: backends[0].result_backend: unknown dialect 'mysq'; did you mean 'mysql'?",
        f"{path}:4: {DURATION_FAULT}",
    ]
    assert expected == faults(f"--config.file={path}", *command)  # flags may come first
    assert expected == faults(*command, "--config.file", str(path))  # or last


def test_of_many_faults_some_are_shown(tmp_path: Path) -> None:
    """One mistake in a template is one in each of thousands of backends."""
    path = tmp_path / "config.yaml"
    path.write_text("backends:\n" + "- name: a\n" * 3_000)
    shown = faults(f"--config.file={path}")
    assert len(shown) < 100
    assert shown[-1].endswith(" more")


def test_flag_wins_over_its_variable() -> None:
    (line,) = faults("--config.file=/flag.yaml", CELERY_RESULTS_EXPORTER_CONFIG_FILE="/env.yaml")
    assert line == "/flag.yaml: cannot be read: No such file or directory"


def test_flag_wins_over_a_variable_that_is_wrong(tmp_path: Path) -> None:
    flag = f"--config.file={tmp_path / 'none.yaml'}"
    (line,) = faults("check", flag, "--log.format=json", CELERY_RESULTS_EXPORTER_LOG_FORMAT="xml")
    assert line.endswith("none.yaml: cannot be read: No such file or directory")
    result = run("check", "--help", CELERY_RESULTS_EXPORTER_LOG_FORMAT="xml")
    assert (result.returncode, result.stderr) == (0, "")


def test_blank_variable_is_none(tmp_path: Path) -> None:
    path = str(tmp_path / "none.yaml")
    (line,) = faults(CELERY_RESULT_BACKEND=" ", CELERY_RESULTS_EXPORTER_CONFIG_FILE=path)
    assert line == f"{path}: cannot be read: No such file or directory"


def test_blanks_of_a_path_are_its_own(tmp_path: Path) -> None:
    (line,) = faults(f"--config.file={tmp_path}/ none.yaml ")
    assert line == f"{tmp_path}/ none.yaml : cannot be read: No such file or directory"


@pytest.mark.parametrize("arguments", [["-h"], ["check", "-h"], ["--help", "check"]])
def test_help_by_other_ways(arguments: list[str]) -> None:
    result = run(*arguments)
    assert result.returncode == 0
    assert result.stdout.startswith("Usage: celery-results-exporter ")


def test_variable_serves_where_there_is_no_flag() -> None:
    (line,) = faults(CELERY_RESULTS_EXPORTER_CONFIG_FILE="/env.yaml")
    assert line == "/env.yaml: cannot be read: No such file or directory"


def test_flag_wins_over_the_other_ones_variable() -> None:
    (line,) = faults(
        "--celery.result-backend=redis://u:hunter2@h",
        CELERY_RESULTS_EXPORTER_CONFIG_FILE="/env.yaml",
    )
    assert line.startswith("--celery.result-backend: 'redis' is no SQL result backend")
    (line,) = faults("--config.file=/flag.yaml", CELERY_RESULT_BACKEND="sqlite:////x")
    assert line.startswith("/flag.yaml: ")


def test_unusable_addresses() -> None:
    (line,) = faults("--web.listen-address=here", CELERY_RESULT_BACKEND="sqlite:////x")
    assert line.startswith("--web.listen-address: 'here' is not HOST:PORT")
    (line,) = faults("--web.listen-address=unix:here", CELERY_RESULT_BACKEND="sqlite:////x")
    assert line.startswith("--web.listen-address: 'unix:here': the path must be absolute")
    (line,) = faults(
        CELERY_RESULTS_EXPORTER_WEB_LISTEN_ADDRESS=":1,:x", CELERY_RESULT_BACKEND="sqlite:////x"
    )
    assert line.startswith("CELERY_RESULTS_EXPORTER_WEB_LISTEN_ADDRESS: ':x': the port must")


def test_our_own_variable_wins_over_celery_s() -> None:
    """A sidecar often has Celery's variable too."""
    (line,) = faults(
        CELERY_RESULTS_EXPORTER_CONFIG_FILE="/env.yaml", CELERY_RESULT_BACKEND="sqlite:////x"
    )
    assert line.startswith("/env.yaml: ")


def test_message_names_the_variable_that_is_wrong() -> None:
    (line,) = faults(CELERY_RESULT_BACKEND="mysq://u:hunter2@h/d")
    assert line == "CELERY_RESULT_BACKEND: unknown dialect 'mysq'; did you mean 'mysql'?"
    (line,) = faults(CELERY_RESULTS_EXPORTER_LOG_LEVEL="loud")
    assert line.startswith("CELERY_RESULTS_EXPORTER_LOG_LEVEL: 'loud' is not one of")
    (line,) = faults(CELERY_RESULTS_EXPORTER_WEB_ENABLE_LIFECYCLE="maybe")
    assert line.startswith("CELERY_RESULTS_EXPORTER_WEB_ENABLE_LIFECYCLE: 'maybe' is not a valid")


@pytest.mark.parametrize("level", ["warn", "WARN", "warning", "WARNING"])
def test_level_as_people_write_it(level: str, tmp_path: Path) -> None:
    """Other exporters say warn, Python says WARNING."""
    url = {"CELERY_RESULT_BACKEND": f"sqlite:///{tmp_path}/x.sqlite"}
    by_flag = run("once", f"--log.level={level}", **url)
    by_variable = run("once", CELERY_RESULTS_EXPORTER_LOG_LEVEL=level, **url)
    for result in (by_flag, by_variable):
        assert result.returncode == 1, result.stderr
        assert "level=warning" in result.stderr
        assert "level=info" not in result.stderr


def test_switch_that_is_false_is_no_fault() -> None:
    (line,) = faults(CELERY_RESULTS_EXPORTER_WEB_ENABLE_LIFECYCLE="false")
    assert line.startswith("nothing to read")


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_reader_that_left_is_no_traceback(tmp_path: Path, unbuffered: str) -> None:
    """`... once | head` prints no complaint about it."""
    reader, writer = os.pipe()
    os.close(reader)
    result = subprocess.run(
        [*EXPORTER, "once", f"--celery.result-backend=sqlite:///{tmp_path}/x.sqlite"],
        stdout=writer,
        stderr=subprocess.PIPE,
        text=True,
        env=environment({"PYTHONUNBUFFERED": unbuffered}),
        timeout=60,
        check=False,
    )
    os.close(writer)
    assert result.returncode == 141
    assert "Traceback" not in result.stderr
    assert "BrokenPipe" not in result.stderr


def test_ctrl_c_ends_once_quietly() -> None:
    """While it waits for a server that accepts and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        with subprocess.Popen(
            [*EXPORTER, "once"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment({"CELERY_RESULT_BACKEND": f"mysql+pymysql://u:x@127.0.0.1:{port}/d"}),
            # The background job of a shell ignores it, and so would we.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # noqa: PLW1509
        ) as process:
            server.settimeout(60)
            connection, _ = server.accept()
            process.send_signal(signal.SIGINT)
            _, stderr = process.communicate(timeout=60)
            connection.close()
    assert (process.returncode, stderr) == (130, "")


def test_closed_stdout_is_no_traceback() -> None:
    result = subprocess.run(
        ["sh", "-c", 'exec "$0" -m exporter --log.level=x >&-', sys.executable],
        capture_output=True,
        text=True,
        env=environment({}),
        timeout=60,
        check=False,
    )
    assert result.returncode == 2
    assert result.stderr.count("\n") == 1


def test_a_slip_costs_no_heavy_imports() -> None:
    script = (
        "import sys; from exporter import cli; cli.main(['--log.level=x']);"
        "print([m for m in ('sqlalchemy', 'pydantic', 'tornado', 'celery') if m in sys.modules])"
    )
    result = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        env=environment({}),
        timeout=60,
        check=True,
    )
    assert result.stdout == "[]\n"


class TestOptions:
    """What is handed over to the service."""

    @pytest.mark.parametrize(
        ("arguments", "env", "addresses", "path"),
        [
            ([], {}, (":10224",), "/metrics"),
            (
                ["--web.listen-address=:1", "--web.listen-address=[::1]:2"],
                {"CELERY_RESULTS_EXPORTER_WEB_LISTEN_ADDRESS": ":3"},
                (":1", "[::1]:2"),
                "/metrics",
            ),
            (
                ["--web.telemetry-path=/m"],
                {"CELERY_RESULTS_EXPORTER_WEB_LISTEN_ADDRESS": ":3, unix:/run/x.sock"},
                (":3", "unix:/run/x.sock"),
                "/m",
            ),
        ],
    )
    def test_from_flags_and_variables(
        self,
        monkeypatch: pytest.MonkeyPatch,
        arguments: list[str],
        env: dict[str, str],
        addresses: tuple[str, ...],
        path: str,
    ) -> None:
        monkeypatch.setattr(logs, "configure", lambda *_: None)  # of the whole process
        given: list[Options] = []

        @click.command(params=flags.options())
        @flags.configured(log_level="info")
        def command(_: Config, options: Options) -> int:
            given.append(options)
            return 0

        url = {"CELERY_RESULT_BACKEND": "sqlite:////x"}
        result = CliRunner(env=url | env).invoke(command, arguments, catch_exceptions=False)
        assert result.exit_code == 0
        (options,) = given
        assert (addresses, path) == (options.listen_addresses, options.telemetry_path)
