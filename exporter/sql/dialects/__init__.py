"""What each database does otherwise: one file per SQLAlchemy dialect name.

`named` finds the file by the dialect's name; where there is none, the defaults here hold. The file
says all there is to say: what a URL may look like, which drivers there are, how to read and write.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Hashable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple
from zoneinfo import ZoneInfo

from sqlalchemy import (
    URL,
    BigInteger,
    Column,
    ColumnElement,
    Connection,
    DateTime,
    Index,
    Inspector,
    LargeBinary,
    MetaData,
    Select,
    String,
    Subquery,
    Table,
    TypeDecorator,
    Unicode,
    and_,
    cast,
    false,
    func,
    inspect,
    literal,
    literal_column,
    or_,
    select,
    text,
)
from sqlalchemy.engine.interfaces import Dialect as SQLAlchemyDialect
from sqlalchemy.engine.reflection import ObjectKind
from sqlalchemy.exc import DBAPIError
from sqlalchemy.schema import CreateIndex
from sqlalchemy.sql.compiler import IdentifierPreparer
from sqlalchemy.types import TypeEngine

from exporter.errors import Reason
from exporter.sql.identity import Origin, address
from exporter.sql.inspection import Facts, Transactions
from exporter.sql.kinds import Kind

# Those that people may mean, for messages that list them; Oracle has no file, and was not tried.
NAMES = ("sqlite", "postgresql", "mysql", "mariadb", "mssql", "oracle")

CHECK_ARGUMENTS = "check connect_args, and what follows '?' in the URL"
# How long a transaction that writes may wait for its client: a client that was paused, or whose
# machine is gone, keeps rows locked. Longer than any pause between two of our statements.
LONGEST_PAUSE = 10.0  # seconds
LONGEST_INDEX_NAME = 60  # characters; PostgreSQL and MySQL take a few more
EPOCH = datetime(1970, 1, 1)  # noqa: DTZ001  # what is stored has no zone
YEAR_1, YEAR_10_000 = -62_135_596_800.0, 253_402_300_800.0  # Unix time


@dataclass(frozen=True, slots=True)
class Limits:
    """How long anything may take, in seconds."""

    connect: float
    query: float


class Driver(NamedTuple):
    """A driver that is known to work."""

    name: str  # SQLAlchemy's
    install: str = ""  # what brings it, for people; "": Python itself


class Dialect:
    """The defaults: a database that does what the SQL standard says.

    What a reader asks of it depends on `snapshot`, `variant` and the arguments only: one reader
    serves all backends that are alike.
    """

    other_names: tuple[str, ...] = ()  # that people give it, where spelling does not tell
    drivers: tuple[Driver, ...] = ()  # the advised one first
    needs_database = False  # in a URL
    is_file = False  # what a URL's database is the path of; else it is one of a server
    usual_port = 0
    place_name = ""  # for those that have one place under several names; "": its own

    # What drivers say of an argument that they do not know, each with its name as the group.
    no_such_argument: tuple[str, ...] = (
        r"""unexpected keyword argument ["'](\w+)""",
        r"^'(\w+)' is an invalid keyword argument",
    )

    # Whether all statements between `begin` and `end` see the same data; else R9's second way.
    snapshot = False
    # Where the names of all tables are: a view, its columns for schema and name.
    catalogue = ("information_schema.tables", "table_schema", "table_name")
    begin: tuple[str, ...] = ()
    end = "COMMIT"
    longest_label = 512  # characters that `label` gives: Celery's columns have 155
    # Whether the catalogue leaves out columns that the account may not read.
    hides_columns = False
    # Whether some drivers say of each id of Celery's models that it is an INTEGER, as these do.
    types_ids = False

    def __init__(self, limits: Limits) -> None:
        self.limits = limits

    @classmethod
    def plain(cls, url: URL) -> URL:
        """Return the URL in its one form; raise ValueError where it is not understood."""
        return url

    @classmethod
    def place(cls, url: URL, connect_args: Mapping[str, Any]) -> str:
        """Say where a URL leads: the same for each of its spellings, without user and password."""
        name = cls.place_name or url.get_backend_name()
        return " ".join(filter(None, (name, address(url, connect_args, cls.usual_port))))

    @classmethod
    def exact_text(cls, length: int) -> TypeEngine[str]:
        """Return a type for short texts of our own that are compared byte by byte."""
        return Unicode(length)

    def mistake(self, words: str, driver: str) -> str:
        """Say what the user of a driver did wrong, by the words it failed with; else "".

        What drivers raise for a mistake of their user is of any type.
        """
        for pattern in self.no_such_argument:
            if found := re.search(pattern, words):
                return f"driver {driver!r} takes no argument {found[1]!r}; {CHECK_ARGUMENTS}"
        return ""

    def connect_arguments(self, url: URL) -> tuple[URL, dict[str, Any]]:
        """Return the URL and driver arguments that connect within the limits, read-only."""
        return url, {}

    def absent(self, url: URL) -> str:
        """Say what is not there yet, so that connecting makes no sense; else ""."""
        del url
        return ""

    def replaced(self) -> bool:
        """Whether the connection, though alive, leads to what is no longer at its address."""
        return False

    def prepare(self, connection: Connection) -> None:
        """Set up a fresh connection, outside any transaction."""

    def writing_arguments(self, url: URL) -> tuple[URL, dict[str, Any]]:
        """Return what `connect_arguments` does, for a connection that writes."""
        return self.connect_arguments(url)

    def prepare_to_write(self, connection: Connection) -> None:
        """Set up a fresh connection that writes, outside any transaction."""

    def begin_to_write(self, connection: Connection) -> None:
        """Begin a transaction that writes; a connection that has died shows here."""
        connection.exec_driver_sql("SELECT 1")

    def open(self, connection: Connection) -> None:
        """Begin a read-only snapshot."""
        for statement in self.begin:
            connection.exec_driver_sql(statement)

    def has_window_functions(self, connection: Connection) -> bool:
        """Whether the server knows LAG() OVER."""
        del connection
        return True

    def transactions(self, connection: Connection) -> Transactions | None:
        """Say which transactions run; None: this server does not tell."""
        del connection
        return None

    def deadline(
        self, connection: Connection, seconds: float | None = None
    ) -> AbstractContextManager[None]:
        """Make sure that what is done inside ends, even if the server never answers."""
        return self.bounded(connection.connection.driver_connection, seconds or self.limits.query)

    @contextmanager
    def bounded(self, raw: Any, seconds: float) -> Iterator[None]:
        """Do the same for the driver's connection."""
        del raw, seconds
        yield

    def may_read(self, connection: Connection, query: Select[*tuple[Any, ...]]) -> bool:
        """Say whether the account has the right to what a query reads, of which it reads no row."""
        try:
            connection.execute(query.where(false()))
        except DBAPIError as error:
            if self.reason(error) is not Reason.PERMISSION:
                raise
            return False
        return True

    def server(self, connection: Connection) -> str:
        """Name the server's product and version, e.g. ``PostgreSQL 15.18``."""
        info = connection.dialect.server_version_info or ()
        return f"{connection.dialect.name} {'.'.join(map(str, info))}".strip()

    def origin(self, connection: Connection) -> Origin:
        """Ask the server who it is, as far as any account may know."""
        del connection
        return Origin()

    def look_at(
        self, connection: Connection, names: Sequence[tuple[str, str | None]]
    ) -> Sequence[Facts | None]:
        """Look at tables, each given with its schema; None where there is none."""
        inspector = inspect(connection)
        found: dict[Any, Facts] = {}
        for schema in {schema for _, schema in names}:
            found |= _facts(inspector, [name for name, of in names if of == schema], schema)
        return [found.get((schema, name)) for name, schema in names]

    def stamp(
        self, connection: Connection, names: Sequence[tuple[str, str | None]]
    ) -> Hashable | None:
        """Return what is another as soon as `look_at`, or the rights, may be; None: not known."""
        del connection, names
        return None

    def full_name(
        self, connection: Connection, name: str, schema: str | None, database: str
    ) -> str:
        """Return a table's name with the schema and database that it is in, or would be."""
        schema = schema or connection.dialect.default_schema_name
        return ".".join(filter(None, (database, schema, name)))

    def ask_for(self, connection: Connection, name: str, schema: str | None) -> None:
        """Raise what the server says of a table that `look_at` did not find, if it is hidden."""

    def adapt(
        self, column: Column[Any], kind: Kind, declared: TypeEngine[Any]
    ) -> ColumnElement[Any] | None:
        """Return the column as one of Celery's own type; None where that cannot be."""
        return column if kind.holds(declared) else None

    def fitted(
        self, column: Column[Any], kind: Kind, declared: TypeEngine[Any]
    ) -> ColumnElement[Any] | None:
        """Adapt the column, and bound what is a label, for whoever stores it need not."""
        adapted = self.adapt(column, kind, declared)
        length = getattr(declared, "length", None)
        if adapted is None or kind is not Kind.LABEL or (length and length <= self.longest_label):
            return adapted
        return self.cut(adapted)

    def cut(self, text: ColumnElement[Any]) -> ColumnElement[Any]:
        """Return the first characters of a text, as many as a label has at most."""
        return func.left(text, literal_column(str(self.longest_label)), type_=text.type)

    def tables_like(
        self, connection: Connection, parts: Sequence[str], most: int
    ) -> list[tuple[str | None, str]]:
        """Find tables whose names hold one of these parts, as schema and name."""
        view, schema_column, name_column = self.catalogue
        schema: ColumnElement[Any] = literal_column(schema_column)
        name: ColumnElement[Any] = literal_column(name_column, String)
        alike = or_(*(func.lower(name).contains(part) for part in parts))
        query = select(schema, name).distinct().select_from(text(view)).where(alike)
        found = connection.execute(query.order_by(schema, name).limit(most))
        return [(in_schema, called) for in_schema, called in found]

    def exact(self, column: ColumnElement[Any]) -> ColumnElement[Any]:
        """Return an expression that compares and groups `column` byte by byte."""
        return column

    def label(self, column: ColumnElement[Any]) -> ColumnElement[Any]:
        """Return an expression that fetches what `exact` compares, of a bounded length."""
        return self.exact(column)

    def labelled(self, text: str) -> str:
        """Return what `label` gives of a whole text."""
        return text[: self.longest_label]

    def exact_value(self, value: str) -> str | bytes:
        """Return what `exact` of a column with this text equals."""
        return value

    def text(self, value: Any) -> str:
        """Turn what `label` gave into text; NULL is "" (R11)."""
        return decoded(value)

    def start_of_bytes(self, column: ColumnElement[Any], length: int) -> ColumnElement[Any]:
        """Return an expression for the first bytes of a binary column."""
        return func.substr(column, 1, length, type_=LargeBinary)

    def end_of_text(self, column: ColumnElement[Any], length: int) -> ColumnElement[Any]:
        """Return an expression for the last characters of a text column."""
        return func.right(column, length, type_=String)

    def octets(self, column: ColumnElement[Any], *, binary: bool) -> ColumnElement[Any]:
        """Return an expression for how many bytes a column holds; not `binary`: as text."""
        del binary
        return func.octet_length(column, type_=BigInteger)

    def computed(self, query: Select[*tuple[Any, ...]]) -> Subquery:
        """Return rows to group by; what they hold is computed before they are sorted."""
        return query.subquery()

    def total(self, column: ColumnElement[Any]) -> ColumnElement[Any]:
        """Return an expression for a sum of integers that no stored value can make fail."""
        return func.sum(column)

    def moment(self, column: ColumnElement[Any]) -> ColumnElement[Any]:
        """Return an expression for a DateTime column that no stored value can make fail."""
        return column

    def coarse_moment(self, column: ColumnElement[Any], seconds: int) -> ColumnElement[Any]:
        """Return `moment` rounded down to whole multiples of so many seconds, to group by.

        Or a finer one: then there are more groups, which mean the same.
        """
        del seconds
        return self.moment(column)

    def elapsed(
        self, since: ColumnElement[Any], until: ColumnElement[Any]
    ) -> ColumnElement[Any] | None:
        """Return an expression for the seconds between two dates in UTC, a floating-point number.

        No stored value makes it fail. None: not known for this database.
        """
        del since, until
        return None

    def stamped(self, column: ColumnElement[Any]) -> ColumnElement[Any]:
        """Return what the server's CURRENT_TIMESTAMP gave as a date in UTC."""
        return column

    def seconds(self, value: Any, zone: ZoneInfo | None = None) -> float | None:
        """Turn what `moment` gave into Unix time; None where it cannot be one.

        What says no offset of its own is wall time in the zone, or in UTC.
        """
        try:
            if isinstance(value, str):
                value = datetime.fromisoformat(value)
            if isinstance(value, datetime):
                if value.tzinfo is not None:
                    return value.timestamp()
                value = (value - EPOCH).total_seconds()
            if value is None or not YEAR_1 <= value < YEAR_10_000:
                return None
            if zone is None:
                return float(value)
            return datetime.fromtimestamp(value, UTC).replace(tzinfo=zone).timestamp()
        except (ValueError, OverflowError, OSError):
            return None

    @property
    def variant(self) -> object:
        """Tell apart servers to which this dialect gives different expressions."""
        return None

    def constant(self, text: str) -> ColumnElement[Any] | None:
        """Return text of any characters as a constant; None where the database holds none such."""
        return literal(text, Unicode())

    def constant_moment(self, moment: datetime, *, zone: bool) -> ColumnElement[Any]:
        """Return a date as Celery's column has it, or one with a zone."""
        value = moment if zone else moment.replace(tzinfo=None)
        return cast(literal(value), DateTime(timezone=zone))

    def within(
        self, column: ColumnElement[Any], begin: datetime, end: datetime, *, zone: bool
    ) -> ColumnElement[bool]:
        """Return whether a date lies between two moments, in the zone of wall times; or is none."""
        lower, upper = (self.constant_moment(moment, zone=zone) for moment in (begin, end))
        return or_(column.is_(None), and_(column >= lower, column < upper))

    def constant_stamp(self, moment: datetime, *, zone: bool) -> ColumnElement[Any]:
        """Return a date as the server's CURRENT_TIMESTAMP gives it."""
        return self.constant_moment(moment, zone=zone)

    def highest_id(
        self, connection: Connection, table: Table, column: str, sequence: str | None
    ) -> int | None:
        """Return the largest id that the column and its sequence can give; None: not known."""
        del connection, table, column, sequence
        return None

    def rows_estimate(self, connection: Connection, table: Table) -> int | None:
        """Return the catalogue's estimate of the table's rows, if it has one."""
        del connection, table
        return None

    def can_write(self, connection: Connection, table: Table) -> bool | None:
        """Say whether the account may change the table; None where this is not known."""
        del connection, table
        return None

    # What people may run, each statement without the semicolon. Accounts are named as statements
    # name them, and tables with their schemas.

    def place_of(self, connection: Connection, name: str, schema: str | None) -> Table:
        """Return a table with the schema that it is in."""
        return Table(name, MetaData(), schema=schema or connection.dialect.default_schema_name)

    def account(self, connection: Connection) -> str:
        """Name the account; "" where there are none, or nobody knows."""
        del connection
        return ""

    def can_alter(self, connection: Connection, table: Table) -> bool:
        """Say whether this is a table that somebody may alter, and no view."""
        return table.name in inspect(connection).get_table_names(table.schema)

    def index(self, connection: Connection, table: Table, column: str) -> list[str]:
        """Return what makes an index, without stopping writers where that can be."""
        return [self._index(connection, table, column)]

    def _index(self, connection: Connection, table: Table, column: str, **options: Any) -> str:
        place = Table(table.name, MetaData(), Column(column), schema=table.schema)
        name = f"ix_{table.name}_{column}"[:LONGEST_INDEX_NAME]
        statement = CreateIndex(Index(name, place.c[column], **options))
        return str(statement.compile(dialect=_for_people(connection)))

    def columns(
        self, connection: Connection, table: Table, columns: Mapping[str, TypeEngine[Any]]
    ) -> list[str]:
        """Return what adds columns."""
        names, types = names_for_people(connection), _for_people(connection).type_compiler_instance
        return [
            f"ALTER TABLE {names.format_table(table)} ADD {names.quote(name)} {types.process(it)}"
            for name, it in columns.items()
        ]

    def wider_ids(
        self, connection: Connection, table: Table, column: str, sequence: str | None
    ) -> list[str]:
        """Return what lets ids have 64 bits; [] where they have, or nobody knows."""
        del connection, table, column, sequence
        return []

    def grants(
        self, connection: Connection, table: Table, columns: Sequence[str], account: str
    ) -> list[str]:
        """Return what lets an account read columns, or the whole table where none is named."""
        names = names_for_people(connection)
        some = f" ({', '.join(map(names.quote, columns))})" if columns else ""
        return [f"GRANT SELECT{some} ON {names.format_table(table)} TO {account}"]

    def reader(self, connection: Connection, name: str, password: str) -> tuple[str, list[str]]:
        """Return an account of this name, and what makes it; "" where there are none."""
        del connection, name, password
        return "", []

    def snapshots(self, connection: Connection) -> list[str]:
        """Return what brings snapshots where they are lacking; [] where nothing does."""
        del connection
        return []

    def reason(self, error: DBAPIError) -> Reason:
        """Classify a driver's error."""
        del error
        return Reason.QUERY


