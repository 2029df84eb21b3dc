"""SQL Server's statements. No server can be installed here, so they are compiled, not run.

With TEST_MSSQL_URL set, every test that takes the `database` fixture runs on a real one.
"""

from __future__ import annotations

import re
from decimal import Decimal
from typing import TYPE_CHECKING, Any
from zoneinfo import ZoneInfo

import pytest
from sqlalchemy import column
from sqlalchemy.dialects import mssql
from sqlalchemy.dialects.mssql import (
    BIGINT,
    CHAR,
    DATETIME,
    DATETIME2,
    DECIMAL,
    IMAGE,
    INTEGER,
    NVARCHAR,
    TEXT,
    UNIQUEIDENTIFIER,
    VARCHAR,
)

from exporter.backends.family import build
from exporter.backends.reader import Reader
from exporter.backends.tables import celery
from exporter.counting.audit import Audit, Segment
from exporter.counting.lifecycle import Watch
from exporter.counting.measures import PARTS, Measures
from exporter.counting.spans import MIN_ID, Missing, Span
from exporter.counting.step import Anchor, Cohort, Plan
from exporter.errors import Reason
from exporter.sql import dialects
from exporter.sql.dialects import Limits
from exporter.sql.inspection import Facts
from exporter.sql.kinds import Kind

if TYPE_CHECKING:
    pass

LIMITS = Limits(connect=5.0, query=10.0)
WATCH = Watch("STARTED", "mail.send", "w", "q", first_seen=0.0)
#: As Celery makes them there.
DECLARED = {
    "id": BIGINT(),
    "task_id": VARCHAR(155),
    "status": VARCHAR(50),
    "result": IMAGE(),
    "date_done": DATETIME(),
    "traceback": TEXT(),
    "name": VARCHAR(155),
    "worker": VARCHAR(155),
    "queue": VARCHAR(155),
    "retries": INTEGER(),
}


ID_COLUMN = ("decimal", 20, 0, False, Decimal(2**63 - 1))


class Answer:
    """A result of one number, or of no rows."""

    def scalar(self) -> int:
        return 2**62

    scalar_one = scalar

    def one(self) -> tuple[int, int, None]:
        return 2**62, MIN_ID, None

    def one_or_none(self) -> tuple[str, int, int, bool, Decimal]:
        return ID_COLUMN

    def scalars(self) -> list[int]:
        return []

    def all(self) -> list[Any]:
        return []

    def __iter__(self) -> Any:
        return iter(())


class Recorder:
    """Stands for a connection to a server that is not to be had: compiles what it is given."""

    def __init__(self) -> None:
        self.dialect = mssql.dialect()
        self.dialect.server_version_info = (15, 0, 2000)  # SQL Server 2019
        self.dialect._setup_version_attributes()
        self.statements: list[str] = []

    def execute(self, statement: Any, given: Any = None, **_: object) -> Answer:
        compiled = statement.compile(dialect=self.dialect)
        expanded = compiled.construct_expanded_state(given)
        self.statements.append(" ".join(expanded.statement.split()))
        self.parameters = expanded.parameters
        return Answer()


@pytest.fixture(params=[True, False], ids=["snapshot", "no-snapshot"])
def statements(request: pytest.FixtureRequest) -> list[str]:
    """Everything that is asked when there is something of every kind to ask."""
    dialect = dialects.of("mssql", LIMITS)
    dialect.snapshot = request.param
    recorder = Recorder()
    facts = Facts(DECLARED, frozenset())
    table = build(celery.TASK, "celery_taskmeta", "dbo", facts, set(DECLARED), dialect.adapt)
    measures = Measures(retries=(0.0, 1.0), payload=PARTS)
    reader = Reader(table, dialect, ZoneInfo("UTC"), measures)
    reader.read(recorder, Plan(look=True))  # type: ignore[arg-type]
    everything = Plan(
        after=MIN_ID,
        gaps=(Missing(Span(MIN_ID, MIN_ID + 5)), Missing(Span(-7, -3), 2)),
        watched=(MIN_ID, -1, 5),
        cohorts=(Cohort([MIN_ID, 5], 0.0, 0.0), Cohort([6, 7], 0.0, 0.0)),
        known=dict.fromkeys((MIN_ID, 5, 6, 7), WATCH),
        anchors=(Anchor(-3, "x"),),
        below=-5,
        deleted=Span(MIN_ID, -1),
        audit=Audit(Segment(Span(MIN_ID, 9), 0.0, 0, {"mail.send": 1})),
    )
    reader.read(recorder, everything)  # type: ignore[arg-type]
    reader.read(recorder, Plan())  # type: ignore[arg-type]
    reader.health(recorder)  # type: ignore[arg-type]
    assert len(recorder.statements) > 10
    return recorder.statements


def test_no_limit_but_top_or_offset(statements: list[str]) -> None:
    everything = "\n".join(statements)
    assert not re.search(r"\bLIMIT\b", everything)
    assert re.search(r"\bTOP\b", everything)
    assert re.search(r"OFFSET .* ROWS", everything)


def test_groups_are_of_exact_characters(statements: list[str]) -> None:
    """The default collation merges names that differ in case, T-SQL those that end in blanks."""
    for statement in statements:
        grouped = statement.partition("GROUP BY")[2]
        assert grouped.count("COLLATE Latin1_General_BIN2) + N'.'") == grouped.count("CAST")
        assert "AS VARBINARY" not in statement


