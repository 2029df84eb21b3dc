"""PostgreSQL, through psycopg (and psycopg2 where that is installed)."""

from __future__ import annotations

import re
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any

from sqlalchemy import (
    BIGINT,
    INTEGER,
    TEXT,
    URL,
    VARCHAR,
    Column,
    ColumnElement,
    Connection,
    Double,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
    cast,
    func,
    literal_column,
    select,
    text,
)
from sqlalchemy.dialects.postgresql import BYTEA, DOMAIN, TIMESTAMP
from sqlalchemy.exc import DBAPIError
from sqlalchemy.types import NullType, TypeEngine

from exporter.errors import Reason
from exporter.sql.cutting import cut_off
from exporter.sql.dialects import (
    LONGEST_PAUSE,
    Dialect,
    Driver,
    Limits,
    decoded,
    names_for_people,
)
from exporter.sql.identity import Origin
from exporter.sql.inspection import Facts, Transactions
from exporter.sql.kinds import Kind

SNAPSHOT_FUNCTIONS = (13, 0)  # pg_current_snapshot() is new in PostgreSQL 13

XIDS = 2**32
_HORIZON = """SELECT
    pg_snapshot_xmin(pg_current_snapshot())::text::bigint,
    pg_snapshot_xmax(pg_current_snapshot())::text::bigint,
    ARRAY(SELECT backend_xid::text::bigint FROM pg_stat_activity WHERE backend_xid IS NOT NULL),
    pg_is_in_recovery()"""

# All that a look at tables finds of them, in one statement: reflection sends ten large ones.
_STAMP = """SELECT CAST(c.oid AS bigint), CAST(c.xmin AS text),
    has_schema_privilege(c.relnamespace, 'USAGE'),
    ARRAY(SELECT CAST(a.xmin AS text) || has_column_privilege(a.attrelid, a.attnum, 'SELECT')
        FROM pg_attribute a WHERE a.attrelid = c.oid AND a.attnum > 0 ORDER BY a.attnum),
    ARRAY(SELECT CAST(i.indexrelid AS bigint) FROM pg_index i
        WHERE i.indrelid = c.oid AND i.indisvalid ORDER BY i.indexrelid)
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE {} ORDER BY c.oid"""
# What reflection would find, where no type is more than its name and length.
_COLUMNS = """SELECT {}, n.nspname, a.attname, format_type(a.atttypid, a.atttypmod),
    t.typnamespace = 'pg_catalog'::regnamespace AND a.attcollation = t.typcollation,
    (SELECT count(*) FROM pg_index i
        WHERE i.indrelid = c.oid AND i.indkey[0] = a.attnum AND NOT i.indisprimary)
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
JOIN pg_type t ON t.oid = a.atttypid
WHERE c.relkind IN ('r', 'p', 'f', 'v', 'm') AND ({})"""
_NAMED = """(c.relname = :name_{0}
    AND CASE WHEN :schema_{0} = '' THEN pg_table_is_visible(c.oid)
        ELSE n.nspname = :schema_{0} END)"""

_MAY_ASK_FOR_SYSTEM = """SELECT current_database(),
    has_function_privilege(to_regprocedure('pg_control_system()'), 'EXECUTE')"""
_SYSTEM = "SELECT system_identifier FROM pg_control_system()"
SEQUENCE_CATALOGUE = (10,)
_LARGEST = {"smallint": 2**15 - 1, "integer": 2**31 - 1, "bigint": 2**63 - 1}
_ID_LIMIT = """SELECT format_type(atttypid, NULL),
    information_schema._pg_numeric_precision(atttypid, atttypmod),
    information_schema._pg_numeric_scale(atttypid, atttypmod),
    {sequences}
    FROM pg_attribute WHERE attrelid = to_regclass(:name) AND attname = :id"""
