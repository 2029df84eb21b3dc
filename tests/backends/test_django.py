"""The tables of django-celery-results, made by its own migrations."""

from __future__ import annotations

import uuid
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args
from zoneinfo import ZoneInfo

import pytest
from sqlalchemy import MetaData, Table, literal_column, select

from exporter.backends import tables
from exporter.checkpoint.checkpoint import open_file
from exporter.commands.check import check
from exporter.commands.verify import verify
from exporter.config.settings import Config, Settings
from tests.backends.test_probe import otherwise
from tests.backends.test_work import (
    MOST_ROWS,
    MOST_STATEMENTS,
    ROWS_A_LABEL_SET,
    follow,
    idle,
    work,
)
from tests.djangoshop import migrate
from tests.follow import Follower, create_tables, insert

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.servers.database import Database

TASKS, GROUPS = (f"django_celery_results_{name}result" for name in ("task", "group"))
RESULTS = "celery_task_results_total"
RUNTIME = "celery_task_runtime_seconds"
DATABASES = pytest.mark.parametrize(
    "database", ["sqlite", "postgresql", "mariadb-pymysql"], indirect=True
)
ON_SQLITE, ON_POSTGRESQL, ON_BOTH = (
    pytest.mark.parametrize("database", names, indirect=True)
    for names in (["sqlite"], ["postgresql"], ["sqlite", "postgresql"])
)
NOW = datetime.now(UTC).replace(microsecond=250_000)
YEAR_9999 = "9999-12-31 00:00:00"
LONG_AGO = NOW - timedelta(days=30)


class Shop:
    """The tables, as the owner writes them."""

    def __init__(self, database: Database) -> None:
        self.engine = database.engine()
        self.aware = database.owner.get_backend_name() == "postgresql"
        self.look()

    def look(self) -> None:
        """Take the tables as they are now."""
        self.tasks, self.groups = (
            Table(name, MetaData(), autoload_with=self.engine) for name in (TASKS, GROUPS)
        )

    def stored(self, moment: datetime) -> datetime:
        """Return a date as it is stored: in UTC, or with its zone."""
        return moment if self.aware else moment.astimezone(UTC).replace(tzinfo=None)

    def insert(self, status: str = "SUCCESS", done: datetime = NOW, **values: Any) -> int:
        row = {
            "task_id": str(uuid.uuid4()),
            "status": status,
            "task_name": "shop.sell",
            "worker": "w1@host",
            "content_type": "application/json",
            "content_encoding": "utf-8",
            "date_created": done - timedelta(days=1),
            "date_done": done,
        } | values
        row = {k: self.stored(v) if isinstance(v, datetime) else v for k, v in row.items()}
        with self.engine.begin() as connection:
            return connection.execute(self.tasks.insert().values(row)).inserted_primary_key[0]

    def ran(self, seconds: float, status: str = "SUCCESS", done: datetime = NOW, **v: Any) -> int:
        """Insert the result of a task that ran so long."""
        return self.insert(status, done, date_started=done - timedelta(seconds=seconds), **v)

    def update(self, row_id: int, status: str, **values: Any) -> None:
        row = {k: self.stored(v) if isinstance(v, datetime) else v for k, v in values.items()}
        here = self.tasks.c.id == row_id
        with self.engine.begin() as connection:
            connection.execute(self.tasks.update().where(here).values(status=status, **row))


@pytest.fixture
def shop(database: Database) -> Shop:
    migrate(database.owner)
    return Shop(database)


@pytest.fixture
def follower(database: Database, shop: Shop) -> Iterator[Follower]:
    assert shop, "the tables are there"
    follower = Follower(database.reader_url)
    yield follower
    follower.close()


def runs(follower: Follower) -> tuple[float, float]:
    """Return how many runs were timed, and how long they took together, seconds."""
    return follower.total(f"{RUNTIME}_count"), follower.total(f"{RUNTIME}_sum")


def test_every_family_can_be_asked_for() -> None:
    (names, none) = get_args(Settings.model_fields["tables"].annotation)
    assert set(get_args(names)) == {family.name for family in tables.FAMILIES}
    assert none is type(None)


