"""What apps and projects say, and what is said of those that say nothing: real child processes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote
from zoneinfo import ZoneInfo

import pytest
import yaml

from celery_results_exporter import answers
from exporter import redaction
from exporter.config import apps, child, loading
from exporter.config.child import Question
from exporter.config.settings import BeatSchedule
from exporter.errors import ConfigError
from exporter.runtime.looks import Looks
from exporter.sql import dialects
from tests.acceptance.process import environment
from tests.projects import PYTHONPATH, Shop, bookshop

if TYPE_CHECKING:
    from exporter.config.settings import Backend

GOOD = "from celery import Celery; app = Celery('a', backend='db+sqlite:////a')\n"
INSTEAD = "; correct it, or give the URL of its database instead"
#: Apps that cannot be used, by module, and what is said of them.
UNWELL = {
    "crashes": (
        "import os, signal; os.kill(os.getpid(), signal.SIGSEGV)",
        "ends the process (SIGSEGV) when it is imported; give the URL of its database instead",
    ),
    "disabled": ("from celery import Celery; app = Celery()", "has no result_backend: its results"),
    "exits": (
        "import sys\nsys.exit(3)",
        f"ends the process when it is imported (SystemExit: 3) at {{}}/exits.py:2{INSTEAD}",
    ),
    "leaves": (
        "import os; os._exit(4)",
        "ends the process (exit code 4) when it is imported; give the URL of its database instead",
    ),
    "no_app": (
        "app = print",
        "is no Celery app (builtin_function_or_method); write it like shop.celery:app",
    ),
    "options": (
        GOOD + "app.conf.database_engine_options = {'connect_args': {'ssl': object()}}",
        (
            "its database_engine_options has an object of the type object in connect_args.ssl; set "
            "database_engine_options beside it, in a configuration file"
        ),
    ),
    "raises": (
        (
            "SETTINGS = {'db': {'PASSWORD': 'hunter2'}}\n"
            "raise RuntimeError('not hunter2, nor mysql://u:hunter3@h, nor hunter4\\n' + 'x' * 999)"
        ),
        "cannot be read: RuntimeError: not ***, nor mysql://u:***@h, nor *** x",
    ),
    "redis_is_there": (
        "from celery import Celery; app = Celery(backend='redis://:hunter2@db/0')",
        (
            "has its results in 'redis', which is no SQL database; this exporter reads those whose "
            "result_backend begins with db+ or is django-db"
        ),
    ),
    "there_but.empty": (
        "",
        (
            "cannot be read: ModuleNotFoundError: No module named 'there_but'; start the exporter "
            "where it can be imported: its environment, its folder"
        ),
    ),
    "typo": (
        "from celery import Celery; app = Celery(backend='db+mysq://u:hunter2@h/d')",
        "its result_backend: unknown dialect 'mysq'; did you mean 'mysql'?",
    ),
    "zone": (
        "from datetime import *; " + GOOD + "app.conf.timezone = timezone(timedelta(hours=9))",
        "its timezone is not a time zone; ",
    ),
}
#: Apps that are odd, and yet can be used.
ODD = {
    "prints": GOOD
    + "import sys\nfor _ in range(10_000):\n print('x' * 1000)\n sys.stderr.write('y')",
    "argues": GOOD + "import sys; assert sys.argv[1:] == []; assert input is not None",
    "waits": GOOD
    + "import threading, time; threading.Thread(target=time.sleep, args=(99,)).start()",
    "ours": GOOD + "import exporter; assert exporter.THEIRS",
    "legacy": "from celery import Celery; app = Celery()\n"
    "app.conf.update(CELERY_RESULT_BACKEND='database', CELERY_RESULT_DBURI='sqlite:////a')",
    "extends": "from celery import Celery; from celery.backends.database import DatabaseBackend\n"
    "class Ours(DatabaseBackend): pass\n"
    "app = Celery('a', backend='extends:Ours+sqlite:////a')",
    "hands_over": "from celery import Celery; from celery.backends import database\n"
    "app = Celery('a', backend=database.DatabaseBackend)\n"
    "app.conf.database_url = 'sqlite:////a'",
}


@pytest.fixture(autouse=True)
def apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stand in a folder of one's own, with no variables of the tester's."""
    for variable in os.environ.keys() - environment({}).keys():
        monkeypatch.delenv(variable)
    monkeypatch.setenv("PYTHONPATH", PYTHONPATH)
    monkeypatch.chdir(tmp_path)


