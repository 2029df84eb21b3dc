"""What Django's DATABASES say: one of them as an SQLAlchemy URL."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any
from urllib.parse import parse_qsl

from celery_results_exporter.answers import Answer, UnusableError, plain

Params = dict[str, Any]

_GIVE_IT = "give its URL instead"
# What only Django's own connections need, and what the exporter decides for its own.
_NOT_OURS = {
    "application_name",
    "assume_role",  # becomes an option of the connection
    "autocommit",
    "charset",
    "client_encoding",
    "client_flag",
    "connect_timeout",
    "context",
    "conv",
    "cursor_factory",
    "cursorclass",
    "init_command",
    "isolation_level",
    "local_infile",
    "pool",
    "prepare_threshold",
    "read_timeout",
    "server_side_binding",
    "sql_mode",
    "use_unicode",
    "write_timeout",
}
_ELSEWHERE = ("service", "read_default_file", "read_default_group")  # name a file that has the rest
_ODBC_DRIVERS = ("ODBC Driver 18 for SQL Server", "ODBC Driver 17 for SQL Server")


def database(alias: str) -> Answer:
    """Return the URL of one of DATABASES, and the zone of the times that Django writes there."""
    from django.conf import settings  # noqa: PLC0415 - the project's own
    from django.db import connections  # noqa: PLC0415

    if alias not in settings.DATABASES:
        known = ", ".join(settings.DATABASES) or "none"
        raise UnusableError(f"has no database {alias!r} in its DATABASES: {known}")
    connection = connections[alias]  # connects when it is used
    described = _VENDORS.get(connection.vendor)
    if described is None:
        engine = connection.settings_dict["ENGINE"]
        raise UnusableError(f"has an ENGINE that is not known here: {engine!r}; {_GIVE_IT}")
    try:
        url, arguments = described(connection)
    except ValueError as error:
        where = f"DATABASES[{alias!r}], which cannot be handed over"
        raise UnusableError(f"has {error} in {where}; {_GIVE_IT}") from None
    values: dict[str, Any] = {"timezone": connection.timezone_name}
    if arguments:
        values["database_engine_options"] = {"connect_args": arguments}
    return {"url": url, "settings": values, "faults": {}}


def _sqlite(connection: Any) -> tuple[Params, Params]:
    path = os.fspath(connection.get_connection_params()["database"])
    query = {}
    if path.startswith("file:"):  # Django opens all of them as URIs
        path, _, parameters = path.partition("?")
        query = {**dict(parse_qsl(parameters)), "uri": "true"}
    return {"drivername": "sqlite", "database": path, "query": query}, {}


def _postgresql(connection: Any) -> tuple[Params, Params]:
    is_third = connection.Database.__name__ == "psycopg"
    params = connection.get_connection_params()
    role = connection.settings_dict["OPTIONS"].get("assume_role")
    if role:
        quoted = str(role).replace("\\", "\\\\").replace(" ", "\\ ")
        params["options"] = f"{params.get('options', '')} -c role={quoted}".strip()
    return _server(f"postgresql+psycopg{'' if is_third else 2}", params)


def _mysql(connection: Any) -> tuple[Params, Params]:
    stands_in = connection.Database.__name__ == "pymysql"  # by its install_as_MySQLdb()
    return _server(
        "mysql+pymysql" if stands_in else "mysql+mysqldb", connection.get_connection_params()
    )


def _server(drivername: str, params: Params) -> tuple[Params, Params]:
    """Make a URL of what the driver would be given; the rest are its arguments."""
    rest = {key: value for key, value in params.items() if key not in _NOT_OURS}

    def first(*keys: str) -> str | None:
        found = [rest.pop(key, None) for key in keys]
        return next((str(one) for one in found if one is not None), None)

    url: Params = {
        "drivername": drivername,
        "username": first("user", "username"),
        "password": first("password", "passwd"),
        "database": first("dbname", "database", "db"),
        "query": {key: str(rest.pop(key)) for key in _ELSEWHERE if rest.get(key)},
    }
    host, port = first("host") or "", first("port") or ""
    if host.startswith("/") or "," in host:  # a socket's folder, or several hosts
        rest |= {"host": host} | ({"port": port} if port else {})
    else:
        url |= {"host": host or None, "port": int(port) if port else None}
    return url, plain(rest)


def _sql_server(connection: Any) -> tuple[Params, Params]:
    """Read mssql-django's settings, whose OPTIONS are ODBC's."""
    settings = connection.settings_dict
    options = settings["OPTIONS"]
    if settings.get("TOKEN"):
        raise ValueError("a TOKEN")
    url = {
        "drivername": "mssql+pyodbc",
        "username": str(settings["USER"]) or None,
        "password": str(settings["PASSWORD"]) or None,
        "database": settings["NAME"],
        "query": dict(_pairs(options.get("extra_params") or "")),
    }
    if dsn := options.get("dsn"):
        return {**url, "host": dsn, "database": None}, {}
    driver = options.get("driver") or _odbc_driver()
    if not driver.startswith(("ODBC Driver ", "SQL Server Native Client")):
        raise ValueError(f"the ODBC driver {driver!r}")  # names its server in its own way
    url["query"]["driver"] = driver
    port = int(settings["PORT"]) if settings["PORT"] else None
    return {**url, "host": settings["HOST"] or "localhost", "port": port}, {}


def _odbc_driver() -> str:
    import pyodbc  # noqa: PLC0415 - only where it is used

    installed = pyodbc.drivers()
    return next((name for name in _ODBC_DRIVERS if name in installed), _ODBC_DRIVERS[0])


def _pairs(text: str) -> list[tuple[str, str]]:
    if "{" in text:
        raise ValueError("extra_params with braces")
    pairs = (pair.partition("=") for pair in text.split(";") if pair.strip())
    return [(key.strip(), value.strip()) for key, _, value in pairs]


_VENDORS: dict[str, Callable[[Any], tuple[Params, Params]]] = {
    "microsoft": _sql_server,
    "mysql": _mysql,
    "postgresql": _postgresql,
    "sqlite": _sqlite,
}
