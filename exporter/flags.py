"""The flags that every subcommand has, each with its environment variable; what they come to."""

from __future__ import annotations

import os
import platform
from functools import update_wrapper
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from exporter import __version__, logs
from exporter.errors import ConfigError
from exporter.runtime.options import Options

if TYPE_CHECKING:
    from collections.abc import Callable

    from exporter.config.settings import Config

# What reads the configuration is imported where it is needed: without SQLAlchemy and the rest,
# --version and a mistyped flag of `run` answer at once.
# ruff: noqa: PLC0415

PROGRAM = "celery-results-exporter"
_LEVELS = ("debug", "info", "warning", "warn", "error")
_NOTHING_TO_READ = (
    "nothing to read: give --config.file=FILE, --celery.result-backend=URL or "
    "--django-settings=MODULE, or set CELERY_RESULTS_EXPORTER_CONFIG_FILE or CELERY_RESULT_BACKEND"
)
# What says what to read; of variables the first one counts, ours before Celery's.
_SOURCES = ("config_file", "django_settings", "celery_result_backend", "celery_settings_fd")
_BY_CELERY = "celery --app"  # gives the last of them


class _Text(click.types.StringParamType):
    """Text that is not empty; a variable of several separates them by commas."""

    envvar_list_splitter = ","

    def split_envvar_value(self, rv: str) -> list[str]:
        return [part.strip() for part in rv.split(self.envvar_list_splitter)]

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> str:
        text = str(value)
        return text if text.strip() else self.fail("it is empty", param, ctx)


class _Flag(click.Option):
    """A flag whose variable counts as unset where it is blank."""

    def resolve_envvar_value(self, ctx: click.Context) -> str | None:
        value = super().resolve_envvar_value(ctx)
        return value if value and value.strip() else None


class _Address(_Text):
    """Where to listen."""

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> str:
        from exporter.web.addresses import parse_address

        text = super().convert(value, param, ctx)
        try:
            parse_address(text)
        except ValueError as error:
            self.fail(str(error), param, ctx)
        return text


def _flag(name: str, text: str, variable: str = "", **attributes: Any) -> click.Option:
    """Return a flag that is named as Prometheus names them; ``a.b-c`` is parameter ``a_b_c``."""
    parameter = name.replace(".", "_").replace("-", "_")
    variable = variable or f"CELERY_RESULTS_EXPORTER_{parameter.upper()}"
    attributes = {"type": _Text()} | attributes
    return _Flag(
        [f"--{name}", parameter], help=text, envvar=variable, show_envvar=True, **attributes
    )


def options() -> list[click.Parameter]:
    """Return the flags, for a command to have."""
    return [
        _flag("config.file", "The configuration (YAML).", metavar="FILE"),
        _flag(
            "celery.result-backend",
            "Without a file: the one result backend to read, as Celery's setting has it. Prefer "
            "the variable, since other users of the machine can see command lines.",
            "CELERY_RESULT_BACKEND",
            metavar="URL",
        ),
        _flag(
            "django-settings",
            "Likewise: the result backend that the settings of a Django project name, or else its "
            "default database.",
            metavar="MODULE",
        ),
        click.Option(["--celery.settings-fd", "celery_settings_fd"], type=click.INT, hidden=True),
        _flag(
            "web.listen-address",
            "Where to serve, HOST:PORT or unix:/PATH; repeatable, in the variable with commas "
            "(default :10224).",
            type=_Address(),
            metavar="ADDRESS",
            multiple=True,
        ),
        _flag(
            "web.systemd-socket",
            "Serve on the sockets that systemd hands over instead (socket activation).",
            type=click.BOOL,
            is_flag=True,
        ),
        _flag(
            "web.telemetry-path", "Where to serve the metrics (default /metrics).", metavar="PATH"
        ),
        _flag(
            "web.config.file",
            "TLS and authentication, in the format of Prometheus's exporter-toolkit.",
            metavar="FILE",
        ),
        _flag(
            "web.enable-lifecycle",
            "Let POST /-/reload read the configuration again.",
            type=click.BOOL,
            is_flag=True,
        ),
        _flag(
            "checkpoint.adopt",
            "A backend whose results have moved to another database: its counts in the checkpoint "
            "go on there; repeatable, in the variable with commas.",
            metavar="NAME",
            multiple=True,
        ),
        _flag(
            "log.level",
            "debug, info, warning (warn) or error (default info; warning for check, once, verify).",
            type=click.Choice(_LEVELS, case_sensitive=False),  # Python's are in capitals
            metavar="LEVEL",
        ),
        _flag(
            "log.format",
            "logfmt or json (default logfmt).",
            type=click.Choice(("logfmt", "json"), case_sensitive=False),
            metavar="FORMAT",
        ),
        click.Option(
            ["--version"],
            help="Show the version and exit.",
            is_flag=True,
            is_eager=True,
            expose_value=False,
            callback=_show_version,
        ),
    ]


