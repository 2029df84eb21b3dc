"""Asks a server whether it does what the reader takes for granted (R0).

The reader assumes of a server how texts compare, what a cut returns, how a date reads. A server
that does otherwise gives wrong counts without any error: so it is asked to compare and return
constants, through the same expressions, in columns of the very types and collations that the
table has.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Connection,
    Select,
    String,
    Subquery,
    case,
    false,
    func,
    literal,
    literal_column,
    select,
    union_all,
)

from exporter.backends.family import ResultTable
from exporter.errors import BackendError, Reason
from exporter.sql.dialects import Dialect, decoded

WORDS = ("SUCCESS ", "success", "SUCCESS")  # what collations and padding make equal
FOREIGN = {"é": "e", "메일": "  "}  # each with what a careless comparison takes it for
MOMENT = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
MINUTE = 60
RAN = timedelta(minutes=2)
BYTES, START = b'\x80\x05\xff"{', 3
TEXT, END = "ends with these words", 11

QUESTIONS_KEPT = 20


@dataclass(frozen=True, slots=True)
class Expectation:
    """What the server is asked, and what it has to answer."""

    assumption: str
    expression: ColumnElement[Any]
    answer: object
    read: Callable[[Any], object] = int


Question = tuple[list[Expectation], str, Any]  # a statement and its values
_questions: dict[Hashable, Question] = {}


def ask(connection: Connection, dialect: Dialect, table: ResultTable) -> None:
    """Raise BackendError where the server does not answer as expected; one statement."""
    wanted, *question = _question(connection, dialect, table)
    answers = map(_plain, connection.exec_driver_sql(*question).one())
    for expectation, answer in zip(wanted, answers, strict=True):
        got = expectation.read(answer)
        if got != expectation.answer:
            raise BackendError(
                Reason.ASSUMPTION,
                f"the server cannot be read: {expectation.assumption} should be "
                f"{expectation.answer!r}, and it answers {got!r}; please report this",
            )


def _question(connection: Connection, dialect: Dialect, table: ResultTable) -> Question:
    """Return what is asked of all backends whose tables are alike: it takes 10 ms to make."""
    version = connection.dialect.server_version_info
    server = (type(dialect), dialect.variant, connection.dialect.driver, version)
    key = (*server, table.table.name, table.table.schema, table.shape)
    known = _questions.get(key)
    if known is None:
        wanted, question = expectations(dialect, table)
        compiled: Any = question.compile(dialect=connection.dialect)
        values = compiled.construct_params()
        if compiled.positional:
            values = tuple(values[name] for name in compiled.positiontup)
        known = wanted, str(compiled), values
        if len(_questions) >= QUESTIONS_KEPT:
            _questions.clear()
        _questions[key] = known
    return known


def expectations(dialect: Dialect, table: ResultTable) -> tuple[list[Expectation], Select[Any]]:
    """Return what the reader assumes, and the statement that asks for all of it."""
    known = _known(dialect, table)
    wanted = list(_assumed(dialect, table, known))
    return wanted, select(*(e.expression for e in wanted)).select_from(known)


def _assumed(dialect: Dialect, table: ResultTable, known: Subquery) -> Iterator[Expectation]:
    """Yield all that there is to ask, as far as the table has the columns for it."""
    for name in _texts(table):
        columns = {word: known.c[f"{name}_{number}"] for number, word in enumerate(WORDS)}
        yield _shown(dialect, name, columns[WORDS[0]], WORDS[0])
        yield _same(dialect, name, columns, WORDS[-1])
    for word, alike in FOREIGN.items():
        foreign = dialect.constant(word)
        if foreign is not None:
            yield _shown(dialect, "text", foreign, word)
            yield _same(dialect, "text", {word: foreign}, alike)
    layout = table.layout
    state, retries = table.column(layout.state), table.column(layout.retries)
    if state is not None:
        words = _column(table, state, [literal(word, String()) for word in WORDS])
        grouped = (
            select(dialect.label(words.c.it).label("it"), func.count().label("number"))
            .select_from(words)
            .group_by(dialect.exact(words.c.it))
            .subquery()
        )
        count = select(func.count()).select_from(grouped).scalar_subquery()
        yield Expectation(f"the number of groups of {WORDS}", count, len(WORDS))
    if retries is not None:
        numbers = _column(table, retries, [literal_column("2"), literal_column("3")])
        total = select(dialect.total(numbers.c.it)).scalar_subquery()
        yield Expectation("the sum of 2 and 3", total, 5)
    if layout.done in known.c:
        yield Expectation(
            f"Unix time of {MOMENT:%Y-%m-%d %H:%M:%S} UTC",
            dialect.moment(known.c[layout.done]),
            MOMENT.timestamp(),
            dialect.seconds,
        )
        yield Expectation(
            f"the minute of {MOMENT:%Y-%m-%d %H:%M:%S} UTC",
            dialect.coarse_moment(known.c[layout.done], MINUTE),
            MOMENT.timestamp() // MINUTE,
            lambda value: (dialect.seconds(value) or 0) // MINUTE,
        )
    if layout.started is not None and layout.started in known.c and layout.done in known.c:
        yield from _ran(dialect, known.c[layout.started], known.c[layout.done])
    yield from _sizes(dialect, table, known)
    stored_bytes = {layout.result, layout.members}
    for stored in (column.name for column in known.c if column.name in stored_bytes):
        start = dialect.start_of_bytes(known.c[stored], START)
        yield Expectation(f"the first {START} bytes of {BYTES!r}", start, BYTES[:START], _plain)
    if layout.traceback is not None and layout.traceback in known.c:
        end = dialect.end_of_text(known.c[layout.traceback], END)
        yield Expectation(f"the last {END} characters of {TEXT!r}", end, TEXT[-END:], decoded)


def _sizes(dialect: Dialect, table: ResultTable, known: Subquery) -> Iterator[Expectation]:
    for name in table.layout.payload.values():
        if name in known.c:
            size = dialect.octets(known.c[name], binary=True)
            yield Expectation(f"the number of bytes in {BYTES!r}", size, len(BYTES))


def _ran(
    dialect: Dialect, started: ColumnElement[Any], done: ColumnElement[Any]
) -> Iterator[Expectation]:
    ran = dialect.elapsed(dialect.stamped(started), done)
    if ran is not None:
        what = f"seconds from {RAN} before {MOMENT:%Y-%m-%d %H:%M:%S} UTC"
        yield Expectation(what, ran, RAN.total_seconds(), float)


def _shown(dialect: Dialect, name: str, column: ColumnElement[Any], word: str) -> Expectation:
    return Expectation(f"{name} {word!r}", dialect.label(column), word, dialect.text)


def _same(
    dialect: Dialect, name: str, columns: Mapping[str, ColumnElement[Any]], word: str
) -> Expectation:
    """Ask which of these equals the word first; itself, if it is there, comes last."""
    value = literal(dialect.exact_value(word))
    cases: list[tuple[Any, Any]] = [
        (dialect.exact(column) == value, literal_column(str(number)))
        for number, column in enumerate(columns.values())
    ]
    equal = dict(enumerate(columns))
    of = f"what equals {word!r} of {name} {', '.join(map(repr, columns))}"
    return Expectation(of, case(*cases), word if word in columns else None, equal.get)


def _texts(table: ResultTable) -> Iterator[str]:
    layout = table.layout
    labels = (layout.state, layout.task, layout.worker, layout.queue, layout.entry)
    for name in (*labels, layout.task_id):
        if name is not None and name in table.columns:
            yield name


def _known(dialect: Dialect, table: ResultTable) -> Subquery:
    """Make a row of constants, each in a column that is like the table's own."""
    constants: dict[str, tuple[ColumnElement[Any], ColumnElement[Any]]] = {}
    for name in _texts(table):
        for number, word in enumerate(WORDS):
            constants[f"{name}_{number}"] = table.columns[name], literal(word, String())
    layout = table.layout
    moment = dialect.constant_moment(MOMENT, zone=table.date_done_zone)
    started = dialect.constant_stamp(MOMENT - RAN, zone=table.date_done_zone)
    others = (
        (layout.done, moment),
        (layout.started, started),
        *((name, literal(BYTES)) for name in (*layout.payload.values(), layout.members)),
        (layout.traceback, literal(TEXT, String())),
    )
    for other, value in others:
        if other is not None and other in table.columns:
            constants[other] = table.columns[other], value
    like = select(*(column.label(name) for name, (column, _) in constants.items()))
    row: Select[Any] = select(*(value.label(name) for name, (_, value) in constants.items()))
    return union_all(like.where(false()), row).subquery()


def _column(
    table: ResultTable, like: ColumnElement[Any], values: list[ColumnElement[Any]]
) -> Subquery:
    rows: list[Select[Any]] = [select(value.label("it")) for value in values]
    none = select(like.label("it")).select_from(table.table).where(false())
    return union_all(none, *rows).subquery()


def _plain(value: Any) -> Any:
    return bytes(value) if isinstance(value, (bytearray, memoryview)) else value