def loaded(*entries: dict[str, object]) -> tuple[Backend, ...]:
    path = Path("config.yaml")
    path.write_text(yaml.safe_dump({"backends": list(entries)}))
    return loading.load(path, {}).backends


def faults(*entries: dict[str, object]) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        loaded(*entries)
    return caught.value.faults


def test_apps_that_cannot_be_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All in one go, each with its line, key and reason, and no password; none is loaded here."""
    monkeypatch.setenv("DB_PASSWORD", "hunter4")
    for module, (source, _) in UNWELL.items():
        if source:
            (tmp_path / f"{module}.py").write_text(source)
    said = faults(*({"celery_app": module} for module in UNWELL))
    assert len(said) == len(UNWELL)
    for number, (line, (module, (_, expected))) in enumerate(
        zip(said, UNWELL.items(), strict=True)
    ):
        wanted = f"config.yaml:{number + 2}: backends[{number}].celery_app: {expected}"
        assert wanted.format(tmp_path) in line, module
        assert "\n" not in line
        assert len(line) < 700
    assert "hunter" not in "".join(said)
    assert sys.modules.keys().isdisjoint(UNWELL)


def test_odd_apps_can_be_used(tmp_path: Path) -> None:
    """Also beside modules that are named like ours, and like Celery."""
    (tmp_path / "exporter.py").write_text("THEIRS = True")
    for module in ("celery", "json", "celery_results_exporter"):
        (tmp_path / f"{module}.py").write_text("raise SystemExit")
    for module, source in ODD.items():
        (tmp_path / f"{module}.py").write_text(source)
    backends = loaded(*({"celery_app": f"{module}:app"} for module in ODD))
    assert [backend.name for backend in backends] == [*ODD]
    assert {backend.url.database for backend in backends} == {"/a"}


def test_time_is_bounded_and_all_processes_end(tmp_path: Path) -> None:
    """Also those that the app has started."""
    (tmp_path / "hangs.py").write_text(
        "import subprocess, sys\n"
        "sleep = subprocess.Popen(['sleep', '1000'])\n"
        "open('pids', 'w').write(str(sleep.pid))\n"
        "sleep.wait()"
    )
    question = Question("celery", "hangs")
    begun = time.monotonic()
    answer = child.ask([question], within=10.0)[question]
    assert answer == {"fault": "is not imported within 10 s; give the URL of its database instead"}
    assert time.monotonic() - begun < 15
    pid = int((tmp_path / "pids").read_text())
    deadline = time.monotonic() + 10
    while is_running(pid):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def is_running(pid: int) -> bool:
    """Whether it is there, and no mere memory of one that nobody has waited for."""
    try:
        status = Path(f"/proc/{pid}/stat").read_text()
    except FileNotFoundError:
        return False
    return status.rpartition(")")[2].split()[0] not in "ZX"


def test_child_that_is_forgotten_ends_by_itself(tmp_path: Path) -> None:
    (tmp_path / "hangs.py").write_text(
        "import signal; assert 0 < signal.alarm(1) <= 60; signal.pause()"
    )
    pipe, end = os.pipe()
    ended = subprocess.run(
        [sys.executable, "-m", "celery_results_exporter", "celery", "hangs", "", str(end)],
        pass_fds=[end],
        timeout=60,
        check=False,
    )
    os.close(pipe)
    os.close(end)
    assert ended.returncode == -signal.SIGALRM


def test_traceback_is_for_who_debugs(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "raises.py").write_text(
        "PASSWORD = 'hunter2'\ndef f():\n  raise OSError(PASSWORD)\nf()"
    )
    for level, expected in (("INFO", False), ("DEBUG", True)):
        caplog.set_level(level)
        caplog.clear()
        (line,) = faults({"celery_app": "raises"})
        assert f"OSError: *** at {tmp_path}/raises.py:3" in line
        assert (f"{tmp_path}/raises.py:3, in f\nOSError: ***" in caplog.text) == expected
        assert "hunter2" not in caplog.text


def test_what_the_app_says_and_what_is_said_beside_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What stands beside it counts; then the app; then the defaults."""
    shop = Shop(tmp_path, "db+mysql+pymysql://app:secret-of-the-shop@db.example/shop")
    monkeypatch.setenv("SHOP_FOLDER", str(tmp_path))
    Path("config.yaml").write_text(
        yaml.safe_dump(
            {
                "defaults": {
                    "timezone": "Europe/Paris",
                    "poll_interval": "5s",
                    "database_engine_options": {"connect_args": {"ssl_ca": "/ca"}},
                },
                "backends": [
                    {"celery_app": "shop.celery:app"},
                    {
                        "name": "mine",
                        "celery_app": "shop.celery:app",
                        "username": "reader",
                        "timezone": "UTC",
                        "database_table_names": {"task": "other"},
                    },
                ],
            }
        )
    )
    theirs, mine = loading.load(Path("config.yaml"), {}).backends
    assert (theirs.name, theirs.timezone.key, theirs.poll_interval) == ("shop", "Asia/Tokyo", 5.0)
    assert theirs.database_table_names.task == "shop_taskmeta"
    assert theirs.result_extended is True
    assert theirs.database_engine_options == {"connect_args": {"ssl_ca": "/ca"}}
    assert theirs.connection_url().password == "secret-of-the-shop"  # noqa: S105
    assert redaction.mask("secret-of-the-shop") == "***"
    assert (mine.connection_url().username, mine.timezone.key) == ("reader", "UTC")
    assert mine.database_table_names.task == "other"
    (pid,) = shop.loads()  # asked once
    assert pid != os.getpid()


