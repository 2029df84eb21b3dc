"""The configuration: a YAML file to typed, frozen settings, or every fault in it at once.

The keys are Celery's own where they say what Celery's settings say, so that people can paste them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, cast
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError, available_timezones

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    InstanceOf,
    PlainValidator,
    ValidationError,
    ValidationInfo,
    field_validator,
)
from sqlalchemy.engine import URL

from exporter import durations, secrets, urls, yamlfile
from exporter.errors import BackendError, ConfigError, Reason
from exporter.fingerprint import fingerprint
from exporter.identity import place
from exporter.yamlfile import Document, Fault, KeyPath

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

_LARGEST_FILE = 1024 * 1024
_LARGEST_SECRET = 64 * 1024
_LONGEST_SHOWN = 60
_NOT_YET = {"labels", "stale_after", "celery_app"}
_URL_KEYS = frozenset({"result_backend", "url"})
# Values that are a secret, or by a slip may be one: a fault names the key alone.
_NEVER_SHOWN = {
    "result_backend",
    "result_backend_file",
    "password_file",
    "database_engine_options",
    "url",
    "url_file",
}


def _filled(text: str) -> str:
    if not text.strip():
        raise ValueError("is empty")
    if not text.isprintable():  # it is shown in logs, on a page, as a label
        raise ValueError("holds a character that cannot be seen")
    return text


def _at_least(least: str) -> AfterValidator:
    def check(seconds: float) -> float:
        if seconds < durations.parse(least):
            raise ValueError(f"is too short; the least is {least}")
        return seconds

    return AfterValidator(check)


def _zone(value: object) -> ZoneInfo:
    if isinstance(value, ZoneInfo):
        return value
    try:
        return ZoneInfo(str(value))
    except (ZoneInfoNotFoundError, ValueError, OSError):  # a folder of zones, for one, is none
        raise ValueError(_no_zone(str(value))) from None


def _no_zone(value: str) -> str:
    known = available_timezones()  # reads them all
    if not known:
        return (
            "cannot be looked up: this system has no time zones; pip install tzdata, or install "
            "your system's tzdata package"
        )
    near = get_close_matches(value, known, n=1)
    advice = f"did you mean {near[0]}?" if near else "write it like Europe/Paris or UTC"
    return f"is not a time zone; {advice}"


def _remember_options(value: dict[str, Any]) -> dict[str, Any]:
    for key, option in value.items():
        if isinstance(option, dict):
            _remember_options(option)
        elif isinstance(option, str) and secrets.names_a_secret(str(key)):
            secrets.remember(option)
    return value


_Text = Annotated[str, AfterValidator(_filled)]


class _Model(BaseModel, frozen=True):
    model_config = ConfigDict(extra="forbid", strict=True, hide_input_in_errors=True)


class TableNames(_Model, frozen=True):
    """Celery's ``database_table_names``."""

    task: _Text = "celery_taskmeta"
    group: _Text = "celery_tasksetmeta"


class TableSchemas(_Model, frozen=True):
    """Celery's ``database_table_schemas``; None is the connection's own."""

    task: _Text | None = None
    group: _Text | None = None


class Settings(_Model, frozen=True):
    """What ``defaults:`` may set, and each backend for itself. Durations are in seconds."""

    database_table_names: TableNames = TableNames()
    database_table_schemas: TableSchemas = TableSchemas()
    database_engine_options: Annotated[
        dict[str, Any], AfterValidator(_remember_options), Field(repr=False)
    ] = {}
    result_extended: bool | None = None  # None: find out
    timezone: Annotated[ZoneInfo, BeforeValidator(_zone)] = Field("UTC", validate_default=True)
    poll_interval: Annotated[float, _at_least("50ms")] = 15.0
    query_timeout: Annotated[float, _at_least("1ms")] = 10.0
    connect_timeout: Annotated[float, _at_least("1ms")] = 5.0
    start: Literal["end", "beginning"] = "end"
    late_commit_grace: float = 300.0
    revision_window: float = 3600.0
    first_zero: float = 60.0
    series_limit: Annotated[int, Field(ge=1)] = 20_000


