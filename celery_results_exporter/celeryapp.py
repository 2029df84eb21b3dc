"""What a Celery app is set to, or would be by a Django project's settings."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import celery
from celery.app.backends import by_url
from celery.app.utils import find_app

from celery_results_exporter import beatschedule, djangosettings
from celery_results_exporter.answers import Answer, UnusableError, answered, plain, send

if TYPE_CHECKING:
    from celery import Celery

IN_DJANGO = "django-db"  # the result_backend of django-celery-results
_APP_ZONE_SINCE = (5, 5)
_STAND_IN = f"{__name__}:StandIn"
_BY_SERVER = ("postgresql", "cockroachdb")  # the zone of the writer's session decides there


class StandIn:
    """For Celery's backend for SQL: to import that takes longer than all else."""


def named(name: str) -> Celery:
    """Import an app as ``celery --app`` does; raise whatever its code raises."""
    app = find_app(name)
    if not isinstance(app, celery.Celery):
        kind = type(app).__name__
        raise UnusableError(f"is no Celery app ({kind}); write it like shop.celery:app")
    return app


def hand_over(find: Callable[[], Celery], pipe: int) -> None:
    """Write what an app says into a pipe: its settings, then what its beat would send.

    What takes longer, or fails, comes last: results are counted without it.
    """
    found: list[Celery] = []

    def read() -> Answer:
        app = find()
        found.append(app)
        return {**settings(app), "name": str(app.main or "celery").partition(".")[0]}

    answer = answered(read)
    room = send(answer, pipe)
    schedule = {} if "fault" in answer else beatschedule.of_app(found[0], room)
    send({"beat": schedule}, pipe)


def of_project(module: str, alias: str = "") -> Answer:
    """Read what a project's settings say of its results, or of the database that is named."""
    if importlib.util.find_spec("django") is None:
        raise UnusableError("needs Django, which is not installed where the exporter runs")
    os.environ["DJANGO_SETTINGS_MODULE"] = module
    if alias:
        return djangosettings.database(alias)
    app = celery.Celery("django", set_as_current=False)
    app.config_from_object("django.conf:settings", namespace="CELERY")
    return settings(app) if app.conf.result_backend else djangosettings.database("default")


def settings(app: Celery) -> Answer:
    """Return where the app keeps its results, and what else its settings say of them."""
    conf = app.conf
    values: dict[str, Any] = {"result_extended": bool(conf.result_extended)}
    told = app.backend_cls or conf.result_backend
    if told == IN_DJANGO:
        answer = djangosettings.database("default")
        return {**answer, "settings": answer["settings"] | values}
    url = _url(app, told)
    for key in ("database_table_names", "database_table_schemas"):
        names = conf[key] or {}
        values[key] = {part: names[part] for part in ("task", "group") if names.get(part)}
    values["timezone"] = _timezone(app, url)
    faults: dict[str, str] = {}
    try:
        values["database_engine_options"] = _engine_options(conf.database_engine_options or {})
    except ValueError as error:
        faults["database_engine_options"] = f"has {error}"
    said = {key: value for key, value in values.items() if value not in ("", {})}
    return {"url": url, "settings": said, "faults": faults}


def _url(app: Celery, told: Any) -> str:
    if not told:
        raise UnusableError("has no result_backend: its results are stored nowhere")
    backends = {"db": _STAND_IN, "database": _STAND_IN, **app.loader.override_backends}
    kind, url = by_url(told, SimpleNamespace(override_backends=backends))
    if not _is_sql(kind):
        name = told.partition("://")[0] if isinstance(told, str) else kind.__name__
        raise UnusableError(
            f"has its results in {name!r}, which is no SQL database; this exporter reads those "
            f"whose result_backend begins with db+ or is {IN_DJANGO}"
        )
    url = url or app.conf.database_url
    if not url:
        raise UnusableError("has no database_url for its result_backend")
    return str(url)


def _is_sql(kind: Any) -> bool:
    if kind is StandIn:
        return True
    from celery.backends.database import DatabaseBackend  # noqa: PLC0415 - see StandIn

    return isinstance(kind, type) and issubclass(kind, DatabaseBackend)


def _timezone(app: Celery, url: str) -> str:
    """Say in which zone this version of Celery writes times there; "": it does not decide."""
    dialect = url.removeprefix("db+").removeprefix("database+").partition("://")[0]
    if dialect.partition("+")[0] in _BY_SERVER:
        return ""
    return str(app.timezone) if celery.VERSION[:2] >= _APP_ZONE_SINCE else "UTC"


def _engine_options(options: dict[str, Any]) -> Any:
    """Leave out what is about the app's pool of connections, which may be any object."""
    return plain({key: value for key, value in options.items() if not key.startswith("pool")})