@DATABASES
def test_tables_of_each_version(database: Database) -> None:
    """The migrations are those of 2.6, whose first ten are 2.2's: they are brought up meanwhile."""
    migrate(database.owner, "0010")
    shop = Shop(database)
    shop.insert()
    shop.insert("FAILURE", result='{"exc_type": "KeyError", "exc_message": ["x"]}')
    shop.insert("STARTED")
    follower = Follower(database.reader_url)
    assert_family(follower, "django-celery-results-2.2", runtimes=0)
    assert follower.states() == {"SUCCESS": 1, "FAILURE": 1}
    assert follower.value("celery_task_failures_total", exception="KeyError") == 1
    assert follower.total("celery_task_unfinished") == 1
    migrate(database.owner, "0011")
    assert_family(follower, "django-celery-results-2.3", runtimes=0)
    migrate(database.owner)
    shop.look()
    last = shop.ran(4.0)
    assert_family(follower, "django-celery-results-2.6", runtimes=1)
    assert follower.states() == {"SUCCESS": 2, "FAILURE": 1}
    assert runs(follower) == (1, 4.0)
    assert follower.samples("celery_task_retries_total") == []  # there is no column for them
    largest = 2**63 - 1 if database.owner.get_backend_name() == "sqlite" else 2**31 - 1
    used = follower.value("celery_backend_id_used_ratio", table="task")
    assert used == pytest.approx(last / largest)
    follower.close()


def assert_family(follower: Follower, family: str, *, runtimes: int) -> None:
    follower.poller.follower.database.look_again()
    follower.poller.follower._health_due = 0.0
    follower.poll()
    assert follower.total("celery_backend_info", schema_family=family) == 1
    assert follower.value("celery_backend_capability", capability="runtimes") == runtimes
    assert follower.value("celery_backend_capability", capability="date_done_index") == 1


@DATABASES
def test_runtimes_are_those_of_the_rows(follower: Follower, shop: Shop) -> None:
    """In groups and one by one, of history and of news; each in the bucket that it belongs to."""
    took = [0.0, 0.5, 1.0, 1.25, 60.0, 100_000.0]
    for done in (LONG_AGO, NOW):
        for seconds in took:
            for status in ("SUCCESS", "FAILURE"):
                shop.ran(seconds, status, done, date_created=done - timedelta(days=2))
        for status in ("SUCCESS", "FAILURE", "REVOKED"):
            shop.insert(status, done)
    follower.poller.follower.pace.chunk = 15  # the rows of long ago: history, by themselves
    follower.poll()
    assert follower.states() == {"SUCCESS": 14, "FAILURE": 14, "REVOKED": 2}
    count, total = runs(follower)
    assert (count, total) == (4 * len(took), pytest.approx(4 * sum(took)))
    buckets = {labels["le"]: n for labels, n in follower.samples(f"{RUNTIME}_bucket")}
    below = {float(le): n for le, n in buckets.items()}
    assert below == {le: 4 * sum(seconds <= le for seconds in took) for le in below}
    shop.ran(3.0)
    failed = shop.ran(5.0, "FAILURE")
    assert runs(follower.poll()) == (count + 2, pytest.approx(total + 8.0))
    shop.update(failed, "SUCCESS", date_started=NOW - timedelta(seconds=7))
    follower.poll()
    assert follower.total("celery_task_results_revised_total") == 1
    assert runs(follower) == (count + 2, pytest.approx(total + 8.0))  # once a row


@DATABASES
def test_dates_that_cannot_be_right_are_not_timed(
    database: Database, follower: Follower, shop: Shop
) -> None:
    """Clocks differ a little, zones by more: by a start outside its row's life nothing is known."""
    created = NOW - timedelta(seconds=30)
    beyond = "infinity" if database.owner.get_backend_name() == "postgresql" else YEAR_9999
    for status in ("SUCCESS", "FAILURE"):
        shop.ran(-50.0, status, date_created=created)  # a clock is behind: it took no time
        shop.ran(80.0, status, date_created=created)
        for seconds in (-70.0, 100.0, 9 * 3600.0, -9 * 3600.0):
            shop.ran(seconds, status, date_created=created)
        for column in ("date_done", "date_started", "date_created"):
            row = shop.ran(1.0, status)
            with shop.engine.begin() as connection:
                connection.exec_driver_sql(
                    f"UPDATE {TASKS} SET {column} = '{beyond}' WHERE id = {row}"
                )
    follower.poll()
    assert follower.states() == {"SUCCESS": 9, "FAILURE": 9}
    assert runs(follower) == (4, 160.0)


