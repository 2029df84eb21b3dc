"""A YAML file, or a URL -> the configuration, or every fault in it at once."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from sqlalchemy.engine import URL

from exporter import redaction
from exporter.config import apps, child, urls, yamlfile
from exporter.config.child import Question
from exporter.config.faults import checkpoint_faults, cross_faults, lines, model_faults
from exporter.config.file import Entry, File, backend, explicit
from exporter.config.fingerprint import fingerprint
from exporter.config.secretfiles import remembered
from exporter.config.settings import Backend, Config
from exporter.config.yamlfile import Fault
from exporter.errors import ConfigError

_LARGEST_FILE = 1024 * 1024
_URL_KEYS = frozenset({"result_backend", "beat_database", "url"})


def load(path: Path, env: Mapping[str, str]) -> Config:
    """Read the file, or raise ConfigError with everything that is wrong with it."""
    document = yamlfile.parse(read_text(path), env, _URL_KEYS)
    if document.data is None and not document.faults:
        raise ConfigError([f"{path}: is empty; list at least one backend under backends:"])
    faults = list(document.faults)
    file: File | None = None
    if document.data is not None:
        faults += cross_faults(document)
        try:
            file = File.model_validate(document.data, context=path.parent.absolute())
        except ValidationError as error:
            faults += model_faults(error, document)
    if faults or file is None:
        raise ConfigError(lines(path, document, faults))
    checkpoint = file.checkpoint.place if file.checkpoint else None
    backends, faults = _backends(file)
    if faults := faults or list(checkpoint_faults(checkpoint, backends)):
        raise ConfigError(lines(path, document, faults))
    return _config(tuple(backends), checkpoint)


def _backends(file: File) -> tuple[list[Backend], list[Fault]]:
    """Ask the apps and projects, now that the file itself is right, and put all together."""
    answers = child.ask(entry.question for entry in file.backends if entry.question)
    backends: list[Backend] = []
    faults: list[Fault] = []
    for number, entry in enumerate(file.backends):
        told: dict[str, Any] = {}
        try:
            if question := entry.question:
                told = apps.told(answers[question], explicit(entry))
            backends.append(backend(entry, file.defaults, told))
        except ConfigError as error:
            key = "celery_app" if entry.celery_app else "django_settings"
            faults += [Fault(("backends", number, key), fault) for fault in error.faults]
    return backends, faults


def from_url(url: str, origin: str = "--celery.result-backend", **settings: Any) -> Config:
    """Return a configuration of one backend named "celery", as a command line gives it."""
    try:
        parsed = remembered(urls.parse(url))
    except ValueError as error:
        raise ConfigError([redaction.mask(f"{origin}: {error}")]) from None
    only = Backend(**{"name": "celery", "url": parsed} | settings)
    return _config((only,), None)


def from_django(module: str, origin: str) -> Config:
    """Return a configuration of one backend, as the settings of a Django project have it."""
    try:
        entry = Entry.model_validate({"django_settings": module}, context=Path.cwd())
    except ValidationError:
        raise ConfigError([f"{origin}: is no module; write it like shop.settings"]) from None
    question = Question("django", module)
    return _from_answer(child.ask([question])[question], entry.name, origin)


def from_celery(pipe: int, origin: str) -> Config:
    """Return a configuration of one backend, as `celery --app=… results-exporter` hands it over."""
    try:
        answer = child.inherited(pipe)
    except OSError as error:
        raise ConfigError([f"{origin}: nothing was handed over: {error.strerror}"]) from None
    return _from_answer(answer, str(answer.get("name")), origin)


def _from_answer(answer: child.Answer, name: str, origin: str) -> Config:
    try:
        return _config((Backend(name=name, **apps.told(answer)),), None)
    except ConfigError as error:
        raise ConfigError([f"{origin}: {fault}" for fault in error.faults]) from None


def _config(backends: tuple[Backend, ...], checkpoint: Path | URL | None) -> Config:
    said = {one.name: {**dict(one), "url": one.connection_url()} for one in backends}
    return Config(backends, checkpoint, fingerprint({"backends": said, "checkpoint": checkpoint}))


def read_text(path: Path) -> str:
    """Return what a configuration file holds; raise ConfigError where that is no text."""
    try:
        with path.open("rb") as file:
            content = file.read(_LARGEST_FILE + 1)
    except OSError as error:
        raise ConfigError([f"{path}: cannot be read: {error.strerror}"]) from None
    if len(content) > _LARGEST_FILE:
        raise ConfigError([f"{path}: is larger than 1 MiB; is it the right file?"])
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise ConfigError([f"{path}:{line}: is not UTF-8 text"]) from None
