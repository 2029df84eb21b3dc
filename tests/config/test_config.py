"""What a corpus of files cannot hold: files that cannot be read, passwords, rotation."""

from __future__ import annotations

import logging
import re
import sys
import time
import zoneinfo
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter import redaction
from exporter.config import loading, settings, urls
from exporter.config.settings import Backend
from exporter.config.yamlfile import expand
from exporter.errors import BackendError, ConfigError, Reason

if TYPE_CHECKING:
    from collections.abc import Mapping

SQLITE = "backends:\n- {name: a, result_backend: 'sqlite:////a'}\n"


def faults_of(path: Path, env: Mapping[str, str] | None = None) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        loading.load(path, env or {})
    return caught.value.faults


def sent_by(backend: Backend) -> object:
    return backend.connection_url().password


def write(folder: Path, text: str) -> Path:
    path = folder / "config.yaml"
    path.write_text(text, encoding="utf-8")
    return path


class TestUnreadable:
    def test_missing(self, tmp_path: Path) -> None:
        path = tmp_path / "none.yaml"
        assert [f"{path}: cannot be read: No such file or directory"] == faults_of(path)

    def test_directory(self, tmp_path: Path) -> None:
        assert [f"{tmp_path}: cannot be read: Is a directory"] == faults_of(tmp_path)

    def test_not_utf8(self, tmp_path: Path) -> None:
        path = tmp_path / "latin.yaml"
        path.write_bytes("backends:\n# né\n".encode("latin-1"))
        assert [f"{path}:2: is not UTF-8 text"] == faults_of(path)

    def test_empty(self, tmp_path: Path) -> None:
        path = write(tmp_path, "")
        assert [f"{path}: is empty; list at least one backend under backends:"] == faults_of(path)

    def test_endless(self) -> None:
        """A device that never ends is not read to its end."""
        (fault,) = faults_of(Path("/dev/zero"))
        assert fault == "/dev/zero: is larger than 1 MiB; is it the right file?"

    def test_thousands_of_faults_end_soon(self, tmp_path: Path) -> None:
        start = time.monotonic()
        faults = faults_of(write(tmp_path, "backends:\n" + "- a\n" * 20_000))
        assert len(faults) == 20_000
        assert time.monotonic() - start < 20

    def test_deep_nesting_is_refused(self, tmp_path: Path) -> None:
        assert "nested more than 20 deep" in faults_of(write(tmp_path, "[" * 1_000_000))[0]

    def test_numbers_only_python_would_refuse(self, tmp_path: Path) -> None:
        digits = "9" * 5000
        path = write(
            tmp_path,
            f"defaults: {{series_limit: {digits}, poll_interval: {digits}s, first_zero: 0x_}}\n"
            + SQLITE,
        )
        keys = {fault.split(": ")[1] for fault in faults_of(path)}
        assert keys == {"defaults.series_limit", "defaults.poll_interval", "defaults.first_zero"}

    def test_variable_that_is_not_utf8(self, tmp_path: Path) -> None:
        """As os.environ gives it."""
        (fault,) = faults_of(write(tmp_path, SQLITE + "- ${X}\n"), {"X": "\udcff"})
        assert "backends[1]: variable X is not UTF-8 text" in fault

    def test_byte_order_mark_is_fine(self, tmp_path: Path) -> None:
        path = tmp_path / "bom.yaml"
        path.write_text(SQLITE, encoding="utf-8-sig")
        assert loading.load(path, {}).backends[0].name == "a"


class TestPaths:
    def test_relative_paths_begin_at_the_file(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tmp_path / "conf").mkdir()
        (tmp_path / "conf" / "pw").write_text("s3cr3t-pw\n")
        path = write(
            tmp_path / "conf",
            "backends:\n- {name: a, result_backend: 'sqlite:///x.db'}\n"
            "- {name: b, result_backend: 'mysql+pymysql://u@h/d', password_file: pw}\n",
        )
        monkeypatch.chdir(tmp_path)
        sqlite, mysql = loading.load(path.relative_to(tmp_path), {}).backends
        monkeypatch.chdir("/")
        assert str(tmp_path / "conf" / "x.db") == sqlite.url.database
        assert sent_by(mysql) == "s3cr3t-pw"


