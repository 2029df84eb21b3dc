"""URLs of SQLite files: a path, or SQLite's own URI (``file:…?…&uri=true``), made one form.

That form is the path as the file system has it, and of the URI's parameters those that say how to
read the file. How it is opened (read-only, for how long) is not the URL's business.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqlalchemy.util import asbool

if TYPE_CHECKING:
    from sqlalchemy.engine import URL

_SCHEME = "file:"
_KEPT = ("nolock", "vfs")
# SQLAlchemy's own, and those of SQLite that change nothing for one who only reads.
_DRIVER = {"check_same_thread", "timeout", "isolation_level", "detect_types", "cached_statements"}
_WRITING = {"cache", "psow", "modeof"}
_MODES = {"ro", "rw", "rwc"}
_SWITCHES = {"1": True, "true": True, "on": True, "yes": True}
_IN_MEMORY = (
    "a SQLite database in memory has no other process's results; name the file: "
    "sqlite:////absolute.db"
)


def plain(url: URL) -> URL:
    """Return the URL in the one form; raise ValueError where it is not understood."""
    if url.host or url.username:
        raise ValueError(
            "the path of a SQLite file begins after the third slash: sqlite:///relative.db or "
            "sqlite:////absolute.db"
        )
    query = {key: _single(key, value) for key, value in url.query.items()}
    path, is_uri = url.database or "", _is_uri(query.pop("uri", "false"))
    if path.startswith(_SCHEME):
        if not is_uri and path != "file::memory:":
            raise ValueError(
                "a path that begins with 'file:' is a SQLite URI only where uri=true stands after "
                "the '?'; add it, or write the path alone: sqlite:////absolute.db"
            )
        path = _path(path.removeprefix(_SCHEME))
    if path in {"", ":memory:"} or query.get("mode") == "memory" or query.get("vfs") == "memdb":
        raise ValueError(_IN_MEMORY)
    _check(query)
    kept = {key: query[key] for key in _KEPT if key in query and is_uri}
    return url.set(database=path, query=kept)


def _single(key: str, value: str | tuple[str, ...]) -> str:
    if isinstance(value, str):
        return value
    raise ValueError(f"{key!r} stands more than once after the '?'")


def _is_uri(value: str) -> bool:
    try:
        return asbool(value)
    except ValueError:
        raise ValueError("uri= is neither true nor false") from None


def _path(uri: str) -> str:
    """Return the path in a URI as SQLite finds it (sqlite.org/uri.html)."""
    if uri.startswith("//"):
        authority, slash, rest = uri[2:].partition("/")
        if authority not in {"", "localhost"}:
            raise ValueError(
                "a SQLite URI names no host: write sqlite:///file:/absolute.db?uri=true or "
                "sqlite:///file:relative.db?uri=true"
            )
        uri = slash + rest
    if any(character in uri for character in "#?%\0"):
        # SQLAlchemy decodes a path from 2.1 on, and then SQLite does so again.
        raise ValueError(
            "the path of a SQLite URI has a '#', '?' or '%' in it, which is another file to each "
            "version of SQLAlchemy; write the path alone: sqlite:////absolute.db"
        )
    return uri


def _check(query: dict[str, str]) -> None:
    unknown = sorted(query.keys() - {*_KEPT, *_DRIVER, *_WRITING, "mode", "immutable"})
    if unknown:
        raise ValueError(f"{unknown[0]!r} after the '?' is no parameter of SQLite; remove it")
    if query.get("mode", "ro") not in _MODES:
        raise ValueError(f"mode= after the '?' is none of {', '.join(sorted(_MODES))}")
    if _SWITCHES.get(query.get("immutable", "0").lower()):
        raise ValueError(
            "immutable=1 says that nobody writes the file, so that new results would never be "
            "seen; remove it"
        )
