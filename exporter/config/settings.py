"""What is configured: typed and frozen.

The keys are Celery's own where they say what Celery's settings say, so that people can paste them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple
from zoneinfo import ZoneInfo, available_timezones

from pydantic import AfterValidator, BeforeValidator, Field, InstanceOf
from sqlalchemy.engine import URL

from exporter import durations, redaction
from exporter.config.expected import ExpectedTask
from exporter.config.labels import ExtraLabels, LabelRule
from exporter.config.model import Duration, Model, Text, Truth, Whole, at_least
from exporter.config.secretfiles import read_secret
from exporter.counting.expected import Expectations
from exporter.counting.lifecycle import Rules
from exporter.counting.measures import Measures
from exporter.counting.relabelling import Relabelling
from exporter.errors import BackendError, Reason
from exporter.metrics.catalogue import RUNTIME_BUCKETS


def _zone(value: object) -> ZoneInfo | None:
    if value is None or isinstance(value, ZoneInfo):
        return value
    if value == AUTO:
        return None
    try:
        return durations.parse_zone(str(value))
    except ValueError:
        raise ValueError(_no_zone(str(value))) from None


def _no_zone(value: str) -> str:
    known = available_timezones()  # reads them all
    if not known:
        return (
            "cannot be looked up: this system has no time zones; pip install tzdata, or install "
            "your system's tzdata package"
        )
    near = get_close_matches(value, known, n=1)
    advice = f"did you mean {near[0]}?" if near else "write it like Europe/Paris or UTC"
    return f"is not a time zone; {advice}"


def _ascending(bounds: list[float]) -> list[float]:
    if not 1 <= len(bounds) <= MOST_BUCKETS:
        raise ValueError(f"has {len(bounds)} buckets; name 1 to {MOST_BUCKETS}")
    if not all(lower < upper for lower, upper in pairwise([0.0, *bounds])):
        raise ValueError("do not ascend; begin with the shortest, and name each once")
    return bounds


def _counts(bounds: list[int]) -> list[int]:
    if len(bounds) > MOST_BUCKETS:
        raise ValueError(f"has {len(bounds)} buckets; name {MOST_BUCKETS} at most")
    if any(lower >= upper for lower, upper in pairwise([-1, *bounds])):
        raise ValueError("do not ascend; begin with 0 or more, and name each once")
    return bounds


def _each_once(parts: list[str]) -> list[str]:
    if len(set(parts)) < len(parts):
        raise ValueError("name one twice")
    return parts


def _remember_options(value: dict[str, Any]) -> dict[str, Any]:
    for key, option in value.items():
        if isinstance(option, dict):
            _remember_options(option)
        elif isinstance(option, str) and redaction.names_a_secret(str(key)):
            redaction.remember(option)
    return value


_RULES = Rules()
MOST_BUCKETS = 50
AUTO = "auto"  # of a time zone: find out


class TableNames(Model, frozen=True):
    """Celery's ``database_table_names``; None: Celery's own."""

    task: Text | None = None
    group: Text | None = None


class TableSchemas(Model, frozen=True):
    """Celery's ``database_table_schemas``; None is the connection's own."""

    task: Text | None = None
    group: Text | None = None


class Settings(Model, frozen=True):
    """What ``defaults:`` may set, and each backend for itself. Durations are in seconds."""

    database_table_names: TableNames = TableNames()
    database_table_schemas: TableSchemas = TableSchemas()
    database_engine_options: Annotated[dict[str, Any], AfterValidator(_remember_options)] = Field(
        default_factory=dict, repr=False
    )
    result_extended: Truth | None = None  # None: find out
    tables: Literal["celery", "django"] | None = None  # None: find out
    timezone: Annotated[ZoneInfo | None, BeforeValidator(_zone)] = None  # None: find out
    poll_interval: Annotated[Duration, at_least("50ms")] = _RULES.poll_interval
    query_timeout: Annotated[Duration, at_least("1ms")] = 10.0
    connect_timeout: Annotated[Duration, at_least("1ms")] = 5.0
    start: Literal["end", "beginning"] = _RULES.start
    late_commit_grace: Duration = _RULES.late_commit_grace
    revision_window: Duration = _RULES.revision_window
    first_zero: Duration = 60.0
    stale_after: Duration = 7 * 86_400.0  # 0: no series ever is
    runtime_buckets: Annotated[list[Duration], AfterValidator(_ascending)] = Field(
        default_factory=lambda: list(RUNTIME_BUCKETS)
    )
    retries_buckets: Annotated[list[Whole], AfterValidator(_counts)] = Field(default_factory=list)
    payload_bytes: Annotated[
        list[Literal["result", "args", "kwargs"]], AfterValidator(_each_once)
    ] = Field(default_factory=list)
    groups: Truth = True
    series_limit: Annotated[Whole, Field(ge=1)] = 20_000
    labels: list[LabelRule] = Field(default_factory=list)
    extra_labels: ExtraLabels = Field(default_factory=dict)
    expected: list[ExpectedTask] = Field(default_factory=list)


class BeatSchedule(NamedTuple):
    """What celery beat is to send by the settings of an app, as rows of its tables would say it."""

    entries: tuple[Mapping[str, Any], ...] = ()
    faults: tuple[tuple[str, str], ...] = ()  # names of entries, and why they cannot be read
    fault: str = ""  # why there are none


class Backend(Settings, frozen=True):
    """One result backend, with the defaults merged in."""

    name: Text
    url: InstanceOf[URL] = Field(repr=False)
    username: Text | None = None
    password_file: Path | None = None
    beat_database: InstanceOf[URL] | None = Field(None, repr=False)
    beat_schema: Text | None = None  # None: wherever the tables usually are
    beat_schedule: InstanceOf[BeatSchedule] | None = None  # of its app; None: it has none

    def relabelling(self) -> Relabelling:
        """Return what its rules make of labels."""
        return Relabelling([rule.rule() for rule in self.labels])

    def measures(self) -> Measures:
        """Return what is measured of its results."""
        retries = tuple(map(float, self.retries_buckets))
        return Measures(tuple(self.runtime_buckets), retries, tuple(self.payload_bytes))

    def expectations(self) -> Expectations:
        """Return which tasks have to succeed how often."""
        return Expectations([each.expectation() for each in self.expected])

    def beat(self) -> Backend | None:
        """Return what leads to the tables of celery beat; None: they are beside the results."""
        if self.beat_database is None:
            return None
        own = {"url": self.beat_database, "username": None, "password_file": None}
        return self.model_copy(update=own | {"database_engine_options": dict[str, Any]()})

    def connection_url(self) -> URL:
        """Return the URL to connect with; the password file is read again, so it may rotate."""
        url = self.url if self.username is None else self.url.set(username=self.username)
        if self.password_file is None:
            return url
        try:
            return url.set(password=read_secret(self.password_file))
        except ValueError as error:
            raise BackendError(Reason.CONNECT, f"password_file {error}") from None


@dataclass(frozen=True, slots=True)
class Config:
    """Everything the configuration says."""

    backends: tuple[Backend, ...]
    checkpoint: Path | URL | None  # a file, a database; None: counts live in memory
    hash: float  # changes when the configuration does