class TestPasswords:
    def test_without_a_file_the_url_s_own(self) -> None:
        (backend,) = loading.from_url("mysql+pymysql://u:in-url@h/d", username="reader").backends
        assert sent_by(backend) == "in-url"
        assert backend.connection_url().username == "reader"

    def test_password_file_rotates(self, tmp_path: Path) -> None:
        """The file is read at each connection, and each password it held is masked."""
        secret = tmp_path / "pw"
        secret.write_text("first-pass\n")
        path = write(
            tmp_path,
            "backends:\n- {name: a, result_backend: 'mysql+pymysql://u:old@h/d', "
            "password_file: pw}\n",
        )
        (backend,) = loading.load(path, {}).backends
        assert sent_by(backend) == "first-pass"
        secret.write_text("second-pass\n")
        assert sent_by(backend) == "second-pass"
        assert redaction.mask("first-pass second-pass") == "*** ***"

    def test_password_file_lost(self, tmp_path: Path) -> None:
        """While running that is a backend's trouble, not the end."""
        secret = tmp_path / "pw"
        secret.write_text("first-pass")
        path = write(
            tmp_path,
            "backends:\n- {name: a, result_backend: 'mysql+pymysql://u@h/d', password_file: pw}\n",
        )
        (backend,) = loading.load(path, {}).backends
        secret.unlink()
        with pytest.raises(BackendError, match="password_file cannot be read: No such") as caught:
            backend.connection_url()
        assert caught.value.reason is Reason.CONNECT

    @pytest.mark.parametrize("content", [b"", b" \n", b"\xff\xfe"], ids=["empty", "blank", "bytes"])
    def test_unusable_secret_files(self, tmp_path: Path, content: bytes) -> None:
        (tmp_path / "secret").write_bytes(content)
        path = write(
            tmp_path,
            "backends:\n- {name: a, result_backend_file: secret}\n"
            "- {name: b, result_backend: 'mysql+pymysql://u@h/d', password_file: secret}\n",
        )
        faults = faults_of(path)
        assert len(faults) == 2
        assert all("is an empty file" in fault or "not UTF-8" in fault for fault in faults)

    @given(password=st.text(min_size=1).filter(lambda text: "\0" not in text))
    def test_any_password_survives_a_url(self, password: str) -> None:
        """Through ${VAR} every password arrives as it is, whatever stands in it."""
        template = "mysql+pymysql://reader:${PASSWORD}@db.example:3306/orders"
        url = urls.parse(expand(template, {"PASSWORD": password}, in_url=True))
        assert password == url.password
        rest = (url.username, url.host, url.port, url.database)
        assert rest == ("reader", "db.example", 3306, "orders")

    def test_nothing_shows_them(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        """Neither repr() nor str() of a configuration holds one, and the mask knows them all."""
        path = write(
            tmp_path,
            "backends:\n- name: a\n"
            "  result_backend: 'mysql+pymysql://u:in-url-pw@h/d?ssl_key_password=in-query-pw'\n"
            "  database_engine_options: {connect_args: {passwd: in-options-pw}}\n",
        )
        settings = loading.load(path, {})
        with caplog.at_level(logging.INFO):
            logging.getLogger("test").info("%r %s", settings, settings.backends[0])
        assert "backends" in caplog.text
        assert "-pw" not in caplog.text
        assert redaction.mask("in-url-pw in-query-pw in-options-pw") == "*** *** ***"


class TestFromUrl:
    def test_one_backend_named_celery(self) -> None:
        """Further settings are given as what they are, not as text."""
        (backend,) = loading.from_url(
            "db+sqlite:///relative.db", poll_interval=0.5, timezone=zoneinfo.ZoneInfo("Asia/Tokyo")
        ).backends
        assert (backend.name, backend.url.database) == ("celery", "relative.db")
        assert (backend.poll_interval, backend.timezone.key) == (0.5, "Asia/Tokyo")

    def test_fault_names_where_the_url_came_from(self) -> None:
        with pytest.raises(ConfigError) as caught:
            loading.from_url("mysq://u:hunter2@h/d", origin="CELERY_RESULT_BACKEND")
        (fault,) = caught.value.faults
        assert fault == "CELERY_RESULT_BACKEND: unknown dialect 'mysq'; did you mean 'mysql'?"


SECRETS = """
checkpoint:
  {checkpoint}
defaults:
  poll_interval: ${{INTERVAL}}
backends:
- name: variable
  result_backend: mysql+pymysql://u:${{PASSWORD}}@h/d
- name: file
  result_backend_file: url
- name: password
  result_backend: mysql+pymysql://h/d
  username: u
  password_file: password
- name: option
  result_backend: mysql+pymysql://u@h/d
  database_engine_options: {{connect_args: {{ssl: {{password: "${{OPTION}}"}}}}}}
- name: odbc
  result_backend: mssql+pyodbc:///?odbc_connect=DRIVER%3Dx%3BPWD%3D${{ODBC}}
"""
ENV = {"INTERVAL": "15s", "PASSWORD": "one", "OPTION": "one", "ODBC": "one"}


def hash_of(folder: Path, env: dict[str, str] = ENV, **files: str) -> float:
    contents = {
        "url": "mysql+pymysql://u:one@h/d",
        "password": "one",
        "checkpoint": "mysql://u:one@h/d",
    }
    for name, content in (contents | files).items():
        (folder / name).write_text(content)
    return loading.load(write(folder, SECRETS.format(checkpoint="url_file: checkpoint")), env).hash


def test_hash_follows_every_value(tmp_path: Path) -> None:
    """Those of variables and secret files, too; the same ones give the same number."""
    hashes = [
        hash_of(tmp_path),
        *(hash_of(tmp_path, ENV | {name: f"{n}s"}) for n, name in enumerate(ENV, 20)),
        hash_of(tmp_path, url="mysql+pymysql://u:two@h/d"),
        hash_of(tmp_path, password="three"),  # noqa: S106
        hash_of(tmp_path, checkpoint="mysql://u:four@h/d"),
    ]
    assert len(set(hashes)) == len(hashes)
    assert hash_of(tmp_path) == hashes[0]
    assert all(0 < one < 2**48 and one.is_integer() for one in hashes)


def test_hash_tells_little_of_a_secret(tmp_path: Path) -> None:
    """Whoever has a list of passwords rules out all but one in 4,096, whatever else changes."""
    passwords = [f"hunter{n}" for n in range(3)]
    steps = set()
    for interval in ("10s", "15s"):
        hashes = [hash_of(tmp_path, ENV | {"INTERVAL": interval, "PASSWORD": p}) for p in passwords]
        assert len({one // 4096 for one in hashes}) == 1
        steps.add(tuple((one - hashes[0]) % 4096 for one in hashes))
    assert len(steps) == 1


def test_many_backends_are_read_fast(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What costs a look at all zones or all secrets is not done for each backend."""
    zones, patterns = [], []
    monkeypatch.setattr(settings, "available_timezones", lambda: zones.append(1) or set())
    compiled = re.compile
    monkeypatch.setattr(
        "exporter.redaction.re.compile", lambda *a: patterns.append(a) or compiled(*a)
    )
    entry = "- name: b{0}\n  result_backend: mysql+pymysql://u:${{P{0}}}@h/d\n"
    text = "backends:\n" + "".join(entry.format(n) for n in range(200))
    loaded = loading.load(write(tmp_path, text), {f"P{n}": f"secret-{n}" for n in range(200)})
    assert len(loaded.backends) == 200
    assert zones == []
    assert [pattern for pattern, *_ in patterns if "secret" in pattern] == []


def test_backends_are_frozen() -> None:
    (backend,) = loading.from_url("sqlite:////x").backends
    with pytest.raises(ValueError, match="frozen"):
        backend.poll_interval = 1.0  # type: ignore[misc]


def test_same_settings_are_equal(tmp_path: Path) -> None:
    """So that a reload can tell which backends have changed."""
    path = write(tmp_path, SQLITE)
    assert loading.load(path, {}).backends == loading.load(path, {}).backends


def test_system_without_time_zones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Says what to install, even for UTC."""
    for module in ("tzdata", "tzdata.zoneinfo"):  # another test may have loaded them
        monkeypatch.setitem(sys.modules, module, None)
    zoneinfo.reset_tzpath(to=[])
    zoneinfo.ZoneInfo.clear_cache()
    try:
        (fault,) = faults_of(write(tmp_path, f"{SQLITE}defaults: {{timezone: UTC}}\n"))
    finally:
        zoneinfo.reset_tzpath()
    assert "timezone: 'UTC' cannot be looked up" in fault
    assert "pip install tzdata" in fault
