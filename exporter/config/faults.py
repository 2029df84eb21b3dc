"""Every fault of a file at once: which key, on which line, what is wrong and what to do."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from pydantic import ValidationError
from sqlalchemy.engine import URL

from exporter import redaction
from exporter.config.file import SOURCES, CheckpointPlace, Entry, File, default_name
from exporter.config.model import Model
from exporter.config.settings import Backend
from exporter.config.yamlfile import Document, Fault, KeyPath
from exporter.sql.dialects import file_of

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

_LONGEST_SHOWN = 60
# Values that are a secret, or by a slip may be one: a fault names the key alone.
_NEVER_SHOWN = {
    "result_backend",
    "result_backend_file",
    "password_file",
    "beat_database",
    "database_engine_options",
    "url",
    "url_file",
    "basic_auth_users",
    "cert",
    "key",
    "client_ca",
}


def cross_faults(document: Document) -> Iterator[Fault]:
    """Find what no single key can know: which keys exclude each other, which names are taken."""
    data = document.data if isinstance(document.data, dict) else {}
    yield from _place_faults(data.get("checkpoint"))
    entries = data.get("backends")
    taken: dict[str, int] = {}
    for number, entry in enumerate(entries if isinstance(entries, list) else ()):
        if not isinstance(entry, dict):
            continue
        path: KeyPath = ("backends", number)
        yield from _source_faults(entry, path)
        name = entry.get("name", default_name(entry))
        if isinstance(name, str) and taken.setdefault(name, number) != number:
            first = taken[name]
            message = f"is the name of backends[{first}] already; each needs its own"
            yield Fault((*path, "name"), _shown(document, (*path, "name")) + message)


def _source_faults(entry: dict[str, object], path: KeyPath) -> Iterator[Fault]:
    first, *others = [key for key in SOURCES if key in entry] or [""]
    if not first:
        yield Fault(path, f"has no result_backend; set one of {', '.join(SOURCES)}")
    for other in others:
        message = f"stands beside {first}; keep one of {', '.join(SOURCES)}"
        yield Fault((*path, other), message)


def _place_faults(checkpoint: object) -> Iterator[Fault]:
    if not isinstance(checkpoint, dict):
        return
    first, *others = [key for key in checkpoint if key in CheckpointPlace.model_fields] or [""]
    if not first:
        yield Fault(("checkpoint",), "has no path; set path to a file, or url to a database")
    for other in others:
        yield Fault(("checkpoint", other), f"stands beside {first}; keep one")


def checkpoint_faults(
    checkpoint: Path | URL | None, backends: Sequence[Backend]
) -> Iterator[Fault]:
    """Find a checkpoint that is to be kept in the file of a result backend."""
    if not isinstance(checkpoint, Path):
        return
    for number, backend in enumerate(backends):
        read = file_of(backend.url)
        if read and read.resolve() == checkpoint.resolve():
            message = f"is the file that backends[{number}] reads; a checkpoint needs its own"
            yield Fault(("checkpoint",), message)


def model_faults(
    error: ValidationError, document: Document, root: type[Model] = File
) -> Iterator[Fault]:
    """Say what is wrong with single keys, where the document has not said so already."""
    told = {fault.path for fault in document.faults}
    for detail in error.errors(include_url=False):
        if detail["loc"] not in told:
            yield Fault(detail["loc"], _words(detail, document, root))


_WORDS = {
    "string_type": "is not text; put it in quotes",
    "bool_type": "is neither true nor false",
    "int_type": "is not a whole number",
    "greater_than_equal": "is less than {ge}",
    "dict_type": "is not a mapping of keys to values",
    "model_type": "is not a mapping of keys to values",
    "list_type": "is not a list; begin each item with '- '",
    "tuple_type": "is not a list; begin each item with '- '",
    "is_instance_of": "is not the path of a file",
    "too_short": "is empty; list at least one backend",
    "literal_error": "is not {expected}",
}


def _words(detail: ErrorDetails, document: Document, root: type[Model]) -> str:
    kind, path, context = detail["type"], detail["loc"], detail.get("ctx", {})
    if kind == "extra_forbidden":
        return _unknown_key(path, root)
    if kind == "missing":
        return "is missing"
    if detail["input"] is None:
        return "is empty; give it a value or remove the key"
    known = _WORDS.get(kind, "is not what belongs here")
    words = str(context["error"]) if kind == "value_error" else known.format_map(context)
    return _shown(document, path) + words


def _unknown_key(path: KeyPath, root: type[Model]) -> str:
    key = str(path[-1])
    known = sorted(_model_at(root, path[:-1]).model_fields)
    if path[:-1] == ("defaults",) and key in Entry.model_fields:
        return "belongs to each backend, not to defaults"
    near = get_close_matches(key, known, n=1)
    advice = f"did you mean {near[0]}?" if near else f"known here: {', '.join(known)}"
    return f"is no known key; {advice}"


def _model_at(model: type[Model], path: KeyPath) -> type[Model]:
    """Return the model that stands at a path: in a field, its list, or its union with None."""
    for key in path:
        if isinstance(key, str):
            (model,) = _models_in(model.model_fields[key].annotation)
    return model


def _models_in(annotation: Any) -> Iterator[type[Model]]:
    if isinstance(annotation, type) and issubclass(annotation, Model):
        yield annotation
    for part in get_args(annotation):
        yield from _models_in(part)


def _shown(document: Document, path: KeyPath) -> str:
    """Return the value as it was written, to begin a sentence with; a variable stays a variable."""
    if path not in document.texts or _NEVER_SHOWN.intersection(map(str, path)):
        return ""
    text = document.texts[path]
    return repr(text if len(text) <= _LONGEST_SHOWN else text[:_LONGEST_SHOWN] + "…") + " "


def lines(file: Path, document: Document, faults: list[Fault]) -> list[str]:
    """Return a line for each fault, with its place, in the order of the file."""
    placed = [(fault.line or document.line(fault.path) or 0, fault) for fault in faults]
    placed.sort(key=lambda pair: pair[0])
    return [
        # The mask, because a URL may stand in the wrong place.
        redaction.mask(f"{file}:{line}: {_written_path(fault.path)}{fault.message}")
        for line, fault in placed
    ]


def _written_path(path: KeyPath) -> str:
    text = "".join(f"[{key}]" if isinstance(key, int) else f".{key}" for key in path)
    return f"{text.removeprefix('.')}: " if text else ""
