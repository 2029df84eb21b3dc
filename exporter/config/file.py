"""The file's own shape: its entries, and where relative paths begin."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, cast

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    PlainValidator,
    ValidationInfo,
    model_validator,
)
from sqlalchemy.engine import URL

from exporter.config import urls
from exporter.config.child import Question
from exporter.config.model import Model, Text
from exporter.config.secretfiles import read_secret, remembered
from exporter.config.settings import Backend, Settings
from exporter.sql.dialects import file_of


def _url(value: object, info: ValidationInfo) -> URL:
    if not isinstance(value, str):
        raise ValueError("is not text; put the URL in quotes")  # noqa: TRY004 - pydantic's way
    url = remembered(urls.parse(value))
    path = file_of(url)
    return url if path is None else url.set(database=str(_folder(info) / path))


def _url_in_file(value: object, info: ValidationInfo) -> URL:
    return _url(read_secret(path_of(value, info)), info)


def _password_file(value: object, info: ValidationInfo) -> Path:
    path = path_of(value, info)
    read_secret(path)  # one that is missing now is a slip; one that goes missing later is not
    return path


def path_of(value: object, info: ValidationInfo) -> Path:
    """Read the path of a file; a relative one begins where the file is that names it."""
    if not isinstance(value, str) or not value or not value.isprintable():
        raise ValueError("is not the path of a file")
    return _folder(info) / value


def _folder(info: ValidationInfo) -> Path:
    """Return what relative paths in the file begin at: the folder it is in."""
    return cast("Path", info.context)


_MODULE = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*")


def _module(value: str) -> str:
    if not _MODULE.fullmatch(value):
        raise ValueError("is no module; write it like shop.settings")
    return value


def _app(value: object) -> str:
    if not isinstance(value, str):
        raise ValueError("is not text; put it in quotes")  # noqa: TRY004 - pydantic's way
    module, _, attribute = value.partition(":")
    if not _MODULE.fullmatch(module) or not _MODULE.fullmatch(attribute or module):
        raise ValueError("is no app; write it like shop.celery:app, as after celery --app")
    return value


class DjangoSettings(Model, frozen=True):
    """The settings of a Django project; and one of its DATABASES, or what they say of Celery."""

    module: Annotated[Text, AfterValidator(_module)]
    database: Text | None = None


def _by_module(value: object) -> object:
    if value is None:
        raise ValueError("is empty")
    return {"module": _module(value)} if isinstance(value, str) else value


#: Where results are, said in one of these ways.
SOURCES = ("result_backend", "result_backend_file", "celery_app", "django_settings")


def default_name(entry: Mapping[str, object]) -> str | None:
    """Return the package that an app or a project is in, to name a backend without a name."""
    said = entry.get("celery_app", entry.get("django_settings"))
    module = said.get("module") if isinstance(said, dict) else said
    return re.split("[.:]", module)[0] if isinstance(module, str) else None


class Entry(Settings, frozen=True):
    """One item of ``backends:``."""

    name: Text
    result_backend: Annotated[URL | None, PlainValidator(_url)] = None
    result_backend_file: Annotated[URL | None, PlainValidator(_url_in_file)] = None
    celery_app: Annotated[str | None, PlainValidator(_app)] = None
    django_settings: Annotated[DjangoSettings | None, BeforeValidator(_by_module)] = None
    username: Text | None = None
    password_file: Annotated[Path | None, PlainValidator(_password_file)] = None
    beat_database: Annotated[URL | None, PlainValidator(_url)] = None
    beat_schema: Text | None = None

    @model_validator(mode="before")
    @classmethod
    def _named(cls, entry: Any) -> Any:
        if isinstance(entry, dict) and "name" not in entry and (name := default_name(entry)):
            return {"name": name, **entry}
        return entry

    @property
    def question(self) -> Question | None:
        """What to ask an app or a project; None: the URL is here."""
        if self.celery_app is not None:
            return Question("celery", self.celery_app)
        if (django := self.django_settings) is not None:
            return Question("django", django.module, django.database or "")
        return None


class CheckpointPlace(Model, frozen=True):
    """Where counts and positions are kept over restarts."""

    path: Annotated[Path | None, PlainValidator(path_of)] = None
    url: Annotated[URL | None, PlainValidator(_url)] = None
    url_file: Annotated[URL | None, PlainValidator(_url_in_file)] = None

    @property
    def place(self) -> Path | URL | None:
        """Whichever of the three it is; the URL of a file is its path."""
        url = self.url or self.url_file
        return self.path or (url and file_of(url)) or url


class File(Model, frozen=True):
    """The whole file."""

    checkpoint: CheckpointPlace | None = None
    defaults: Settings | None = None
    backends: Annotated[list[Entry], Field(min_length=1)]


def backend(
    entry: Entry, defaults: Settings | None, told: Mapping[str, Any] = MappingProxyType({})
) -> Backend:
    """Return what a backend is set to: by itself, else by what its app has told, by defaults."""
    said = {"url": entry.result_backend or entry.result_backend_file, **told}
    own = {key: value for key, value in explicit(entry).items() if key not in SOURCES}
    return Backend(**{**(explicit(defaults) if defaults else {}), **said, **own})


def explicit(model: Model) -> dict[str, Any]:
    """Return what is set, and not by default."""
    return {key: getattr(model, key) for key in model.model_fields_set}