@pytest.mark.parametrize("dialect", ["postgresql+psycopg", "sqlite", "mysql+pymysql"])
def test_zone_that_celery_writes_in(dialect: str, tmp_path: Path) -> None:
    """PostgreSQL's is its sessions' business, not the app's."""
    where = "/shop.db" if dialect == "sqlite" else "u@db.example/shop"
    (tmp_path / "tokyo.py").write_text(
        f"from celery import Celery; app = Celery(backend='db+{dialect}://{where}')\n"
        "app.conf.update(enable_utc=False, timezone='Asia/Tokyo')"
    )
    (backend,) = loaded({"celery_app": "tokyo"})
    is_postgresql = dialect.startswith("postgresql")
    assert backend.timezone == (None if is_postgresql else ZoneInfo("Asia/Tokyo"))
    if dialect == "sqlite":  # where the app runs, which is where we do
        assert backend.url.database == f"{tmp_path}/shop.db"


# --- beat's schedule ----------------------------------------------------------------------------

PLANS = (
    GOOD
    + """
from datetime import timedelta
from celery.schedules import crontab, schedule, solar

class Lunar(schedule):
    pass

app.conf.update(include=["tasks"], timezone="Asia/Tokyo", result_expires=RESULT_EXPIRES)
app.conf.beat_schedule = {
    "nightly": {"task": "a", "schedule": crontab("0", [3, 5], day_of_week={1}), "args": ["x"]},
    "sunset": {"task": "b", "schedule": solar("sunset", 35.7, 139.7)},
    "often": {"task": "c", "schedule": 2.5},
    "own": {"task": "d", "schedule": Lunar(1)},
    "clock": {"task": "d", "schedule": crontab(nowfun=lambda: None)},
    "none": {"task": "e"},
    "odd": {"tusk": "e"},
}

@app.task(name="f")
def f():
    pass
"""
)
TASKS = """
from plans import *
for sig in (f.s("hunter2"), f.s(7), f.s("hunter2") | f.s()):
    app.add_periodic_task(60, sig)
"""
CRONTAB = {"minute": "0", "hour": "3,5", "day_of_week": "1", "day_of_month": "*",
           "month_of_year": "*", "timezone": "Asia/Tokyo"}  # fmt: skip


def planned(*entries: dict[str, object]) -> list[BeatSchedule | None]:
    return [backend.beat_schedule for backend in loaded(*entries)]