# That of the default, or the one that Celery asks itself; below also that of an identity.
_OWN_SEQUENCES = """SELECT d.refobjid FROM pg_attrdef f JOIN pg_depend d
            ON d.classid = 'pg_attrdef'::regclass AND d.objid = f.oid
            WHERE f.adrelid = attrelid AND f.adnum = attnum
        UNION SELECT to_regclass(:sequence) WHERE NOT atthasdef AND attidentity = ''"""
_SEQUENCES = f"""(SELECT min(seqmax) FROM pg_sequence WHERE seqrelid IN (
        {_OWN_SEQUENCES}
        UNION SELECT objid FROM pg_depend
            WHERE deptype = 'i' AND refclassid = 'pg_class'::regclass
            AND refobjid = attrelid AND refobjsubid = attnum))"""  # noqa: S608  # ours
# What keeps ids below 64 bits: the column's type, and sequences. An identity goes with its column.
_NARROW = f"""SELECT format_type(atttypid, NULL), ARRAY(
    SELECT quote_ident(nspname) || '.' || quote_ident(relname) FROM pg_sequence
    JOIN pg_class c ON c.oid = seqrelid JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE seqmax < {2**63 - 1} AND seqrelid IN ({_OWN_SEQUENCES}))
    FROM pg_attribute WHERE attrelid = to_regclass(:name) AND attname = :id"""  # noqa: S608

_REASONS = {
    "42501": Reason.PERMISSION,  # insufficient_privilege
    "42P01": Reason.SCHEMA,  # undefined_table
    "42703": Reason.SCHEMA,  # undefined_column
    "3F000": Reason.SCHEMA,  # invalid_schema_name
    "57014": Reason.TIMEOUT,  # query_canceled
    "55P03": Reason.TIMEOUT,  # lock_not_available
    "25P03": Reason.TIMEOUT,  # idle_in_transaction_session_timeout
}
_LIBPQ_DRIVERS = ("psycopg", "psycopg2")
_CONNECT_CLASSES = ("08", "28", "3D", "53", "57")

# Seconds. A snapshot of both tables locks one after the other, and so does who drops them: of a
# deadlock, which the server looks for after `deadlock_timeout`, one second, it may end the other.
LONGEST_LOCK_WAIT = 0.4

# Those of tables as programs make them: reflection is half of what a connection costs.
_KNOWN_TYPES: dict[str, Callable[[], TypeEngine[Any]]] = {
    "integer": INTEGER,
    "bigint": BIGINT,
    "character varying": VARCHAR,
    "text": TEXT,
    "bytea": BYTEA,
    "timestamp without time zone": TIMESTAMP,
    "timestamp with time zone": partial(TIMESTAMP, timezone=True),
}


