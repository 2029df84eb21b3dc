"""The file's own shape: its entries, and where relative paths begin."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, cast

from pydantic import Field, PlainValidator, ValidationInfo
from sqlalchemy.engine import URL

from exporter.config import urls
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


class Entry(Settings, frozen=True):
    """One item of ``backends:``."""

    name: Text
    result_backend: Annotated[URL | None, PlainValidator(_url)] = None
    result_backend_file: Annotated[URL | None, PlainValidator(_url_in_file)] = None
    username: Text | None = None
    password_file: Annotated[Path | None, PlainValidator(_password_file)] = None
    beat_database: Annotated[URL | None, PlainValidator(_url)] = None
    beat_schema: Text | None = None


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


def backend(entry: Entry, defaults: Settings | None) -> Backend:
    """Return what a backend is set to, with the defaults where it says nothing."""
    values = {**(_explicit(defaults) if defaults else {}), **_explicit(entry)}
    in_file, in_place = values.pop("result_backend_file", None), values.pop("result_backend", None)
    return Backend(url=in_file or in_place, **values)


def _explicit(model: Model) -> dict[str, Any]:
    return {key: getattr(model, key) for key in model.model_fields_set}