class Backend(Settings, frozen=True):
    """One result backend, with the defaults merged in."""

    name: _Text
    url: InstanceOf[URL] = Field(repr=False)
    username: _Text | None = None
    password_file: Path | None = None

    def connection_url(self) -> URL:
        """Return the URL to connect with; the password file is read again, so it may rotate."""
        url = self.url if self.username is None else self.url.set(username=self.username)
        if self.password_file is None:
            return url
        try:
            return url.set(password=_read_secret(self.password_file))
        except ValueError as error:
            raise BackendError(Reason.CONNECT, f"password_file {error}") from None


@dataclass(frozen=True, slots=True)
class Config:
    """Everything the configuration says."""

    backends: tuple[Backend, ...]
    checkpoint: Path | URL | None  # a file, a database; None: counts live in memory
    hash: float  # changes when the configuration does


def load(path: Path, env: Mapping[str, str]) -> Config:
    """Read the file, or raise ConfigError with everything that is wrong with it."""
    content = _read(path)
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise ConfigError([f"{path}:{line}: is not UTF-8 text"]) from None
    document = yamlfile.parse(text, env, _URL_KEYS)
    if document.data is None and not document.faults:
        raise ConfigError([f"{path}: is empty; list at least one backend under backends:"])
    faults = list(document.faults)
    file: _File | None = None
    if document.data is not None:
        faults += _cross_faults(document)
        try:
            file = _File.model_validate(document.data, context=path.parent.absolute())
        except ValidationError as error:
            faults += _model_faults(error, document)
    if file is not None:
        faults += _file_faults(file)
    if faults or file is None:
        raise ConfigError(_lines(path, document, faults))
    return _config(
        tuple(_backend(entry, file.defaults) for entry in file.backends),
        file.checkpoint.place if file.checkpoint else None,
    )


def from_url(url: str, origin: str = "--celery.result-backend", **settings: Any) -> Config:
    """Return a configuration of one backend named "celery", as a command line gives it."""
    try:
        parsed = _remembered(urls.parse(url))
    except ValueError as error:
        raise ConfigError([secrets.mask(f"{origin}: {error}")]) from None
    backend = Backend(**{"name": "celery", "url": parsed} | settings)
    return _config((backend,), None)


def _config(backends: tuple[Backend, ...], checkpoint: Path | URL | None) -> Config:
    said = {one.name: {**dict(one), "url": one.connection_url()} for one in backends}
    return Config(backends, checkpoint, fingerprint({"backends": said, "checkpoint": checkpoint}))


# --- the file's own shape -----------------------------------------------------------------------


def _url(value: object, info: ValidationInfo) -> URL:
    if not isinstance(value, str):
        raise ValueError("is not text; put the URL in quotes")  # noqa: TRY004 - pydantic's way
    url = _remembered(urls.parse(value))
    if url.get_backend_name() != "sqlite":
        return url
    return url.set(database=str(_folder(info) / str(url.database)))


def _url_in_file(value: object, info: ValidationInfo) -> URL:
    return _url(_read_secret(_path(value, info)), info)


def _password_file(value: object, info: ValidationInfo) -> Path:
    path = _path(value, info)
    _read_secret(path)  # one that is missing now is a slip; one that goes missing later is not
    return path


def _path(value: object, info: ValidationInfo) -> Path:
    if not isinstance(value, str) or not value:
        raise ValueError("is not the path of a file")
    return _folder(info) / value


def _folder(info: ValidationInfo) -> Path:
    """Return what relative paths in the file begin at: the folder it is in."""
    return cast("Path", info.context)


class _Written(Settings, frozen=True):
    """Settings as a person writes them, or a variable gives them: as text."""

    @field_validator(
        "poll_interval",
        "query_timeout",
        "connect_timeout",
        "late_commit_grace",
        "revision_window",
        "first_zero",
        mode="before",
    )
    @classmethod
    def _duration(cls, value: object) -> float:
        return durations.parse("" if isinstance(value, bool) else str(value))

    @field_validator("series_limit", mode="before")
    @classmethod
    def _number(cls, value: object) -> object:
        # Longer ones are none, and Python refuses to convert endless digits.
        digits = isinstance(value, str) and value.isdecimal() and len(value) < 20  # noqa: PLR2004
        return int(str(value)) if digits else value

    @field_validator("result_extended", mode="before")
    @classmethod
    def _flag(cls, value: object) -> object:
        return {"true": True, "false": False}.get(value, value) if isinstance(value, str) else value