class PostgreSQL(Dialect):
    """Settings are local to the transaction, so that a pooler hands none on to Celery."""

    other_names = ("pg", "pgsql", "psql")
    drivers = (
        Driver("psycopg", "pip install 'celery-results-exporter[postgresql]'"),
        Driver("psycopg2", "pip install psycopg2-binary"),
        Driver("pg8000", "pip install pg8000"),
    )
    needs_database = True
    usual_port = 5432
    no_such_argument = (*Dialect.no_such_argument, r"""invalid connection option ["'](\w+)""")
    snapshot = True
    catalogue = ("pg_catalog.pg_tables", "schemaname", "tablename")  # those we may not read, too
    begin = ("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY",)
    types_ids = True  # psycopg and pg8000 do, psycopg2 does not

    def __init__(self, limits: Limits) -> None:
        super().__init__(limits)
        self._any_bytes, self._any_characters = False, True  # until `prepare` has asked
        self._ascii_names = True  # likewise `look_at`
        self._schemas: dict[str, str] = {}  # of tables that it has found, by their name

    def connect_arguments(self, url: URL) -> tuple[URL, dict[str, Any]]:
        """Bound connecting; name ourselves; no server-side prepared statements (poolers)."""
        arguments: dict[str, Any] = {"application_name": "celery-results-exporter"}
        if url.get_driver_name() not in _LIBPQ_DRIVERS:
            return url, arguments | {"timeout": self.limits.connect}  # pg8000
        arguments |= {
            "connect_timeout": max(2, round(self.limits.connect)),  # libpq takes 2 s at least
            "keepalives_idle": 30,
            "client_encoding": "utf8",  # drivers take SQL_ASCII for bytes, or for ASCII
        }
        if url.get_driver_name() == "psycopg":
            arguments["prepare_threshold"] = None
        return url, arguments

    def prepare(self, connection: Connection) -> None:
        """Ask what text is there: SQL_ASCII is any bytes, of which some may be no text."""
        encoding = connection.exec_driver_sql("SHOW server_encoding").scalar_one()
        self._any_bytes = encoding == "SQL_ASCII"
        self._any_characters = encoding in ("SQL_ASCII", "UTF8")

    def look_at(
        self, connection: Connection, names: Sequence[tuple[str, str | None]]
    ) -> Sequence[Facts | None]:
        """Look at tables, where text is text; reflect only those with other types."""
        if self._any_bytes and connection.dialect.driver == "psycopg2":
            _fetch_text(connection, as_bytes=False)
        # psycopg takes the encoding of answers for that of questions, of all that are yet to come.
        self._ascii_names &= all(part.isascii() for name in names for part in name if part)
        found = self._plain_tables(connection, names)
        if found is None:
            found = [facts and _of_bases(facts) for facts in super().look_at(connection, names)]
        return found

    def _plain_tables(
        self, connection: Connection, names: Sequence[tuple[str, str | None]]
    ) -> list[Facts | None] | None:
        """Ask for columns and indexes in one statement; None: some type takes reflection."""
        wanted, values = _named(names)
        pieces = (_COLUMNS.format(number, one) for number, one in enumerate(wanted))
        rows = connection.execute(text(" UNION ALL ".join(map("({})".format, pieces))), values)
        columns: list[dict[str, TypeEngine[Any]]] = [{} for _ in names]
        leading: list[set[str]] = [set() for _ in names]
        self._schemas = {}
        plain = True
        for number, schema, name, declared, is_plain, leads in rows:
            self._schemas[names[number][0]] = self.text(schema)
            found = _known_type(self.text(declared)) if is_plain else None
            plain = plain and found is not None
            columns[number][self.text(name)] = found or NullType()
            leading[number].update([self.text(name)] * bool(leads))
        pairs = zip(columns, leading, strict=True)
        return [Facts(of, frozenset(led)) if of else None for of, led in pairs] if plain else None

    def full_name(
        self, connection: Connection, name: str, schema: str | None, database: str
    ) -> str:
        """Say in which schema it was seen: a name without one may be in any of the search path."""
        return super().full_name(connection, name, schema or self._schemas.get(name), database)

    def stamp(
        self, connection: Connection, names: Sequence[tuple[str, str | None]]
    ) -> Hashable | None:
        """Ask the catalogue by which transaction each row of it was written, and for our rights."""
        wanted, values = _named(names)
        found = connection.execute(text(_STAMP.format(" OR ".join(wanted))), values).all()
        return str(found)

    def open(self, connection: Connection) -> None:
        """Begin, and set the limits, in one round trip; fetch bytes where text may be none."""
        most = self.limits.query
        limits = self._limits(lock_wait=min(LONGEST_LOCK_WAIT, most), pause=most)
        settings: dict[str, object] = {**limits}
        settings["extra_float_digits"] = 1  # or a server may be set to round dates
        driver = connection.dialect.driver
        if self._any_bytes and (
            driver == "psycopg2" or (driver == "psycopg" and self._ascii_names)
        ):
            settings["client_encoding"] = "SQL_ASCII"
        if self._any_bytes and driver == "psycopg2":
            _fetch_text(connection, as_bytes=True)
        words = [f"SET LOCAL {name} = {value}" for name, value in settings.items()]
        connection.exec_driver_sql("; ".join([*self.begin, *words]))

    def transactions(self, connection: Connection) -> Transactions | None:
        """Read the oldest transaction that our snapshot knows to run, and the newest of all.

        `pg_snapshot_xmax` is beyond those that have ended only: one that runs may be newer. A
        standby does not know which run.
        """
        if (connection.dialect.server_version_info or ()) < SNAPSHOT_FUNCTIONS:
            return None
        oldest, beyond_ended, running, standby = connection.exec_driver_sql(_HORIZON).one()
        return None if standby else Transactions(oldest, beyond_all(beyond_ended, running))

    def begin_to_write(self, connection: Connection) -> None:
        """Begin, and set the limits."""
        most = self.limits.query
        limits = self._limits(lock_wait=most, pause=min(LONGEST_PAUSE, most))
        columns = [func.set_config(name, str(value), True) for name, value in limits.items()]  # noqa: FBT003
        connection.execute(select(*columns))

    def _limits(self, *, lock_wait: float, pause: float) -> dict[str, int]:
        """Return the settings that bound a transaction, in milliseconds."""
        limits = {
            "statement_timeout": self.limits.query,
            "lock_timeout": lock_wait,
            "idle_in_transaction_session_timeout": pause,
        }
        return {name: round(seconds * 1000) for name, seconds in limits.items()}

    @contextmanager
    def bounded(self, raw: Any, seconds: float) -> Iterator[None]:
        """Cut the connection's socket when the server never answers, or never stops to.

        libpq waits for ever on a server whose process is stopped: TCP still acknowledges for it.
        """
        with cut_off(_descriptor(raw), seconds + 1):
            yield

    def server(self, connection: Connection) -> str:
        """Name the product and version."""
        version = connection.exec_driver_sql("SHOW server_version").scalar_one()
        return f"PostgreSQL {str(version).split()[0]}"

    def origin(self, connection: Connection) -> Origin:
        """Ask for the system identifier, which physical replicas share; rights may be revoked."""
        database, may_ask = connection.exec_driver_sql(_MAY_ASK_FOR_SYSTEM).one()
        system = connection.exec_driver_sql(_SYSTEM).scalar_one() if may_ask else None
        server = f"system {system}" if system is not None else ""
        return Origin(server, self.text(database), lasting=True)

    def adapt(
        self, column: Column[Any], kind: Kind, declared: TypeEngine[Any]
    ) -> ColumnElement[Any] | None:
        """Cast what only looks like text: ENUM, CHAR with its blanks, texts that ignore case."""
        if not kind.holds(declared):
            return None
        plain = type(declared) in (VARCHAR, TEXT) and not getattr(declared, "collation", None)
        if kind.is_text and not plain:
            return cast(column, Text).collate("C")
        if kind is Kind.BYTES and not isinstance(declared, LargeBinary):
            return func.convert_to(cast(column, Text), "SQL_ASCII")  # the bytes, as they are
        return column

    @property
    def variant(self) -> object:
        """Tell apart encodings."""
        return self._any_characters

    def constant(self, text: str) -> ColumnElement[Any] | None:
        """Return the text, if the database's encoding has its characters."""
        return super().constant(text) if self._any_characters else None

    def octets(self, column: ColumnElement[Any], *, binary: bool) -> ColumnElement[Any]:
        """Ask for the length only, which stands beside what is stored elsewhere (TOAST)."""
        return super().octets(column if binary else cast(column, Text), binary=binary)

    def moment(self, column: ColumnElement[Any]) -> ColumnElement[Any]:
        """Read seconds: drivers raise on 'infinity' and on years after 9999."""
        return cast(func.extract("epoch", column), Double)

    def coarse_moment(self, column: ColumnElement[Any], seconds: int) -> ColumnElement[Any]:
        """Round floating point."""
        length = literal_column(str(seconds), Double)
        return func.floor(self._epoch(column) / length) * length

    def elapsed(
        self, since: ColumnElement[Any], until: ColumnElement[Any]
    ) -> ColumnElement[Any] | None:
        """Take seconds apart: the server raises where it is to take 'infinity' from a date."""
        return self._epoch(until) - self._epoch(since)

    def _epoch(self, column: ColumnElement[Any]) -> ColumnElement[Any]:
        """Return a double; EXTRACT makes a number of any length first, which takes longer."""
        return func.date_part(literal_column("'epoch'"), column, type_=Double)

    def highest_id(
        self, connection: Connection, table: Table, column: str, sequence: str | None
    ) -> int | None:
        """Read the column's type, and its sequence's limit: the catalogue hides neither."""
        has_catalogue = (connection.dialect.server_version_info or ()) >= SEQUENCE_CATALOGUE
        its_sequence = Table(sequence or "", MetaData(), schema=table.schema)
        name, precision, scale, last = connection.execute(
            text(_ID_LIMIT.format(sequences=_SEQUENCES if has_catalogue else "NULL")),
            {
                "name": _quoted(connection, table),
                "id": column,
                "sequence": _quoted(connection, its_sequence),
            },
        ).one()
        kind = decoded(name)
        of_column = int("9" * precision) if kind == "numeric" and scale == 0 else _LARGEST.get(kind)
        return of_column if of_column is None or last is None else min(of_column, int(last))

    def rows_estimate(self, connection: Connection, table: Table) -> int | None:
        """Read the planner's estimate; -1 means that nobody has counted yet."""
        estimate = connection.execute(
            text("SELECT reltuples::bigint FROM pg_class WHERE oid = to_regclass(:name)"),
            {"name": _quoted(connection, table)},
        ).scalar()
        return None if estimate is None or estimate < 0 else int(estimate)

    def can_write(self, connection: Connection, table: Table) -> bool | None:
        """Ask the server for the account's rights on the table."""
        return bool(
            connection.execute(
                text("SELECT has_table_privilege(:name, 'INSERT, UPDATE, DELETE, TRUNCATE')"),
                {"name": _quoted(connection, table)},
            ).scalar()
        )

    def place_of(self, connection: Connection, name: str, schema: str | None) -> Table:
        """Return it in the schema in which it was seen."""
        return super().place_of(connection, name, schema or self._schemas.get(name))

    def account(self, connection: Connection) -> str:
        """Ask whose rights hold."""
        return self.text(
            connection.exec_driver_sql("SELECT quote_ident(current_user)").scalar_one()
        )

    def can_alter(self, connection: Connection, table: Table) -> bool:
        """Ask what kind of relation it is; one in partitions is altered in other ways."""
        kind = text("SELECT CAST(relkind AS text) FROM pg_class WHERE oid = to_regclass(:name)")
        found = connection.execute(kind, {"name": _quoted(connection, table)}).scalar()
        return self.text(found) == "r"

    def index(self, connection: Connection, table: Table, column: str) -> list[str]:
        """Let writers go on meanwhile."""
        return [self._index(connection, table, column, postgresql_concurrently=True)]

    def wider_ids(
        self, connection: Connection, table: Table, column: str, sequence: str | None
    ) -> list[str]:
        """Widen the column, and the sequence of a serial, which has its type."""
        if (connection.dialect.server_version_info or ()) < SEQUENCE_CATALOGUE:
            return []
        its_sequence = Table(sequence or "", MetaData(), schema=table.schema)
        asked = {
            "name": _quoted(connection, table),
            "id": column,
            "sequence": _quoted(connection, its_sequence),
        }
        kind, sequences = connection.execute(text(_NARROW), asked).one()
        names, statements = names_for_people(connection), []
        if decoded(kind) in ("smallint", "integer"):
            altered = f"ALTER TABLE {names.format_table(table)} ALTER COLUMN {names.quote(column)}"
            statements.append(f"{altered} TYPE bigint")
        statements += [f"ALTER SEQUENCE {self.text(s)} AS bigint NO MAXVALUE" for s in sequences]
        return statements

    def grants(
        self, connection: Connection, table: Table, columns: Sequence[str], account: str
    ) -> list[str]:
        """Let it use the schema as well, if it may not."""
        may = text("SELECT has_schema_privilege(oid, 'USAGE') FROM pg_namespace WHERE nspname = :s")
        uses = account == self.account(connection) and bool(
            connection.execute(may, {"s": table.schema}).scalar()
        )
        schema = names_for_people(connection).quote(str(table.schema))
        usage = [] if uses else [f"GRANT USAGE ON SCHEMA {schema} TO {account}"]
        return usage + super().grants(connection, table, columns, account)

    def reader(self, connection: Connection, name: str, password: str) -> tuple[str, list[str]]:
        """Make a role that may connect to this database."""
        database = connection.exec_driver_sql("SELECT quote_ident(current_database())").scalar_one()
        return name, [
            f"CREATE ROLE {name} LOGIN PASSWORD '{password}'",
            f"GRANT CONNECT ON DATABASE {self.text(database)} TO {name}",
        ]

    def reason(self, error: DBAPIError) -> Reason:
        """Classify by SQLSTATE; an error without one happened on the connection."""
        state = getattr(error.orig, "sqlstate", None) or getattr(error.orig, "pgcode", None)
        match error.orig and error.orig.args:
            case ({"C": code},):  # pg8000 hands on what the server has sent, letter by letter
                state = code
        if state is None:
            return Reason.CONNECT
        if state in _REASONS:
            return _REASONS[state]
        return Reason.CONNECT if state[:2] in _CONNECT_CLASSES else Reason.QUERY


