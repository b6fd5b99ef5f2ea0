"""`rl-exp report`: tables, comparisons, figures, claims and one page, from run directories alone."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from cli.hydra_command import fail

app = typer.Typer(
    name="report",
    help="Read run directories: a table of runs, comparisons, figures, the ledger of the papers' claims, one page.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
)

OutputDir = Annotated[Path, typer.Option("--output-dir", help="Where the runs are.", show_default=True)]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")]
DEFAULT_OUTPUT_DIR = Path("outputs")


@app.command("runs")
def runs(
    experiment: Annotated[list[str] | None, typer.Option(help="Only runs of this command: train, bench, ...")] = None,
    status: Annotated[
        list[str] | None,
        typer.Option(help="Only this state: finished, running, stale, failed, interrupted, empty, unreadable."),
    ] = None,
    sort: Annotated[str, typer.Option(help="age, id, experiment, status, or any setting or metric.")] = "age",
    reverse: Annotated[bool, typer.Option("--reverse", help="The other way round.")] = False,
    filters: Annotated[
        list[str] | None,
        typer.Option("--filter", metavar="KEY=VALUE", help="A setting or metric, such as attention.mechanism=gta."),
    ] = None,
    watch: Annotated[
        bool, typer.Option("--watch", help="Show the table again every two seconds, until Ctrl-C.")
    ] = False,
    as_json: AsJson = False,
    output_dir: OutputDir = DEFAULT_OUTPUT_DIR,
) -> None:
    """A table of runs: id, status, age, what differs from the defaults, headline metrics."""
    from rich.console import Console

    from experiments.reports.run_records import read_records
    from experiments.reports.run_table import choose_runs, runs_table, sort_runs

    _require_folder(output_dir)

    def chosen() -> list[Any]:
        records = read_records(output_dir)
        some = choose_runs(records, experiments=experiment or (), states=status or (), filters=filters or ())
        return sort_runs(some, sort, reverse=reverse)

    records = _or_fail(chosen)
    if as_json:
        print(json.dumps([record.as_dict() for record in records], indent=2, default=str))
        return
    console = Console()
    if watch:
        from rich.live import Live

        try:
            with Live(runs_table(records), console=console, auto_refresh=False) as live:
                while True:
                    time.sleep(2)
                    live.update(runs_table(_or_fail(chosen)), refresh=True)
        except KeyboardInterrupt:
            return
    if not records:
        console.print(f"no runs in {output_dir} that fit; start one with: rl-exp train", highlight=False)
        return
    console.print(runs_table(records))


def _require_folder(output_dir: Path) -> None:
    if output_dir != DEFAULT_OUTPUT_DIR and not output_dir.is_dir():
        fail(f"--output-dir {output_dir} is no folder: name the one that runs were written to, such as outputs")


def _or_fail(action: Callable[[], Any]) -> Any:
    """What `action` returns; a ValueError is the user's mistake."""
    try:
        return action()
    except ValueError as error:
        fail(" ".join(str(error).split()))
