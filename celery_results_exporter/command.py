"""``celery --app=… results-exporter``: reads the app's settings, and becomes the exporter.

Celery loads this module for each of its commands, so it imports next to nothing.
"""

from __future__ import annotations

import os
import sys

import click


@click.command(
    "results-exporter",
    add_help_option=False,  # the exporter's own is the one to show
    context_settings={"ignore_unknown_options": True},
)
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
@click.pass_context
def command(context: click.Context, /, arguments: tuple[str, ...], **_: object) -> None:
    """Serve the app's results to Prometheus: celery-results-exporter, set up by the app.

    The process that goes on has never loaded the app. What its settings say, passwords too, is
    handed over in a pipe, which nobody else can read.
    """
    from celery_results_exporter.celeryapp import hand_over  # noqa: PLC0415

    reader, writer = os.pipe()
    hand_over(lambda: context.obj.app, writer)
    os.close(writer)
    os.set_inheritable(reader, True)  # noqa: FBT003 - the only argument there is
    sys.stdout.flush()
    sys.stderr.flush()
    # -P, or a folder "exporter" that this was started beside would be taken for it.
    program = [sys.executable, "-P", "-m", "exporter"]
    os.execv(program[0], [*program, f"--celery.settings-fd={reader}", *arguments])  # noqa: S606
