"""What a user sees before and after runs and sweeps."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.markup import escape
from rich.table import Column, Table

from experiments.runs.files import read_json
from experiments.runs.run import Run, read_status

if TYPE_CHECKING:
    from conf.commands import Command
    from conf.compose import Job


def show_plan(command: Command, jobs: list[Job], multirun: bool) -> None:
    """`--dry-run`: the resolved configuration of one job, or the list of a sweep's jobs and what is done already."""
    from omegaconf import OmegaConf

    from conf.compose import plain
    from conf.cost import cost_of

    console = Console()
    if not multirun:
        job = jobs[0]
        print(OmegaConf.to_yaml(OmegaConf.create(plain(job.config))), end="")
        for line in cost_of(job.settings):
            console.print(f"# {line}", highlight=False, markup=False, soft_wrap=True)
        console.print(f"# run {job.run_id}: {state_of(command, job)}", highlight=False)
        return
    table = Table(
        "job",
        "run id",
        Column("what differs", overflow="fold"),
        "state",
        title=f"rl-exp {command.name}: {len(jobs)} jobs",
    )
    asked = [job.overrides for job in jobs]
    for number, job in enumerate(jobs):
        table.add_row(str(number), job.run_id, escape(what_differs(job.overrides, asked)), state_of(command, job))
    console.print(table)


def show_start(run: Run, overrides: list[str]) -> None:
    """The first screen: id, what differs from the defaults, where output goes."""
    console = run.console
    again = f" (attempt {run.attempt})" if run.attempt > 1 else ""
    console.rule(f"rl-exp {run.experiment.replace('_', '-')} · run {run.id}{again}")
    console.print(f"[bold]settings[/]  {escape('  '.join(overrides)) or 'all defaults'}", highlight=False)
    console.print(f"[bold]output[/]    {escape(str(run.directory))}", highlight=False, soft_wrap=True)


def show_end(console: Console, directory: Path) -> None:
    """The last screen: headline results, time, where things are, how to sync W&B."""
    summary = read_json(directory / "summary.json")
    numbers = {
        key: value for key, value in summary.items() if isinstance(value, int | float | str) and key != "objective"
    }
    table = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
    for key, value in numbers.items():
        table.add_row(key, escape(_shown(value)))
    console.print(table)
    console.print(f"[bold]results[/]   {escape(str(directory))}", highlight=False, soft_wrap=True)
    offline = sorted(directory.glob("wandb/offline-run-*"))
    if offline:
        console.print(f"[bold]W&B[/]       wandb sync {escape(str(offline[-1]))}", highlight=False, soft_wrap=True)


def show_job(directory: Path, overrides: list[str], event: str) -> None:
    """One line of a job that runs beside others."""
    clock = time.strftime("%H:%M:%S")
    settings = escape("  ".join(overrides)) or "all defaults"
    Console().print(f"{clock}  run {directory.name} {event}  [dim]{settings}[/]", highlight=False, soft_wrap=True)


def _shown(value: float | str) -> str:
    if isinstance(value, float):
        return f"{value:,.4g}" if abs(value) < 1000 else f"{value:,.0f}"
    return f"{value:,}" if isinstance(value, int) else value


def show_finished_before(console: Console, directory: Path) -> None:
    """A run that is asked for again."""
    console.rule(f"run {directory.name} is finished already")
    show_end(console, directory)
    console.print("force=true starts it over", highlight=False)


def show_document(directory: Path) -> None:
    """The last line of stdout, for commands that promise one: `results.json` as one line of JSON."""
    path = directory / "results.json"
    if path.exists():
        sys.stdout.flush()  # rich writes to the same stream
        print(json.dumps(read_json(path), allow_nan=False), flush=True)


def what_differs(overrides: Sequence[str], jobs: Sequence[Sequence[str]]) -> str:
    """Of one job's overrides, those that not all jobs of a sweep have."""
    return " ".join(text for text in overrides if any(text not in other for other in jobs))


def state_of(command: Command, job: Job) -> str:
    """What the status of a job's run says; `new` where there is none."""
    directory = Path(job.config.output_dir) / command.experiment / job.run_id
    status = read_status(directory)
    return "new" if status is None else str(status["state"])
