"""`rl-exp report`: tables, comparisons, figures, claims and one page, from run directories alone."""

from __future__ import annotations

import functools
import json
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn, ParamSpec, TypeVar

import typer
from rich.markup import escape

from cli.hydra_command import fail

if TYPE_CHECKING:
    from experiments.reports.run_records import RunRecord

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
MOST_SWEEPS = 5  # named below the table of runs

Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")


def one_line_per_mistake(command: Callable[Parameters, Result]) -> Callable[Parameters, Result]:
    """A ValueError is the user's mistake, here as in all packages: one line, exit code 2."""

    @functools.wraps(command)
    def checked(*args: Parameters.args, **options: Parameters.kwargs) -> Result:
        try:
            return command(*args, **options)
        except ValueError as error:
            fail(" ".join(str(error).split()))

    return checked


@app.command("runs")
@one_line_per_mistake
def runs(
    experiment: Annotated[list[str] | None, typer.Option(help="Only runs of this command: train, bench, ...")] = None,
    status: Annotated[
        list[str] | None,
        typer.Option(help="Only this state: finished, running, stale, failed, interrupted, empty, unreadable."),
    ] = None,
    sort: Annotated[str, typer.Option(help="age, id, experiment, status, or any setting or metric.")] = "age",
    reverse: Annotated[bool, typer.Option("--reverse", help="In the opposite order.")] = False,
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

    from experiments.reports.run_comparison import sweep_directories
    from experiments.reports.run_records import read_records
    from experiments.reports.run_table import choose_runs, runs_table, sort_runs

    _require_folder(output_dir)

    def chosen() -> list[RunRecord]:
        records = read_records(output_dir)
        some = choose_runs(records, experiments=experiment or (), states=status or (), filters=filters or ())
        return sort_runs(some, sort, reverse=reverse)

    records = chosen()
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
                    live.update(runs_table(chosen()), refresh=True)
        except KeyboardInterrupt:
            return
    if not records:
        what = " that match" if experiment or status or filters else " yet; start one with: rl-exp train"
        console.print(f"no runs in {output_dir}{what}", highlight=False)
        return
    console.print(runs_table(records))
    sweeps = [path.name for path in sweep_directories(output_dir)]
    if sweeps:
        more = f" and {len(sweeps) - MOST_SWEEPS} older" if len(sweeps) > MOST_SWEEPS else ""
        console.print(f"sweeps: {', '.join(sweeps[:MOST_SWEEPS])}{more}", highlight=False, markup=False)


@app.command("compare")
@one_line_per_mistake
def compare(
    names: Annotated[
        list[str], typer.Argument(metavar="RUNS", help="Run ids, unique prefixes, run or sweep directories, sweep ids.")
    ],
    metric: Annotated[
        list[str] | None, typer.Option(help="Only this number of the summaries; may be repeated.")
    ] = None,
    curve: Annotated[list[str] | None, typer.Option(help="Draw this metric of metrics.jsonl; may be repeated.")] = None,
    as_json: AsJson = False,
    output_dir: OutputDir = DEFAULT_OUTPUT_DIR,
) -> None:
    """Arms against each other: means and intervals over seeds, tests against the first arm, overlaid curves."""
    from rich.console import Console

    from experiments.reports.comparison_curves import draw_curves
    from experiments.reports.run_comparison import (
        MOST_METRICS_PRINTED,
        compare_arms,
        compare_metrics,
        comparison_document,
        comparison_table,
        find_runs,
    )
    from experiments.runs.files import write_json
    from experiments.runs.identity import content_hash

    directories = find_runs(names, output_dir)
    if len(directories) == 1:
        fail(f"{names[0]} is one run: name at least two, or a sweep (rl-exp report runs lists them)")
    arms, left_out = compare_arms(directories)
    rows = compare_metrics(arms, metric or ())
    document = comparison_document(arms, rows, left_out)
    folder = output_dir / "report" / f"compare-{content_hash(sorted(path.name for path in directories), 10)}"
    figure = None
    try:
        figure = draw_curves(arms, folder, curve or ())
        if arms:
            write_json(folder / "comparison.json", document)
    except OSError as error:
        _say_unwritten(folder, error)
    if as_json:
        print(json.dumps(document | {"figure": None if figure is None else str(figure)}, indent=2))
        return
    console = Console()
    for line in left_out:
        console.print(f"[yellow]left out:[/] {escape(line)}", highlight=False, soft_wrap=True)
    if not arms:
        console.print("no finished run among them: nothing to compare yet", highlight=False)
        return
    if len(arms) == 1:
        several = len(arms[0].runs) > 1
        differ = "these runs differ in nothing but their seed" if several else "the others are left out"
        console.print(f"one arm only: {differ}", highlight=False)
    elif not rows:
        console.print("these runs have no number in common that differs between them", highlight=False)
    for row in rows[:MOST_METRICS_PRINTED]:
        console.print(comparison_table(arms, row))
    if len(rows) > MOST_METRICS_PRINTED:
        console.print(f"{len(rows) - MOST_METRICS_PRINTED} further metrics are in comparison.json", highlight=False)
    console.print(f"[bold]results[/]   {escape(str(folder))}", highlight=False, soft_wrap=True)
    if figure is not None:
        console.print(f"[bold]figure[/]    {escape(str(figure))} (and .svg)", highlight=False, soft_wrap=True)


@app.command("claims")
@one_line_per_mistake
def claims(
    names: Annotated[
        list[str] | None, typer.Argument(metavar="CLAIMS", help="Only these, with all their parts.", show_default=False)
    ] = None,
    run: Annotated[
        str | None,
        typer.Option(
            "--run",
            metavar="CLAIM",
            help="First make the evidence of this claim (or of claim/evidence) by its commands.",
        ),
    ] = None,
    as_json: AsJson = False,
    output_dir: OutputDir = DEFAULT_OUTPUT_DIR,
) -> None:
    """The ledger of the papers' claims: verdicts that follow by rule from finished runs or published results."""
    from rich.console import Console

    from experiments.report import commands_of, ledger
    from experiments.reports.claims import VERDICTS, ledger_table
    from experiments.runs.files import write_json

    _require_folder(output_dir)
    if run is not None:
        for words in commands_of(run):
            _call([*words, f"output_dir={output_dir}"])
        names = [*(names or []), run.partition("/")[0]]
    _say_what_is_not_installed(output_dir)
    entries = ledger(output_dir, list(dict.fromkeys(names or ())))
    document = [entry.as_dict() for entry in entries]
    if not names:
        try:
            write_json(output_dir / "report" / "claims.json", document)
        except OSError as error:
            _say_unwritten(output_dir / "report" / "claims.json", error)
    if as_json:
        print(json.dumps(document, indent=2))
        return
    console = Console()
    console.print(ledger_table(entries, details=bool(names)))
    console.print("+ reproduced  - not reproduced  ? inconclusive  (of parts)", style="dim", highlight=False)
    counts = {verdict: sum(entry.verdict == verdict for entry in entries) for verdict in VERDICTS}
    console.print(", ".join(f"{count} {verdict}" for verdict, count in counts.items() if count), highlight=False)


def _call(words: list[str]) -> None:
    """`rl-exp <words>` in a process of its own; its failure ends this command with its exit code.

    Ctrl-C reaches the child too, which saves what it has and ends: it is waited for, however often it is pressed.
    """
    # What it prints goes to stderr: stdout is for the ledger.
    typer.secho(f"$ rl-exp {shlex.join(words)}", bold=True, err=True)
    child = subprocess.Popen([sys.executable, "-m", "cli.main", *words], stdout=2)
    interrupted, code = False, None
    while code is None:
        try:
            code = child.wait()
        except KeyboardInterrupt:
            interrupted = True
    if interrupted:
        fail("interrupted; the same command continues where it stopped", code=130)
    if code:
        fail(f"rl-exp {shlex.join(words)} ended with exit code {code}: see above", code=code if code > 0 else 1)


@app.command("figures")
@one_line_per_mistake
def figures(
    folder: Annotated[
        Path | None, typer.Option("--folder", help="Where to put them; default: report/figures below --output-dir.")
    ] = None,
    as_json: AsJson = False,
    output_dir: OutputDir = DEFAULT_OUTPUT_DIR,
) -> None:
    """All figures of runs, sweeps and published results in one folder, as PNG and, where it can be drawn, SVG."""
    from rich.console import Console

    from experiments.report import figure_places
    from experiments.reports.figure_gallery import gather_figures

    _require_folder(output_dir)
    target = folder or output_dir / "report" / "figures"
    if target.resolve() in (Path.cwd(), output_dir.resolve()):
        fail(f"--folder {target} holds other files: choose a new folder for the figures")
    _say_what_is_not_installed(output_dir)
    try:
        gathered, left_out = gather_figures(figure_places(output_dir), target)
    except OSError as error:
        _fail_unwritten(target, error, "another folder with --folder")
    for line in left_out:
        typer.echo(f"left out: {line}", err=True)
    if as_json:
        names = [
            {"name": f.name, "png": str(f.png), "svg": f.svg and str(f.svg), "caption": f.caption} for f in gathered
        ]
        print(json.dumps(names, indent=2))
        return
    without = sum(figure.svg is None for figure in gathered)
    note = f" ({without} of them as PNG only)" if without else ""
    Console().print(f"{len(gathered)} figures{note} in {escape(str(target))}", highlight=False, soft_wrap=True)


@app.command("html")
@one_line_per_mistake
def html(
    page: Annotated[
        Path | None, typer.Option("--page", help="The file to write; default: report/report.html below --output-dir.")
    ] = None,
    output_dir: OutputDir = DEFAULT_OUTPUT_DIR,
) -> None:
    """One self-contained page: claims, figures, runs, and what made them. Prints its path."""
    from experiments.report import figure_places, ledger
    from experiments.reports.figure_gallery import collect_figures
    from experiments.reports.html_page import write_page
    from experiments.reports.run_records import read_records
    from experiments.reports.run_table import sort_runs
    from experiments.reports.sweep_tables import sweep_tables

    _require_folder(output_dir)
    target = page or output_dir / "report" / "report.html"
    try:
        target.parent.mkdir(parents=True, exist_ok=True)  # before the work, which takes a while
        if target.is_dir():
            fail(f"{target} is a folder: name a file with --page")
    except OSError as error:
        _fail_unwritten(target, error, "another file with --page")
    _say_what_is_not_installed(output_dir)
    entries = ledger(output_dir)
    gallery, left_out = collect_figures(figure_places(output_dir, most_runs=10))
    for line in left_out:
        typer.echo(f"left out: {line}", err=True)
    records, tables = sort_runs(read_records(output_dir), "age"), sweep_tables(output_dir)
    try:
        print(write_page(target, entries=entries, records=records, figures=gallery, sweeps=tables))
    except OSError as error:
        _fail_unwritten(target, error, "another file with --page")


def _say_what_is_not_installed(output_dir: Path) -> None:
    from experiments.report import where_published_results_are

    if (line := where_published_results_are(output_dir)) is not None:
        typer.echo(line, err=True)


def _say_unwritten(path: Path, error: OSError) -> None:
    """A folder that cannot be written does not end a command that has read what it was asked for."""
    typer.echo(f"{path} was not written ({error.strerror})", err=True)


def _fail_unwritten(path: Path, error: OSError, instead: str) -> NoReturn:
    fail(f"{path} cannot be written ({error.strerror}): name {instead}")


def _require_folder(output_dir: Path) -> None:
    if output_dir != DEFAULT_OUTPUT_DIR and not os.path.isdir(output_dir):  # no error for a name that is too long
        fail(f"--output-dir {output_dir} is not a folder: name the one that runs were written to, such as outputs")