def configured(
    log_level: str,
) -> Callable[[Callable[..., int]], Callable[..., int]]:
    """Let a command have ``(config, options)`` instead of the flags, and its own besides.

    Raises what `exporter.config.loading` raises, and ConfigError where flags exclude each other.
    """

    def decorate(command: Callable[..., int]) -> Callable[..., int]:
        @click.pass_context
        def with_flags(context: click.Context, /, **given: Any) -> int:
            logs.configure(given["log_level"] or log_level, given["log_format"] or "logfmt")
            shared = {param.name for param in options()}
            config = _config(context)
            _refuse_to_adopt_nothing(context, config)
            own = {name: value for name, value in given.items() if name not in shared}
            return command(config, _options(context), **own)

        return update_wrapper(with_flags, command)

    return decorate


def fault(error: click.UsageError) -> str:
    """Say in a line what is wrong with what was typed, or with which variable."""
    missing = isinstance(error, click.MissingParameter)  # has no message of its own
    if isinstance(error, click.BadParameter) and error.ctx and error.param and not missing:
        return f"{_origin(error.ctx, error.param)}: {error.message.rstrip('.')}"
    message = error.format_message().rstrip(".")
    return f"{message}{' See' if message.endswith('?') else '; see'} --help"


def _source(context: click.Context) -> str:
    """Return the parameter that says what to read: a flag wins over a variable."""
    given = [name for name in _SOURCES if context.params[name] is not None]
    by_flag = [name for name in given if _by_flag(context, name)]
    if len(by_flag) > 1:
        names = " and ".join(_named(context, name) for name in by_flag)
        raise ConfigError([f"{names} exclude each other"])
    return next(iter(by_flag or given), "")


def _config(context: click.Context) -> Config:
    from exporter.config import loading

    source = _source(context)
    if not source:
        raise ConfigError([_NOTHING_TO_READ])
    value, origin = context.params[source], _named(context, source)
    match source:
        case "config_file":
            return loading.load(Path(value), os.environ)
        case "celery_result_backend":
            return loading.from_url(value, origin)
        case "django_settings":
            return loading.from_django(value, origin)
        case _:
            return loading.from_celery(value, origin)


def _options(context: click.Context) -> Options:
    given, default = context.params, Options()
    return Options(
        listen_addresses=given["web_listen_address"] or default.listen_addresses,
        systemd_socket=given["web_systemd_socket"],
        telemetry_path=given["web_telemetry_path"] or default.telemetry_path,
        web_config=Path(given["web_config_file"]) if given["web_config_file"] else None,
        lifecycle=given["web_enable_lifecycle"],
        config_file=Path(given["config_file"]) if _source(context) == "config_file" else None,
        adopt=frozenset(given["checkpoint_adopt"]),
    )


def _refuse_to_adopt_nothing(context: click.Context, config: Config) -> None:
    if adopt := context.params["checkpoint_adopt"]:
        origin = _named(context, "checkpoint_adopt")
        unknown = sorted(set(adopt) - {backend.name for backend in config.backends})
        if unknown:
            raise ConfigError([f"{origin}: there is no backend {unknown[0]!r}"])
        if config.checkpoint is None:
            raise ConfigError([f"{origin}: there is no checkpoint in the configuration"])


def _by_flag(context: click.Context, parameter: str) -> bool:
    return context.get_parameter_source(parameter) is ParameterSource.COMMANDLINE


def _named(context: click.Context, parameter: str) -> str:
    (found,) = (param for param in context.command.params if param.name == parameter)
    return _origin(context, found)


def _origin(context: click.Context, param: click.Parameter) -> str:
    """Name the flag, or the variable, that a value comes from."""
    if isinstance(param, click.Option) and param.hidden:
        return _BY_CELERY
    by_variable = context.get_parameter_source(str(param.name)) is ParameterSource.ENVIRONMENT
    return str(param.envvar) if by_variable else param.opts[0]


def _show_version(context: click.Context, _: click.Parameter, value: object) -> None:
    if value and not context.resilient_parsing:
        parts = (
            f"python {platform.python_version()}",
            f"sqlalchemy {version('sqlalchemy')}",
            f"celery {version('celery')}",
        )
        click.echo(f"{PROGRAM}, version {__version__} ({', '.join(parts)})")
        context.exit()