@pytest.mark.parametrize("expires", [None, 60])
def test_what_beat_would_send(tmp_path: Path, expires: int | None) -> None:
    """As plain data, without arguments; what tasks add as they are imported, too."""
    (tmp_path / "plans.py").write_text(PLANS.replace("RESULT_EXPIRES", str(expires)))
    (tmp_path / "tasks.py").write_text(TASKS)
    (plans,) = planned({"celery_app": "plans"})
    assert plans is not None
    assert plans.fault == ""
    cleanup = {"name": "celery.backend_cleanup", "task": "celery.backend_cleanup"}
    at_four = CRONTAB | {"hour": "4", "day_of_week": "*"}
    assert list(plans.entries) == [
        {"name": "nightly", "task": "a", **CRONTAB},
        {"name": "sunset", "task": "b", "event": "sunset", "latitude": 35.7, "longitude": 139.7},
        {"name": "often", "task": "c", "every": 2.5, "period": "seconds"},
        {"name": "f(…)", "task": "f", "every": 60.0, "period": "seconds"},
        {"name": "f(…) 2", "task": "f", "every": 60.0, "period": "seconds"},
        {"name": "celery.chain(…)", "task": "celery.chain", "every": 60.0, "period": "seconds"},
        *([cleanup | at_four] if expires else []),
    ]
    faults = dict(plans.faults)
    assert faults.keys() == {"own", "clock", "none", "odd"}
    assert faults["own"] == "its schedule is a Lunar, which is not known here"
    assert faults["clock"] == "its schedule has a clock of its own (nowfun)"
    assert faults["odd"].startswith("it is no entry of a beat_schedule: ")
    assert "hunter2" not in repr(plans)


def test_schedules_that_cannot_be_read(tmp_path: Path) -> None:
    """Results count without them."""
    (tmp_path / "raises.py").write_text("raise OSError('no')")
    (tmp_path / "ends.py").write_text("import os; os._exit(3)")
    for name in ("raises", "ends"):
        (tmp_path / f"of_{name}.py").write_text(GOOD + f"app.conf.include = ['{name}']")
    (tmp_path / "large.py").write_text(
        GOOD + "app.conf.beat_schedule = {'e' * 50 + str(n): {'task': 't', 'schedule': 1}"
        " for n in range(1000)}"
    )
    apps = ("of_raises", "of_ends", "large", "none")
    (tmp_path / "none.py").write_text(GOOD)
    likewise = "beat fails likewise; correct it"
    *unread, none = planned(*({"celery_app": app} for app in apps))
    assert none is None
    for plans, expected in zip(
        unread,
        (
            f"cannot be read: OSError: no at {tmp_path}/raises.py:1; {likewise}",
            "ends the process (exit code 3) when it is imported",
            "has 1,001 entries, too many to be handed over",
        ),
        strict=True,
    ):
        assert plans is not None
        assert plans == BeatSchedule(fault=f"the app's schedule {expected}")
    (tmp_path / "raises.py").write_text("import time; time.sleep(99)")
    answer = child.ask([question := Question("celery", "of_raises")], within=5.0)[question]
    assert answer["url"] == "sqlite:////a"
    assert answer["beat"] == {"fault": "is not imported within 5 s"}


@pytest.mark.parametrize(
    "beat",
    [1, "x", [2], {"entries": []}, {"entries": [1], "faults": []}, {"entries": 1, "faults": []},
     {"entries": [{"name": "a"}], "faults": []}, {"entries": [], "faults": ["x"]}],
)  # fmt: skip
def test_what_is_no_schedule(beat: object) -> None:
    """User code may answer in our place."""
    answer = {"url": "sqlite:////a", "settings": {}, "faults": {}, "beat": beat}
    fault = "the app's schedule is not handed over as it should be"
    assert apps.told(answer)["beat_schedule"] == BeatSchedule(fault=fault)


def test_what_is_an_odd_schedule() -> None:
    """Labels are text of a bounded length, and no value breaks a look."""
    odd = {"name": "\ud800" + "x" * 1000, "task": 1, "every": {}, "minute": "\0", "period": 5}
    answer = {"url": "sqlite:////a", "settings": {}, "faults": {}}
    plans = apps.told(answer | {"beat": {"entries": [odd], "faults": [[2, "\x1b"]]}})
    looks = Looks(dialects.of("sqlite", dialects.Limits(1.0, 1.0)))
    looks.plan(plans["beat_schedule"], time.time())
    assert looks.last is not None
    assert looks.last.up
    name, other = (fault.name for fault in looks.last.faults)
    assert (name, other) == ("?" + "x" * 511, "2")


