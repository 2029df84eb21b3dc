"""Which table of which database counts belong to, and whether two of them are one.

Servers have many addresses, and an address may lead to another server. So the server is asked who
it is, and its address, however it is spelt, tells only where it does not say.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from sqlalchemy import URL

_SOCKET = ("unix_socket",)
_HOST = ("hostaddr", "host", "server", "address", "addr")
_DATABASE = ("dbname", "database", "db", "initial catalog")
_ELSEWHERE = ("service", "dsn", "read_default_file", "read_default_group")  # is written there
_ODBC_PAIR = re.compile(r"\s*([^=;]+?)\s*=\s*(\{(?:[^}]|\}\})*\}|[^;]*)")


class Origin(NamedTuple):
    """Who the server says that it is; "" is what it does not say."""

    server: str = ""
    database: str = ""
    lasting: bool = False  # copies that take over have the same `server`: another one is another


class Identity(NamedTuple):
    """One table."""

    table: str  # as configured, with its schema; "" before there was any
    place: str  # from the URL, whatever its spelling
    server: str = ""
    database: str = ""
    lasting: bool = False
    full_name: str = ""  # with the schema and database that it is in, however it is configured

    def is_that(self, kept: Identity) -> bool:
        """Whether this is the table that was kept in mind."""
        if not (self.full_name and self.full_name == kept.full_name):
            if self.table and kept.table and self.table != kept.table:
                return False
            if self.database and kept.database and self.database != kept.database:
                return False
        if self.server and kept.server:
            if self.server == kept.server:
                return True
            if self.lasting:
                return False
        return self.place == kept.place

    def after(self, kept: Identity | None) -> Identity:
        """Keep in mind what the server said, where it was not asked this time."""
        if kept is None:
            return self
        known = self if self.table else self._replace(table=kept.table)
        if not known.full_name and known.table == kept.table:
            known = known._replace(full_name=kept.full_name)
        if not self.server:
            server, database, lasting = kept.server, kept.database, kept.lasting
            known = known._replace(server=server, database=database, lasting=lasting)
        return known

    def __str__(self) -> str:
        """Say it for people."""
        server = f" ({self.server})" if self.server else ""
        return f"{self.table or 'no table'} of {self.place}{server}"


def address(url: URL, connect_args: Mapping[str, Any], usual_port: int) -> str:
    """Say which server a URL leads to, and which database, whichever driver's words say so."""
    said: dict[str, Any] = dict(_odbc(_one(url.query.get("odbc_connect", ""))))
    said |= {key.lower(): value for key, value in url.query.items()}
    said |= {key.lower(): value for key, value in connect_args.items()}
    socket = _first(said, _SOCKET)
    host, port = _first(said, _HOST) or url.host or "", _first(said, ("port",)) or url.port or ""
    server = socket or _server(host, str(port), usual_port)
    database = _first(said, _DATABASE) or url.database or ""
    elsewhere = [f"{key}={_one(said[key])}" for key in _ELSEWHERE if said.get(key)]
    return " ".join(filter(None, (server, *elsewhere, database)))


def _server(host: str, port: str, usual: int) -> str:
    """Join hosts, several with commas, and their ports where these are not the usual one."""
    hosts, ports = host.lower().removeprefix("tcp:").split(","), port.split(",")
    if len(ports) == 1 and len(hosts) == 2 and hosts[1].isdecimal():  # noqa: PLR2004  # ODBC's way
        hosts, ports = hosts[:1], hosts[1:]
    if len(ports) < len(hosts):
        ports = ports * len(hosts)
    pairs = zip(hosts, ports, strict=False)
    joined = [f"{at.strip()}:{number}" if number else at.strip() for at, number in pairs]
    return ",".join(at.removesuffix(f":{usual}") if usual else at for at in joined)


def _odbc(text: str) -> Iterator[tuple[str, str]]:
    for key, value in _ODBC_PAIR.findall(text):
        yield key.lower(), value.removeprefix("{").removesuffix("}")


def _first(said: Mapping[str, Any], keys: tuple[str, ...]) -> str:
    return next((_one(said[key]) for key in keys if said.get(key)), "")


def _one(value: Any) -> str:
    return ",".join(map(str, value)) if isinstance(value, tuple | list) else str(value)