class _Entry(_Written, frozen=True):
    """One item of ``backends:``."""

    name: _Text
    result_backend: Annotated[URL | None, PlainValidator(_url)] = None
    result_backend_file: Annotated[URL | None, PlainValidator(_url_in_file)] = None
    username: _Text | None = None
    password_file: Annotated[Path | None, PlainValidator(_password_file)] = None


class _Checkpoint(_Model, frozen=True):
    """Where counts and positions are kept over restarts."""

    path: Annotated[Path | None, PlainValidator(_path)] = None
    url: Annotated[URL | None, PlainValidator(_url)] = None
    url_file: Annotated[URL | None, PlainValidator(_url_in_file)] = None

    @property
    def place(self) -> Path | URL | None:
        """Whichever of the three it is; the URL of a SQLite file is its path."""
        url = self.url or self.url_file
        if url is not None and url.get_backend_name() == "sqlite":
            return Path(url.database or "")
        return self.path or url


class _File(_Model, frozen=True):
    """The whole file."""

    checkpoint: _Checkpoint | None = None
    defaults: _Written | None = None
    backends: Annotated[list[_Entry], Field(min_length=1)]


def _backend(entry: _Entry, defaults: _Written | None) -> Backend:
    values = {**(_said(defaults) if defaults else {}), **_said(entry)}
    in_file, in_place = values.pop("result_backend_file", None), values.pop("result_backend", None)
    return Backend(url=in_file or in_place, **values)


def _said(model: _Model) -> dict[str, Any]:
    return {key: getattr(model, key) for key in model.model_fields_set}


# --- reading ------------------------------------------------------------------------------------


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            content = file.read(_LARGEST_FILE + 1)
    except OSError as error:
        raise ConfigError([f"{path}: cannot be read: {error.strerror}"]) from None
    if len(content) > _LARGEST_FILE:
        raise ConfigError([f"{path}: is larger than 1 MiB; is it the right file?"])
    return content


