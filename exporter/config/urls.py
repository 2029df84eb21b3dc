"""A result backend's URL: Celery's spelling or SQLAlchemy's, checked before anything connects.

What goes wrong is a ValueError that names the wrong part and never holds the URL.
"""

from __future__ import annotations

import re
from difflib import get_close_matches
from typing import TYPE_CHECKING

from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, NoSuchModuleError

from exporter.sql import dialects

if TYPE_CHECKING:
    from sqlalchemy.engine import URL

_CELERY_PREFIX = re.compile(r"^(db|database)\+")
_LARGEST_PORT = 65535
_CLOSE = 0.75  # of spelling: 'pgsql' is no 'mysql'
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9_.+-]{0,30}")
_NO_HOST = re.compile(r"[@%\s\[\]]")
_ENCODE = (
    "in a user name or password write '%' as %25, '/' as %2F, ':' as %3A, '@' as %40. A ${VAR} is "
    "encoded so by itself where it stands inside a longer URL: give user, password, host and port "
    "variables of their own, or the whole URL one"
)


def parse(text: str) -> URL:
    """Return the URL without Celery's ``db+``, checked."""
    plain = _CELERY_PREFIX.sub("", text.strip())
    try:
        url = make_url(plain)
    except ArgumentError:
        scheme, separator, _ = plain.partition("://")
        raise ValueError(_not_sql(scheme, is_url=bool(separator))) from None
    except ValueError:
        raise ValueError(f"the port is not a number; {_ENCODE}") from None
    return checked(url)


def checked(url: URL) -> URL:
    """Return the URL in its one form; its driver has been seen to load."""
    _load_driver(url)
    dialect = dialects.named(url.get_backend_name())
    if not dialect.is_file:
        _check_server(url, needs_database=dialect.needs_database)
    return dialect.plain(url)


def _load_driver(url: URL) -> None:
    try:
        dialect = url.get_dialect()
    except NoSuchModuleError:
        raise ValueError(_unknown(url)) from None
    name, driver = url.get_backend_name(), getattr(dialect, "driver", "")
    if dialect.is_async:
        raise ValueError(f"driver {driver!r} is asynchronous; write {_advised(name)}")
    tried = [known.name for known in dialects.named(name).drivers]
    if tried and driver not in tried:
        raise ValueError(
            f"driver {driver!r} was never tried with this exporter; write {_advised(name)}"
        )
    try:
        dialect.import_dbapi()
    except ImportError as error:
        missing = isinstance(error, ModuleNotFoundError)
        problem = "is not installed" if missing else f"does not load ({error})"
        remedy = _remedy(name, driver, error.name or driver)
        raise ValueError(f"driver {driver!r} {problem}: {remedy}") from None


def _advised(name: str) -> str:
    """Return how a URL for this dialect begins."""
    first = next(iter(dialects.named(name).drivers), None)
    return f"{name}+{first.name}://" if first and first.install else f"{name}://"


def _remedy(name: str, driver: str, module: str) -> str:
    """Say what to do where a driver, or the module that it is, cannot be imported."""
    tried = dialects.named(name).drivers
    known = next((one.install for one in tried if one.name == driver), "")
    install = known or f"pip install {module}"
    is_advised = not tried or driver == tried[0].name
    return install if is_advised else f"{install}, or write {_advised(name)}"


def _unknown(url: URL) -> str:
    dialect, _, driver = url.drivername.partition("+")
    if dialect in dialects.NAMES:
        return f"unknown driver {driver!r} for {dialect}; write {_advised(dialect)}"
    return _not_sql(dialect, is_url=True)


def _not_sql(scheme: str, *, is_url: bool) -> str:
    # Only here: Celery takes a while to import, and its own list is never out of date.
    from celery.app.backends import BACKEND_ALIASES  # noqa: PLC0415

    if scheme == "django-db":
        return (
            "'django-db' is a database in the settings of a Django project; name these by "
            "django_settings, or --django-settings"
        )
    if scheme in BACKEND_ALIASES or scheme in {"amqp", "django-cache"}:
        return (
            f"{scheme!r} is no SQL result backend; this exporter reads those that Celery writes "
            "with db+ and an SQLAlchemy URL"
        )
    if scheme in {"sqla", "sqlalchemy"}:
        return f"'{scheme}+' begins the URL of a broker; that of a result backend begins with 'db+'"
    if not is_url or not _SCHEME.fullmatch(scheme):  # whatever it is, it may be a secret
        return "not a URL; write it like mysql+pymysql://user@host:3306/database"
    near = get_close_matches(scheme, dialects.NAMES, n=2, cutoff=_CLOSE)
    meant = [name for name in dialects.NAMES if scheme in dialects.named(name).other_names]
    likely = meant or near
    known = f"known: {', '.join(dialects.NAMES)}"
    advice = f"did you mean {' or '.join(map(repr, likely))}?" if likely else known
    return f"unknown dialect {scheme!r}; {advice}"


def _check_server(url: URL, *, needs_database: bool) -> None:
    host, database = url.host or "", url.database or ""
    if _NO_HOST.search(host) or ("@" in database and ("/" in database or url.username is None)):
        # The password's end may have become part of what follows it: show none of it.
        raise ValueError(f"the host cannot be told from the password; {_ENCODE}")
    if url.port is not None and not 0 < url.port <= _LARGEST_PORT:
        raise ValueError(f"the port is not between 1 and {_LARGEST_PORT}")
    if needs_database and not database and not url.query:
        raise ValueError("the database is missing; write it after the host: //host:port/database")