# --- Django -------------------------------------------------------------------------------------

SERVER = {
    "NAME": "shop",
    "USER": "u",
    "PASSWORD": "p@ss:w/rd",
    "HOST": "db.example",
    "PORT": "1234",
}
POSTGRESQL = {"ENGINE": "django.db.backends.postgresql", **SERVER}
MYSQL = {"ENGINE": "django.db.backends.mysql", **SERVER}
#: Databases, and what they come to: a URL without its password, and arguments for the driver.
DATABASES = {
    "default": (
        {"ENGINE": "django.db.backends.sqlite3", "NAME": "shop 100%.db"},
        ("sqlite:///{}/shop 100%.db", {}),
    ),
    "uri": (
        {"ENGINE": "django.db.backends.sqlite3", "NAME": "file:/a.db?mode=rw"},
        ("sqlite:////a.db", {}),
    ),
    "server": (
        POSTGRESQL | {"OPTIONS": {"sslmode": "verify-full", "sslrootcert": "/ca", "pool": True}},
        (
            "postgresql+psycopg://u@db.example:1234/shop",
            {"sslmode": "verify-full", "sslrootcert": "/ca"},
        ),
    ),
    "role": (
        POSTGRESQL | {"OPTIONS": {"assume_role": "a b", "options": "-c search_path=shop"}},
        (
            "postgresql+psycopg://u@db.example:1234/shop",
            {"options": "-c search_path=shop -c role=a\\ b"},
        ),
    ),
    "socket": (
        POSTGRESQL | {"HOST": "/run/postgresql"},
        ("postgresql+psycopg://u@/shop", {"host": "/run/postgresql", "port": "1234"}),
    ),
    "service": (
        {"ENGINE": "django.db.backends.postgresql", "OPTIONS": {"service": "shop"}},
        ("postgresql+psycopg://?service=shop", {}),
    ),
    "mysql": (
        MYSQL
        | {
            "OPTIONS": {
                "ssl": {"ca": "/ca"},
                "init_command": "SET x=1",
                "isolation_level": "serializable",
            }
        },
        ("mysql+mysqldb://u@db.example:1234/shop", {"ssl": {"ca": "/ca"}}),
    ),
    "sql-server": (
        {
            "ENGINE": "mssql",
            **SERVER,
            "OPTIONS": {
                "driver": "ODBC Driver 17 for SQL Server",
                "extra_params": "Encrypt=yes; TrustServerCertificate=no",
            },
        },
        (
            (
                "mssql+pyodbc://u@db.example:1234/shop?Encrypt=yes&TrustServerCertificate=no"
                "&driver=ODBC+Driver+17+for+SQL+Server"
            ),
            {},
        ),
    ),
    "dsn": (
        {"ENGINE": "mssql", **SERVER, "OPTIONS": {"dsn": "shop"}},
        ("mssql+pyodbc://u@shop", {}),
    ),
    "mysql-socket": (
        MYSQL | {"HOST": "/run/mysqld.sock", "PORT": "", "PASSWORD": 1234},
        ("mysql+mysqldb://u@/shop", {"unix_socket": "/run/mysqld.sock"}),
    ),
}