def _read_secret(path: Path) -> str:
    try:
        with path.open("rb") as file:
            text = file.read(_LARGEST_SECRET).decode().strip()
    except OSError as error:
        raise ValueError(f"cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ValueError("cannot be read: it is not UTF-8 text") from None
    if not text:
        raise ValueError("is an empty file")
    secrets.remember(text)
    return text


def _remembered(url: URL) -> URL:
    if url.password:
        secrets.remember(str(url.password))
    for key, value in url.query.items():
        if secrets.names_a_secret(key):
            secrets.remember(str(value))
    return url


# --- faults -------------------------------------------------------------------------------------


def _cross_faults(document: Document) -> Iterator[Fault]:
    """Find what no single key can know: which keys exclude each other, which names are taken."""
    data = document.data if isinstance(document.data, dict) else {}
    yield from _checkpoint_faults(data.get("checkpoint"))
    entries = data.get("backends")
    taken: dict[str, int] = {}
    for number, entry in enumerate(entries if isinstance(entries, list) else ()):
        if not isinstance(entry, dict):
            continue
        path: KeyPath = ("backends", number)
        if {"result_backend", "result_backend_file"} <= entry.keys():
            yield Fault((*path, "result_backend_file"), "stands beside result_backend; keep one")
        elif not {"result_backend", "result_backend_file", "celery_app"} & entry.keys():
            yield Fault(path, "has no result_backend; set it to Celery's result backend URL")
        name = entry.get("name")
        if isinstance(name, str) and taken.setdefault(name, number) != number:
            first = taken[name]
            message = f"is the name of backends[{first}] already; each needs its own"
            yield Fault((*path, "name"), _shown(document, (*path, "name")) + message)


def _checkpoint_faults(checkpoint: object) -> Iterator[Fault]:
    if not isinstance(checkpoint, dict):
        return
    first, *others = [key for key in checkpoint if key in _Checkpoint.model_fields] or [""]
    if not first:
        yield Fault(("checkpoint",), "has no path; set path to a file, or url to a database")
    for other in others:
        yield Fault(("checkpoint", other), f"stands beside {first}; keep one")


def _file_faults(file: _File) -> Iterator[Fault]:
    """Find a checkpoint that is to be kept in the file of a result backend."""
    path = file.checkpoint.place if file.checkpoint else None
    if not isinstance(path, Path):
        return
    own = place(URL.create("sqlite", database=str(path)), {})
    for number, entry in enumerate(file.backends):
        url = entry.result_backend or entry.result_backend_file
        if url is not None and place(url, {}) == own:
            message = f"is the file that backends[{number}] reads; a checkpoint needs its own"
            yield Fault(("checkpoint",), message)


def _model_faults(error: ValidationError, document: Document) -> Iterator[Fault]:
    told = {fault.path for fault in document.faults}
    for detail in error.errors(include_url=False):
        if detail["loc"] not in told:
            yield Fault(detail["loc"], _words(detail, document))


_WORDS = {
    "string_type": "is not text; put it in quotes",
    "bool_type": "is neither true nor false",
    "int_type": "is not a whole number",
    "greater_than_equal": "is less than {ge}",
    "dict_type": "is not a mapping of keys to values",
    "model_type": "is not a mapping of keys to values",
    "list_type": "is not a list; begin each item with '- '",
    "too_short": "is empty; list at least one backend",
    "literal_error": "is not {expected}",
}


def _words(detail: ErrorDetails, document: Document) -> str:
    kind, path, context = detail["type"], detail["loc"], detail.get("ctx", {})
    if kind == "extra_forbidden":
        return _unknown_key(path)
    if kind == "missing":
        return "is missing"
    if detail["input"] is None:
        return "is empty; give it a value or remove the key"
    words = str(context["error"]) if kind == "value_error" else _WORDS[kind].format_map(context)
    return _shown(document, path) + words


def _unknown_key(path: KeyPath) -> str:
    key = str(path[-1])
    if key in _NOT_YET:
        return "is not supported yet; remove it"
    known = _keys_at(path[:-1])
    if path[:-1] == ("defaults",) and key in _Entry.model_fields:
        return "belongs to each backend, not to defaults"
    near = get_close_matches(key, known, n=1)
    advice = f"did you mean {near[0]}?" if near else f"known here: {', '.join(known)}"
    return f"is no known key; {advice}"


def _keys_at(path: KeyPath) -> list[str]:
    models: dict[KeyPath, type[_Model]] = {
        (): _File,
        ("defaults",): _Written,
        ("checkpoint",): _Checkpoint,
        ("database_table_names",): TableNames,
        ("database_table_schemas",): TableSchemas,
    }
    model = models.get(path) or models.get(path[-1:]) or _Entry
    return sorted(model.model_fields)


def _shown(document: Document, path: KeyPath) -> str:
    """Return the value as it was written, to begin a sentence with; a variable stays a variable."""
    if path not in document.texts or _NEVER_SHOWN.intersection(map(str, path)):
        return ""
    text = document.texts[path]
    return repr(text if len(text) <= _LONGEST_SHOWN else text[:_LONGEST_SHOWN] + "…") + " "


def _lines(file: Path, document: Document, faults: list[Fault]) -> list[str]:
    placed = [(fault.line or document.line(fault.path) or 0, fault) for fault in faults]
    placed.sort(key=lambda pair: pair[0])
    return [
        # The mask, because a URL may stand in the wrong place.
        secrets.mask(f"{file}:{line}: {_written_path(fault.path)}{fault.message}")
        for line, fault in placed
    ]


def _written_path(path: KeyPath) -> str:
    text = "".join(f"[{key}]" if isinstance(key, int) else f".{key}" for key in path)
    return f"{text.removeprefix('.')}: " if text else ""
