"""The command line: flags and their environment variables, subcommands, exit codes."""

from __future__ import annotations

import argparse
import os
import platform
import sys
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NoReturn, cast

from exporter import __version__, redaction
from exporter.errors import ConfigError, ExporterError
from exporter.printable import printable
from exporter.runtime.options import Options

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from exporter.config.settings import Config

# What the subcommands need is imported where it is needed: without SQLAlchemy and the rest,
# --version, --help and a mistyped flag answer at once.
# ruff: noqa: PLC0415

_PROGRAM = "celery-results-exporter"
_LONGEST_FAULT = 1_000  # characters
_MOST_FAULTS = 50  # one mistake in a template is one in each of thousands of backends
_FAULT, _USAGE, _INTERRUPTED, _BROKEN_PIPE = 1, 2, 130, 141  # the last two as shells count signals


@dataclass(frozen=True, slots=True)
class _Flag:
    """A flag, said once: argparse, the environment and --help all follow from it."""

    name: str
    metavar: str
    help: str
    choices: tuple[str, ...] = ()
    repeatable: bool = False
    switch: bool = False
    supported: bool = True
    variable: str = ""

    @property
    def env(self) -> str:
        """The environment variable that is read where the flag is not given."""
        own = self.name.upper().replace(".", "_").replace("-", "_")
        return self.variable or f"CELERY_RESULTS_EXPORTER_{own}"


_FLAGS = (
    _Flag("config.file", "FILE", "the configuration (YAML)"),
    _Flag(
        "celery.result-backend",
        "URL",
        "without a file: the one result backend to read, as Celery's setting has it; prefer the "
        "variable, since other users of the machine can see command lines",
        variable="CELERY_RESULT_BACKEND",
    ),
    _Flag(
        "web.listen-address",
        "HOST:PORT",
        "where to serve, repeatable, in the variable with commas (default :10224)",
        repeatable=True,
    ),
    _Flag("web.telemetry-path", "PATH", "where to serve the metrics (default /metrics)"),
    _Flag("web.config.file", "FILE", "TLS and authentication: not supported yet", supported=False),
    _Flag(
        "web.enable-lifecycle",
        "",
        "reload by HTTP: not supported yet",
        switch=True,
        supported=False,
    ),
    _Flag(
        "checkpoint.adopt",
        "NAME",
        "a backend whose results have moved to another database: its counts in the checkpoint go "
        "on there; repeatable, in the variable with commas",
        repeatable=True,
    ),
    _Flag(
        "log.level",
        "LEVEL",
        "debug, info, warning (warn) or error (default info; warning for check, once and verify)",
        choices=("debug", "info", "warning", "warn", "error"),
    ),
    _Flag("log.format", "FORMAT", "logfmt or json (default logfmt)", choices=("logfmt", "json")),
)

_NOTHING_TO_READ = (
    "nothing to read: give --config.file=FILE or --celery.result-backend=URL, or set "
    "CELERY_RESULTS_EXPORTER_CONFIG_FILE or CELERY_RESULT_BACKEND"
)

_COMMANDS = {
    "run": "read the result backends and serve the metrics (the default)",
    "check": "try each backend and print what it finds",
    "once": "read all there is, print the metrics and end",
    "verify": "compare the counts in the checkpoint with the tables",
}


@dataclass(frozen=True, slots=True)
class _Value:
    """The value of a flag and where it comes from, for messages."""

    texts: Sequence[str]
    origin: str  # the flag or the variable

    @property
    def text(self) -> str:
        return self.texts[-1]

    @property
    def by_flag(self) -> bool:
        return self.origin.startswith("--")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    try:
        try:
            return _run(sys.argv[1:] if argv is None else argv, os.environ)
        finally:
            if sys.stdout is not None:
                sys.stdout.flush()
    except BrokenPipeError:
        # Whoever read our output has seen enough; Python would complain once more at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return _BROKEN_PIPE
    except KeyboardInterrupt:  # the service takes it as a signal to end well, and answers 0
        return _INTERRUPTED
    except ConfigError as error:
        return _complain(error.faults, _USAGE)
    except ExporterError as error:
        return _complain([str(error)], _FAULT)


def _complain(faults: Sequence[str], code: int) -> int:
    lines = [printable(redaction.mask(fault), _LONGEST_FAULT) for fault in faults[:_MOST_FAULTS]]
    if len(faults) > _MOST_FAULTS:
        lines.append(f"and {len(faults) - _MOST_FAULTS:,} more")
    for line in lines:
        sys.stderr.write(f"{_PROGRAM}: error: {line}\n")
    return code