@pytest.mark.parametrize("database", ["mariadb-pymysql"], indirect=True)
def test_start_is_in_the_zone_of_the_server(database: Database, shop: Shop) -> None:
    """As CURRENT_TIMESTAMP gives it to all who set no other: Django does not."""
    tokyo = timedelta(hours=9)
    shop.insert(date_started=NOW + tokyo - timedelta(seconds=4))
    shop.insert("FAILURE", date_started=NOW + tokyo - timedelta(seconds=5))
    session = {"connect_args": {"init_command": "SET time_zone = '+09:00'"}}
    follower = Follower(database.reader_url, database_engine_options=session).poll()
    assert runs(follower) == (2, 9.0)
    follower.close()


@ON_BOTH
def test_wall_time_is_read_in_its_zone(database: Database, shop: Shop) -> None:
    """Without USE_TZ; where a start is of a server's clock, that is another zone perhaps."""
    zone = ZoneInfo("Asia/Tokyo")
    wall = NOW if shop.aware else NOW.astimezone(zone).replace(tzinfo=UTC)
    shop.ran(4.0, done=wall)
    follower = Follower(database.reader_url, timezone=zone).poll()
    last = follower.value("celery_task_last_finished_timestamp_seconds", state="SUCCESS")
    assert last == pytest.approx(NOW.timestamp())
    assert runs(follower) == ((1, 4.0) if shop.aware else (0, 0.0))
    told = follower.value("celery_backend_capability", capability="runtimes")
    assert told == int(shop.aware)
    follower.close()


@ON_SQLITE
def test_groups_and_their_updates(follower: Follower, shop: Shop) -> None:
    """A group that is saved again is the same row."""
    with shop.engine.begin() as connection:
        row = {"date_created": NOW, "date_done": NOW, "content_type": "", "content_encoding": ""}
        row = {k: shop.stored(v) if isinstance(v, datetime) else v for k, v in row.items()}
        connection.execute(shop.groups.insert().values(group_id="g1", **row))
    assert follower.poll().value("celery_group_results_total") == 1
    with shop.engine.begin() as connection:
        connection.execute(shop.groups.update().values(content_type="x"))
    assert follower.poll().value("celery_group_results_total") == 1
    last = follower.value("celery_group_last_saved_timestamp_seconds")
    assert last == pytest.approx(NOW.timestamp())