def test_databases_of_django(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = {alias: database for alias, (database, _) in DATABASES.items()}
    for variable, value in bookshop(tmp_path, DATABASES=settings).items():
        monkeypatch.setenv(variable, value)
    backends = loaded(
        *(
            {"name": alias, "django_settings": {"module": "bookshop.settings", "database": alias}}
            for alias in DATABASES
        )
    )
    for backend, (database, (url, arguments)) in zip(backends, DATABASES.values(), strict=True):
        password = database.get("PASSWORD")
        assert backend.url.password == (password and str(password)), backend.name
        plain = unquote(backend.url._replace(password=None).render_as_string())
        assert plain == url.format(tmp_path), backend.name
        given = backend.database_engine_options.get("connect_args", {})
        assert given == arguments, backend.name


@pytest.mark.parametrize(
    ("settings", "zone"),
    [
        ({"TIME_ZONE": "Asia/Tokyo"}, "UTC"),
        ({"TIME_ZONE": "Asia/Tokyo", "USE_TZ": False}, "Asia/Tokyo"),
        ({"CELERY_RESULT_BACKEND": "django-db", "CELERY_RESULT_EXTENDED": True}, "UTC"),
        (
            {
                "CELERY_RESULT_BACKEND": "db+sqlite:///celery.db",
                "CELERY_DATABASE_TABLE_NAMES": {"task": "other"},
                "CELERY_TIMEZONE": "Europe/Paris",
            },
            "Europe/Paris",
        ),
    ],
)
def test_settings_of_django(
    settings: dict[str, object], zone: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Celery's database where they name one, else Django's; the app says the same."""
    database = {"ENGINE": "django.db.backends.sqlite3", "NAME": "django.db"}
    for variable, value in bookshop(tmp_path, DATABASES={"default": database}, **settings).items():
        monkeypatch.setenv(variable, value)
    by_settings = {"name": "bookshop", "django_settings": "bookshop.settings"}
    by_app = {"name": "app", "celery_app": "bookshop.celery"}
    in_celery = str(settings.get("CELERY_RESULT_BACKEND", "")).startswith("db+")
    expected = tmp_path / ("celery.db" if in_celery else "django.db")
    entries = [by_settings] + [by_app] * ("CELERY_RESULT_BACKEND" in settings)
    for backend in loaded(*entries):
        assert backend.url.database == str(expected)
        assert backend.timezone.key == zone
        assert backend.database_table_names.task == ("other" if in_celery else None)
        if "CELERY_RESULT_EXTENDED" in settings:
            assert backend.result_extended is True


def test_settings_of_django_that_cannot_be_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    databases = {
        "default": {"ENGINE": "django.db.backends.dummy"},
        "memory": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"},
        "nameless": {"ENGINE": "django.db.backends.postgresql"},
        "odbc": {"ENGINE": "mssql", "NAME": "shop", "OPTIONS": {"driver": "FreeTDS"}},
    }
    env = bookshop(tmp_path, DATABASES=databases, CELERY_RESULT_BACKEND="redis://:hunter2@h/0")
    for variable, value in env.items():
        monkeypatch.setenv(variable, value)
    expected = {
        "bookshop.settings": "has its results in 'redis', which is no SQL database; ",
        "bookshop.setings": "cannot be read: ModuleNotFoundError: No module named 'bookshop.",
        "default": "has an ENGINE that is not known here: 'django.db.backends.dummy'; ",
        "memory": "its result_backend: a SQLite database in memory has no other process's results",
        "nameless": "cannot be read: ImproperlyConfigured: settings.DATABASES is improperly",
        "odbc": "has the ODBC driver 'FreeTDS' in DATABASES['odbc'], which cannot be handed over",
        "other": "has no database 'other' in its DATABASES: default, memory, nameless, odbc",
    }
    module, wrong, *aliases = expected
    said = faults(
        {"name": "1", "django_settings": module},
        {"name": "2", "django_settings": wrong},
        *(
            {"name": alias, "django_settings": {"module": module, "database": alias}}
            for alias in aliases
        ),
    )
    for line, text in zip(said, expected.values(), strict=True):
        assert f".django_settings: {text}" in line
        assert "hunter2" not in line


# --- the parts ----------------------------------------------------------------------------------


def test_both_sides_know_the_same_secrets() -> None:
    assert answers._SECRET_KEY.pattern == redaction._SECRET_KEY.pattern


def test_answer_that_is_too_long_is_one_line() -> None:
    pipe, end = os.pipe()
    answers.send({"url": "x" * 100_000}, end)
    os.close(end)
    assert "too long" in child.inherited(pipe)["fault"]


def test_package_runs_without_the_exporter() -> None:
    """A project may have a package of that name: Celery loads ours for each of its commands."""
    code = (
        "import json, sys, celery_results_exporter.command\n"
        "print(json.dumps([m for m in sys.modules if m.partition('.')[0] == 'exporter']))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
    assert json.loads(done.stdout) == []