def beyond_all(beyond_ended: int, running: Iterable[int]) -> int:
    """Return the first transaction id that is newer than all these.

    Ids of running transactions have 32 bits, and none is further than half of that from the others.
    """
    half = XIDS // 2
    ahead = [(xid - beyond_ended + half) % XIDS - half for xid in running]
    return beyond_ended + max([0, *(distance + 1 for distance in ahead)])


def _named(names: Sequence[tuple[str, str | None]]) -> tuple[list[str], dict[str, str]]:
    """Return for each name the words that find it in the catalogue, and the values in them."""
    values = {
        f"{of}_{number}": value or ""
        for number, pair in enumerate(names)
        for of, value in zip(("name", "schema"), pair, strict=True)
    }
    return [_NAMED.format(number) for number in range(len(names))], values


def _known_type(declared: str) -> TypeEngine[Any] | None:
    """Return a type that the tables have, from PostgreSQL's words: ``character varying(155)``."""
    if varying := re.fullmatch(r"character varying\((\d+)\)", declared):
        return VARCHAR(int(varying[1]))
    kind = _KNOWN_TYPES.get(declared)
    return None if kind is None else kind()


def _of_bases(facts: Facts) -> Facts:
    return replace(facts, columns={name: _base(it) for name, it in facts.columns.items()})


def _base(declared: TypeEngine[Any]) -> TypeEngine[Any]:
    """Return what a domain is made of, of another one perhaps; text may have its collation."""
    base = declared
    while isinstance(base, DOMAIN):
        base = base.data_type
    return String() if base is not declared and type(base) in (VARCHAR, TEXT) else base


def _quoted(connection: Connection, table: Table) -> str:
    """Return the name as a value: in statements drivers want percent signs doubled."""
    return names_for_people(connection).format_table(table)


def _fetch_text(connection: Connection, *, as_bytes: bool) -> None:
    """Say what psycopg2 makes of text: it knows no other way to take what does not decode."""
    from psycopg2 import extensions  # noqa: PLC0415  # whoever comes here has it

    text_is = extensions.BYTES if as_bytes else extensions.UNICODE
    extensions.register_type(text_is, connection.connection.driver_connection)


def _descriptor(raw: Any) -> int:
    if hasattr(raw, "fileno"):
        return int(raw.fileno())
    wire = raw._usock  # noqa: SLF001  # pg8000 has no other name for it
    wire.settimeout(None)  # what bounded connecting would bound each answer as well
    return int(wire.fileno())


DIALECT = PostgreSQL