def test_ids_are_compared_as_bigints(statements: list[str]) -> None:
    recorder = Recorder()
    facts = Facts({"id": BIGINT()}, frozenset())
    adapt = dialects.of("mssql", LIMITS).adapt
    table = build(celery.GROUP, "celery_tasksetmeta", None, facts, {"id"}, adapt)
    recorder.execute(table.table.select().where(table.id > MIN_ID))
    assert recorder.parameters == {"id_1": MIN_ID}
    assert statements


@pytest.mark.parametrize("label", ["mail.sénd ", "메일", "", "ends with."])
def test_labels_come_back_as_they_are(label: str) -> None:
    dialect = dialects.of("mssql", LIMITS)
    assert dialect.text(dialect.exact_value(label)) == label
    assert dialect.text(None) == ""


def test_tables_are_looked_at_by_one_statement() -> None:
    recorder = Recorder()
    names = [("celery_taskmeta", None), ("celery_tasksetmeta", "own schema")]
    assert dialects.of("mssql", LIMITS).look_at(recorder, names) == [None, None]  # type: ignore[arg-type]
    (statement,) = recorder.statements
    assert "TYPE_NAME(c.system_type_id)" in statement  # of an alias, what it stands for
    assert recorder.parameters == {
        "name_0": "celery_taskmeta",
        "name_1": "[own schema].celery_tasksetmeta",
    }


@pytest.mark.parametrize(
    ("kind", "declared", "expression"),
    [
        (Kind.LABEL, CHAR(50), "rtrim(c)"),
        (Kind.LABEL, TEXT(), "CAST(c AS NVARCHAR(max))"),
        (Kind.LABEL, UNIQUEIDENTIFIER(), "CAST(c AS NVARCHAR(max))"),
        (Kind.BYTES, NVARCHAR(), "CAST(CAST(c AS VARCHAR(max)) AS VARBINARY(max))"),
        (Kind.BYTES, IMAGE(), "c"),
        (Kind.LABEL, IMAGE(), None),
        (Kind.WHOLE, NVARCHAR(), None),
        (Kind.WHOLE, DECIMAL(38, 0), "c"),
        (Kind.MOMENT, DATETIME2(), "c"),
        (Kind.MOMENT, NVARCHAR(), None),
    ],
)
def test_columns_of_other_types(kind: Kind, declared: Any, expression: str | None) -> None:
    adapted = dialects.of("mssql", LIMITS).adapt(column("c"), kind, declared)  # type: ignore[arg-type]
    compiled = adapted if adapted is None else str(adapted.compile(dialect=mssql.dialect()))
    assert compiled == expression


@pytest.mark.parametrize(
    ("column", "highest"),
    [
        (("tinyint", 3, 0, False, None), 2**8 - 1),
        (("smallint", 5, 0, False, None), 2**15 - 1),
        (("int", 10, 0, True, Decimal(1000)), 2**31 - 1),  # an identity asks no sequence
        (("bigint", 19, 0, False, None), 2**63 - 1),
        (("bigint", 19, 0, False, Decimal(1000)), 1000),
        (("decimal", 9, 0, False, None), 10**9 - 1),
        (("numeric", 20, 0, False, Decimal(2**63 - 1)), 2**63 - 1),
        (("decimal", 9, 2, False, None), None),
        (("float", 53, 0, False, None), None),
        (None, None),
    ],
)
def test_highest_id(monkeypatch: pytest.MonkeyPatch, column: Any, highest: int | None) -> None:
    monkeypatch.setattr(Answer, "one_or_none", lambda _: column)
    facts = Facts({"id": BIGINT()}, frozenset())
    dialect = dialects.of("mssql", LIMITS)
    table = build(celery.GROUP, "celery_tasksetmeta", None, facts, {"id"}, dialect.adapt)
    assert (
        dialect.highest_id(Recorder(), table.table, "id", celery.GROUP.sequence)  # type: ignore[arg-type]
        == highest
    )


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (("28000", "[28000] Login failed for user 'reader'. (18456)"), Reason.CONNECT),
        (("42000", "[42000] Cannot open database 'x'. (4060)"), Reason.CONNECT),
        (("42000", "[42000] The SELECT permission was denied (229)"), Reason.PERMISSION),
        (("42000", "[42000] Lock request time out period exceeded. (1222)"), Reason.TIMEOUT),
        (("HYT00", "[HYT00] Query timeout expired"), Reason.TIMEOUT),
        (("42S02", "[42S02] Invalid object name 'celery_taskmeta'. (208)"), Reason.SCHEMA),
        (("08S01", "[08S01] Communication link failure"), Reason.CONNECT),
        (("42000", "[42000] Incorrect syntax near 'x'. (102)"), Reason.QUERY),
    ],
)
def test_errors_are_classified(arguments: tuple[str, str], reason: Reason) -> None:
    import pyodbc  # noqa: PLC0415 - only here is the driver needed
    from sqlalchemy.exc import DBAPIError  # noqa: PLC0415

    error = DBAPIError("SELECT 1", {}, pyodbc.Error(*arguments))
    assert dialects.of("mssql", LIMITS).reason(error) is reason
