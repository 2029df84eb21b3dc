"""The command line: subcommands, what goes wrong in them, exit codes."""

from __future__ import annotations

import importlib
import os
import pkgutil
import sys
from typing import TYPE_CHECKING

import click

from exporter import commands, flags, redaction
from exporter.errors import ConfigError, ExporterError, shown
from exporter.printable import printable

if TYPE_CHECKING:
    from collections.abc import Sequence

_LONGEST_FAULT = 1_000  # characters
_FAULT, _USAGE, _INTERRUPTED, _BROKEN_PIPE = 1, 2, 130, 141  # the last two as shells count signals
_DEFAULT = "run"


class _Commands(click.Group):
    """The modules of `exporter.commands`, each imported when it is asked for.

    Flags may stand before the command as well as after it; without a command they are `run`'s.
    """

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002
        return sorted(module.name for module in pkgutil.iter_modules(commands.__path__))

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in self.list_commands(ctx):
            return None
        module = importlib.import_module(f"{commands.__name__}.{cmd_name}")
        command: click.Command = module.command
        return command

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        given, rest, _ = self.make_parser(ctx).parse_args(list(args))
        of_its_own = {param.name for param in self.get_params(ctx) if param.is_eager}
        if rest or not given.keys() & of_its_own:  # --help without a command lists them
            before = args[: len(args) - len(rest)]
            args = [*(rest[:1] or [_DEFAULT]), *before, *rest[1:]]
            ctx.resilient_parsing = True  # flags and variables are the command's to judge
        try:
            return super().parse_args(ctx, args)
        finally:
            ctx.resilient_parsing = False


@click.group(
    cls=_Commands,
    params=flags.options(),
    context_settings={"max_content_width": 100, "help_option_names": ["-h", "--help"]},
    epilog=f"Without a command it is {_DEFAULT}. Flags may stand before or after the command.",
)
def _cli(**_: object) -> None:
    """Prometheus exporter for Celery's SQL result backends."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    try:
        try:
            return _run(sys.argv[1:] if argv is None else argv)
        finally:
            if sys.stdout is not None:
                sys.stdout.flush()
    except BrokenPipeError:
        # Whoever read our output has seen enough; Python would complain once more at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return _BROKEN_PIPE
    except KeyboardInterrupt:  # the service takes it as a signal to end well, and answers 0
        return _INTERRUPTED
    except click.UsageError as error:
        return _complain([flags.fault(error)], _USAGE)
    except ConfigError as error:
        return _complain(error.faults, _USAGE)
    except ExporterError as error:
        return _complain([str(error)], _FAULT)


def _run(argv: Sequence[str]) -> int:
    """Run what is asked for: not by click's own main, which answers a broken pipe with 1."""
    try:
        with _cli.make_context(flags.PROGRAM, list(argv)) as context:
            code: int = _cli.invoke(context)
            return code
    except click.exceptions.Exit as end:  # of --help and --version
        return end.exit_code


def _complain(faults: list[str], code: int) -> int:
    for fault in shown(faults):
        line = printable(redaction.mask(fault), _LONGEST_FAULT)
        sys.stderr.write(f"{flags.PROGRAM}: error: {line}\n")
    return code