def _for_people(connection: Connection) -> SQLAlchemyDialect:
    """Return the connection's dialect without its driver's ways: some double percent signs."""
    kind: Any = type(connection.dialect)
    return _without_driver(kind)


@cache
def _without_driver(kind: Any) -> SQLAlchemyDialect:
    made: SQLAlchemyDialect = kind(paramstyle="named")
    return made


def names_for_people(connection: Connection) -> IdentifierPreparer:
    """Return what quotes names in statements that people run."""
    return _for_people(connection).identifier_preparer


def named(name: str) -> type[Dialect]:
    """Find the dialect of this SQLAlchemy dialect name."""
    try:
        module = importlib.import_module(f"{__name__}.{name}")
    except ModuleNotFoundError as error:
        if error.name != f"{__name__}.{name}":
            raise
        return Dialect
    found: type[Dialect] = module.DIALECT
    return found


def of(name: str, limits: Limits) -> Dialect:
    """Make the dialect of this SQLAlchemy dialect name."""
    return named(name)(limits)


def file_of(url: URL) -> Path | None:
    """Return the file that a URL leads to; None: it leads to a server."""
    return Path(url.database or "") if named(url.get_backend_name()).is_file else None


class ExactText(TypeDecorator[str]):
    """Short text in tables of our own, compared byte by byte on every database."""

    impl = Unicode
    cache_ok = True

    def __init__(self, length: int) -> None:
        super().__init__(length)
        self.length = length

    def load_dialect_impl(self, dialect: SQLAlchemyDialect) -> TypeEngine[str]:
        """Return what the dialect's file says."""
        return dialect.type_descriptor(named(dialect.name).exact_text(self.length))


def _facts(
    inspector: Inspector, names: Sequence[str], schema: str | None
) -> dict[tuple[str | None, str], Facts]:
    columns = inspector.get_multi_columns(schema, names, ObjectKind.ANY)
    indexes = inspector.get_multi_indexes(schema, names, ObjectKind.ANY)
    return {
        table: Facts(
            {str(column["name"]): column["type"] for column in of},
            frozenset(
                str(index["column_names"][0])
                for index in indexes.get(table, ())
                if index["column_names"]
            ),
        )
        for table, of in columns.items()
    }


def decoded(value: Any) -> str:
    """Return text that every exposition format can hold, whatever was stored as such."""
    if value is None:
        return ""
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    return str(value).encode("utf-8", "replace").decode("utf-8")
