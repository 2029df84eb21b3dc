"""What a Celery app or Django's settings have answered -> settings of a backend, or the faults."""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from sqlalchemy import URL
from sqlalchemy.exc import ArgumentError

from exporter.config import urls
from exporter.config.child import Answer
from exporter.config.faults import model_faults
from exporter.config.secretfiles import remembered
from exporter.config.settings import BeatSchedule, Settings
from exporter.config.yamlfile import Document
from exporter.errors import ConfigError
from exporter.printable import printable
from exporter.sql.dialects import Dialect, decoded, file_of

log = logging.getLogger(__name__)

_LONGEST_LABEL = Dialect.longest_label  # characters, as of what is read from a table
_NO_DOCUMENT = Document(None, {}, {}, [])


class _TheirTraceback(Exception):  # noqa: N818 - where an error was, in another process
    """To be logged like one of ours."""


def told(answer: Answer, given: Collection[str] = ()) -> dict[str, Any]:
    """Return `url`, and the settings that are not `given` otherwise.

    Raises ConfigError with what is wrong, as the end of a sentence about the app.
    """
    if "fault" in answer:
        _log_trace(answer)
        raise ConfigError([printable(str(answer["fault"]))])
    faults = [
        f"its {key} {why}; set {key} beside it, in a configuration file"
        for key, why in answer["faults"].items()
        if key not in given
    ]
    values = {key: value for key, value in answer["settings"].items() if key not in given}
    found: dict[str, Any] = {}
    try:
        found["url"] = _url(answer["url"])
    except ValueError as error:
        faults.append(f"its result_backend: {error}")
    try:
        settings = Settings.model_validate(values, context=Path.cwd())
        found |= {key: getattr(settings, key) for key in values}
    except ValidationError as error:
        faults += [
            f"its {'.'.join(map(str, fault.path))} {fault.message}"
            for fault in model_faults(error, _NO_DOCUMENT, Settings)
        ]
    if faults:
        raise ConfigError(faults)
    if beat := answer.get("beat"):
        found["beat_schedule"] = _schedule(beat)
    return found


def _schedule(beat: Any) -> BeatSchedule:
    try:
        if "fault" in beat:
            _log_trace(beat)
            return BeatSchedule(fault=f"the app's schedule {printable(str(beat['fault']))}")
        faults = tuple((_label(name), printable(str(why))) for name, why in beat["faults"])
        return BeatSchedule(tuple(map(_row, beat["entries"])), faults)
    except (AttributeError, LookupError, TypeError, ValueError):
        return BeatSchedule(fault="the app's schedule is not handed over as it should be")


def _row(said: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return an entry as a row of beat's tables: whatever it holds, these may hold, too."""
    plain = {key: it for key, it in said.items() if isinstance(it, (str, int, float))}
    return {**plain, "name": _label(said["name"]), "task": _label(said["task"])}


def _label(said: Any) -> str:
    return decoded(said)[:_LONGEST_LABEL]


def _log_trace(answer: Answer) -> None:
    if trace := answer.get("trace"):
        log.debug("settings cannot be read", exc_info=_TheirTraceback(f"\n{trace}"))


def _url(said: str | dict[str, Any]) -> URL:
    """Return the URL; a relative path in it begins where the app runs, which is where we do."""
    if isinstance(said, str):
        url = urls.parse(said)
    else:
        try:
            url = urls.checked(URL.create(**said))
        except ArgumentError:
            raise ValueError("is no URL") from None
    url = remembered(url)
    path = file_of(url)
    return url if path is None else url.set(database=str(path.absolute()))
