"""The `rl-exp` console script."""

from __future__ import annotations

import atexit
import io
import logging
import os
import sys
from importlib import metadata
from typing import Annotated, NoReturn

import typer

from cli import bench, controlled, report, reward_eval, rlhf, rlhf_sweep, train
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
)
app.command("train", **train.SETTINGS)(train.train)
app.command("bench", **bench.SETTINGS)(bench.bench)
app.command("controlled", **controlled.SETTINGS)(controlled.controlled)
app.command("reward-eval", **reward_eval.SETTINGS)(reward_eval.reward_eval)
app.command("rlhf", **rlhf.SETTINGS)(rlhf.rlhf)
app.command("rlhf-sweep", **rlhf_sweep.SETTINGS)(rlhf_sweep.rlhf_sweep)
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
    logging.raiseExceptions = False  # a log line that cannot be written (`rl-exp ... | head`) is no news
    try:
        app()
    except SystemExit as end:
        if launched_by_torchrun() is None:
            raise
        _leave_without_teardown(end.code)


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
