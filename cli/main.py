"""The `rl-exp` console script."""

from __future__ import annotations

import atexit
import errno
import io
import logging
import os
import sys
from contextlib import suppress
from importlib import metadata
from typing import Annotated, NoReturn

import typer

from cli import report
from cli.experiments import add_experiments
from cli.hydra_command import HELP_NAMES
from experiments.runs.ranks import launched_by_torchrun

HELP = """Run, measure and extend three papers from one command line: hardware-efficient attention, reward models as
teachers, and beneficial reward errors.

Every command takes Hydra overrides (key=value, group=option), runs a sweep with -m, shows its configuration with
--cfg job, and what it would do with --dry-run."""

app = typer.Typer(
    name="rl-exp",
    help=HELP,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    context_settings=HELP_NAMES,
)
add_experiments(app)
app.add_typer(report.app, name="report")


def _print_version(value: bool) -> None:
    if value:
        typer.echo(f"rl-exp {metadata.version('rl-exp')}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit."),
    ] = False,
) -> None:
    pass


def main() -> None:
    """Entry point."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal that knows ASCII only shows ? for other marks
    logging.raiseExceptions = False  # ignore log lines that cannot be written (`rl-exp ... | head`)
    try:
        app()
    except SystemExit as end:
        try:
            sys.stdout.flush()
        except OSError as error:  # a full disk behind `rl-exp ... > file`
            _drop_stdout(error)
            if not isinstance(error, BrokenPipeError):
                raise SystemExit(end.code or 1) from None
        if launched_by_torchrun() is None:
            raise
        _leave_without_teardown(end.code)
    except OSError as error:
        if error.errno != errno.ENOSPC or error.filename is not None:
            raise
        _drop_stdout(error)
        raise SystemExit(1) from None


def _drop_stdout(error: OSError) -> None:
    """Say that it cannot be written, and keep the interpreter's end from trying again."""
    with suppress(OSError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    if not isinstance(error, BrokenPipeError):
        typer.echo(f"error: stdout cannot be written ({error.strerror})", err=True)


def _leave_without_teardown(code: str | int | None) -> NoReturn:
    """End a rank of torchrun: all that an interpreter does at its end but the destruction of what is left.

    A native thread of torch's process group may still be there, and abort a rank that had finished (about one start in
    thirty; torchrun then ends the others).
    """
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code if isinstance(code, int) else int(code is not None))


if __name__ == "__main__":
    main()
