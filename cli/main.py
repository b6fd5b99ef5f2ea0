"""The `rl-exp` console script."""

from __future__ import annotations

import logging
from importlib import metadata
from typing import Annotated

import typer

from cli import bench, controlled, report, reward_eval, rlhf, rlhf_sweep, train

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
    logging.raiseExceptions = False  # a log line that cannot be written (`rl-exp ... | head`) is no news
    app()


if __name__ == "__main__":
    main()