@ON_SQLITE
def test_both_are_there(
    database: Database, shop: Shop, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Celery's are read, but where others are asked for, or were counted before."""
    shop.insert()
    with create_tables(database).begin() as connection:
        insert(connection, name="app.add")
    follower = Follower(database.reader_url).poll()
    assert follower.total(RESULTS, task="app.add") == 1
    assert follower.total(RESULTS, task="shop.sell") == 0
    assert check(Config((follower.poller.settings,), None, 0.0)) == 0
    warning = f"{TASKS} is there, too, and is not read: set tables to django if it is meant"
    assert warning in capsys.readouterr().out
    follower.close()
    path = tmp_path / "checkpoint.sqlite"
    for settings in ({"tables": "django"}, {}):
        checkpoint = open_file(path)
        follower = Follower(database.reader_url, checkpoint, **settings).poll()
        assert follower.total(RESULTS, task="app.add") == 0
        assert follower.total(RESULTS, task="shop.sell") == 1
        config = Config((follower.poller.settings,), path, 0.0)
        follower.close()
        checkpoint.close()
        for command in (verify, check):
            assert command(config) == 0
        assert "1 present, 1 counted, 0 missing" in capsys.readouterr().out
    follower = Follower(database.reader_url, open_file(path), tables="celery")
    assert not follower.poller.try_poll()
    assert "the checkpoint holds counts of django_celery_results" in follower.poller.status.message


@ON_BOTH
def test_tables_that_come_later_are_counted_from_their_first_row(
    database: Database, tmp_path: Path
) -> None:
    """Whichever come: until then a checkpoint, too, knows of none."""
    if database.owner.get_backend_name() == "sqlite":
        Path(database.owner.database).touch()
    path = tmp_path / "checkpoint.sqlite"
    for restarts in range(2):
        checkpoint = open_file(path)
        follower = Follower(database.reader_url, checkpoint, start="end").poll()
        assert follower.poller.status.message.startswith("celery_taskmeta: table does not exist")
        if not restarts:
            follower.close()
            checkpoint.close()
    migrate(database.owner)
    Shop(database).insert()
    follower.poller.follower.database.look_again()
    assert follower.poll().states() == {"SUCCESS": 1}
    follower.close()
    checkpoint.close()


@ON_SQLITE
def test_one_that_changes_its_settings_goes_on(database: Database, shop: Shop) -> None:
    """Also without a checkpoint; in the same tables."""
    shop.insert()
    old = Follower(database.reader_url).poll()
    new = Follower(database.reader_url, stale_after=60.0)
    new.poller.succeed(old.poller)
    old.close()
    shop.insert()
    assert new.poll().states() == {"SUCCESS": 2}
    other = Follower(database.reader_url, tables="celery")
    other.poller.succeed(new.poller)
    assert other.states() == {}
    new.close()


@ON_POSTGRESQL
def test_tables_of_no_version_that_is_known(database: Database, shop: Shop) -> None:
    column = "status_of_it"
    with shop.engine.begin() as connection:
        connection.exec_driver_sql(f"ALTER TABLE {TASKS} RENAME COLUMN status TO {column}")
    for settings, advice in (
        ({}, ""),
        ({"tables": "django"}, "; check database_table_names.task"),
    ):
        follower = Follower(database.reader_url, **settings)
        assert not follower.poller.try_poll()
        assert follower.poller.status.message == (
            f"table '{TASKS}' has no column 'status': it is not a result table of "
            f"django-celery-results{advice}"
        )
        assert follower.value("celery_backend_poll_errors_total", reason="schema") == 1
        follower.close()


@ON_SQLITE
def test_a_table_with_another_name(database: Database, shop: Shop) -> None:
    """As that of a model of one's own; the names are of those tables that are asked for."""
    shop.insert()
    with shop.engine.begin() as connection:
        connection.exec_driver_sql(f"ALTER TABLE {TASKS} RENAME TO shop_taskresult")
    names = {"task": "shop_taskresult"}
    follower = Follower(database.reader_url).poll()
    assert "; there is shop_taskresult: if one of them is meant, set tables" in (
        follower.poller.status.message
    )
    follower.close()
    follower = Follower(database.reader_url, tables="django", database_table_names=names).poll()
    assert follower.states() == {"SUCCESS": 1}
    follower.close()


@ON_POSTGRESQL
def test_newest_of_a_task_is_its_exemplar(database: Database, shop: Shop) -> None:
    """Though its runs make a group for each bucket."""
    follower = Follower(database.reader_url).poll()
    for seconds in (3000.0, 0.5, 40.0):
        last = shop.ran(seconds)
    follower.poll()
    with shop.engine.connect() as connection:
        query = select(shop.tasks.c.task_id).where(shop.tasks.c.id == last)
        newest = connection.execute(query).scalar_one()
    tally = follower.poller.follower.tally
    (named,) = {exemplar.task_id for exemplar in tally.exemplars.values()}
    assert named == newest
    follower.close()


@ON_SQLITE
def test_server_that_counts_seconds_otherwise_is_down(follower: Follower) -> None:
    otherwise(follower, "elapsed", lambda *_: literal_column("7.0"))
    assert not follower.poller.try_poll()
    words = (
        "seconds from 0:02:00 before 2026-01-02 03:04:05 UTC should be 120.0, and it answers 7.0"
    )
    assert words in follower.poller.status.message


@ON_BOTH
def test_poll_sends_no_more_than_one_of_celery_s_tables(database: Database, shop: Shop) -> None:
    """New rows come as groups, one for each bucket: however many there are."""
    shop.ran(1.0)
    follower = follow(database, late_commit_grace=0.0)
    idle_work = idle(follower)
    assert len(idle_work.statements) <= MOST_STATEMENTS, idle_work.statements
    news = []
    for rows in (21, 210):
        for number in range(rows):
            shop.ran([0.5, 40.0, 3000.0][number % 3])
        with work() as done:
            follower.poll()
        news.append((len(done.statements), done.rows))
    assert runs(follower) == (232, pytest.approx(1.0 + 77 * (0.5 + 40.0 + 3000.0)))
    follower.close()
    assert news[0] == news[1]
    assert news[0][1] <= MOST_ROWS + 3 * ROWS_A_LABEL_SET