def _run(argv: Sequence[str], env: Mapping[str, str]) -> int:
    namespace = _parser().parse_intermixed_args(argv)
    command: str = namespace.command
    values = _values(vars(namespace), env)
    config = _config(values, env)
    _configure_logs(values, default_level="info" if command == "run" else "warning")
    _refuse_to_adopt_nothing(values, config)
    options = _options(values)
    if command == "check":
        from exporter.commands.check import check

        return check(config, options.adopt)
    if command == "verify":
        from exporter.commands.verify import verify

        return verify(config, options.adopt)
    from exporter.runtime import service

    if command == "once":
        return service.once(config, options.adopt)
    return service.run(config, options)


def _options(values: Mapping[str, _Value]) -> Options:
    options = Options()
    if adopt := values.get("checkpoint.adopt"):
        options = replace(options, adopt=frozenset(adopt.texts))
    if path := values.get("web.telemetry-path"):
        options = replace(options, telemetry_path=path.text)
    if listen := values.get("web.listen-address"):
        from exporter.web.addresses import parse_address

        try:
            for text in listen.texts:
                parse_address(text)
        except ValueError as error:
            raise ConfigError([f"{listen.origin}: {error}"]) from None
        options = replace(options, listen_addresses=tuple(listen.texts))
    return options


def _refuse_to_adopt_nothing(values: Mapping[str, _Value], config: Config) -> None:
    if adopt := values.get("checkpoint.adopt"):
        unknown = sorted(set(adopt.texts) - {backend.name for backend in config.backends})
        if unknown:
            raise ConfigError([f"{adopt.origin}: there is no backend {unknown[0]!r}"])
        if config.checkpoint is None:
            raise ConfigError([f"{adopt.origin}: there is no checkpoint in the configuration"])


def _config(values: Mapping[str, _Value], env: Mapping[str, str]) -> Config:
    file, url = values.get("config.file"), values.get("celery.result-backend")
    if file and url:
        if file.by_flag and url.by_flag:
            raise ConfigError(["--config.file and --celery.result-backend exclude each other"])
        # A flag wins over a variable; of two variables the one that is ours alone.
        file, url = (None, url) if url.by_flag else (file, None)
    from exporter.config import loading

    if file:
        return loading.load(Path(file.text), env)
    if url:
        return loading.from_url(url.text, origin=url.origin)
    raise ConfigError([_NOTHING_TO_READ])


def _configure_logs(values: Mapping[str, _Value], default_level: str) -> None:
    from exporter import logs

    level, form = values.get("log.level"), values.get("log.format")
    log_format = cast("Literal['logfmt', 'json']", form.text if form else "logfmt")
    logs.configure(level.text if level else default_level, log_format)


def _values(flags: Mapping[str, list[str] | None], env: Mapping[str, str]) -> dict[str, _Value]:
    found, faults = {}, []
    for flag in _FLAGS:
        texts, origin = flags[flag.name], f"--{flag.name}"
        if texts is None:
            text, origin = env.get(flag.env, ""), flag.env
            if not text or (flag.switch and text == "false"):
                continue
            texts = [part.strip() for part in text.split(",")] if flag.repeatable else [text]
        if flag.choices:
            texts = [text.lower() for text in texts]  # Python's level names are in capitals
        value = _Value(texts, origin)
        if not flag.supported:
            faults.append(f"{origin} is not supported yet")
        elif not all(texts):
            faults.append(f"{origin} is empty")
        elif flag.choices and value.text not in flag.choices:
            faults.append(f"{origin}: {value.text!r} is not one of {', '.join(flag.choices)}")
        found[flag.name] = value
    if faults:
        raise ConfigError(faults)
    return found


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise ConfigError([f"{message}; see --help"])


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog=_PROGRAM,
        usage=f"{_PROGRAM} [{'|'.join(_COMMANDS)}] [flags]",
        description="Prometheus exporter for Celery's SQL result backends.",
        epilog="commands:\n" + "".join(f"  {name:<8}{text}\n" for name, text in _COMMANDS.items()),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,  # an abbreviation would break when a flag is added
    )
    parser.add_argument(
        "command", nargs="?", choices=tuple(_COMMANDS), default="run", help=argparse.SUPPRESS
    )
    for flag in _FLAGS:
        text = f"{flag.help} [${flag.env}]"
        if flag.switch:
            parser.add_argument(
                f"--{flag.name}", dest=flag.name, action="append_const", const="true", help=text
            )
        else:
            parser.add_argument(
                f"--{flag.name}",
                dest=flag.name,
                action="append",
                metavar=flag.metavar,
                help=text,
            )
    parser.add_argument("--version", action="version", version=_version())
    return parser


def _version() -> str:
    parts = (
        f"python {platform.python_version()}",
        f"sqlalchemy {version('sqlalchemy')}",
        f"celery {version('celery')}",
    )
    return f"{_PROGRAM}, version {__version__} ({', '.join(parts)})"
