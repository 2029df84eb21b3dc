"""Database drivers by name: what a person has to do about the mistakes that they report.

What they raise for a mistake of their user is of any type; it is known here by its words.
"""

from __future__ import annotations

import re

# By SQLAlchemy's names: the drivers that the tests run with, the advised one first.
_TRIED = {
    "sqlite": ("pysqlite",),
    "postgresql": ("psycopg", "psycopg2", "pg8000"),
    "mysql": ("pymysql", "mysqldb", "mysqlconnector"),
    "mariadb": ("pymysql", "mysqldb", "mysqlconnector"),
    "mssql": ("pyodbc",),
}
# What brings those that do not come with the exporter.
_REMEDIES = {
    "psycopg": "pip install 'celery-results-exporter[postgresql]'",
    "psycopg2": "pip install psycopg2-binary",
    "pg8000": "pip install pg8000",
    "pymysql": "pip install 'pymysql[rsa]'",
    "mysqldb": "pip install 'celery-results-exporter[mysqlclient]'",
    "mysqlconnector": "pip install mysql-connector-python",
    "pyodbc": "install unixODBC (Debian: unixodbc) and your database's ODBC driver",
}
CHECK_ARGUMENTS = "check connect_args, and what follows '?' in the URL"
_NO_SUCH_ARGUMENT = re.compile(
    r"""(?:unexpected keyword argument|Unsupported argument|invalid connection option) ["'](\w+)"""
    r"""|^'(\w+)' is an invalid keyword argument"""
)
_NO_SUCH_PACKAGE = re.compile(r"^'(\w+)' package is required")  # PyMySQL, where a server asks
_PACKAGES = {
    "cryptography": "'pymysql[rsa]'",
    "pynacl": "'celery-results-exporter[ed25519]'",
}


def advised(dialect: str) -> str:
    """Return how a URL for this dialect begins."""
    first = _TRIED.get(dialect, ("",))[0]
    return f"{dialect}+{first}://" if first and dialect != "sqlite" else f"{dialect}://"


def untried(dialect: str, driver: str) -> bool:
    """Whether this is none of the drivers that are known to work with a dialect that has some."""
    return driver not in _TRIED.get(dialect, (driver,))


def remedy(dialect: str, driver: str, module: str) -> str:
    """Say what to do where a driver, or the module that it is, cannot be imported."""
    install = _REMEDIES.get(driver, f"pip install {module}")
    first = _TRIED.get(dialect, (driver,))[0]
    return install if driver == first else f"{install}, or write {advised(dialect)}"


def mistake(words: str, driver: str) -> str:
    """Say what the user of a driver did wrong, by the words it failed with; else ""."""
    if found := _NO_SUCH_ARGUMENT.search(words):
        return f"driver {driver!r} takes no argument {found[1] or found[2]!r}; {CHECK_ARGUMENTS}"
    if found := _NO_SUCH_PACKAGE.search(words):
        return f"{words}: pip install {_PACKAGES.get(found[1], found[1])}"
    return ""
