"""What a user sees before and after runs and sweeps."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.markup import escape
from rich.table import Column, Table

from experiments.runs.files import read_json, write_json
from experiments.runs.identity import content_hash
from experiments.runs.manifest import now
from experiments.runs.run import Run, RunState, owner_of, read_status

if TYPE_CHECKING:
    from conf.commands import Command
    from conf.compose import Job


def show_plan(command: Command, jobs: list[Job], multirun: bool) -> None:
    """`--dry-run`: the resolved configuration of one job, or the list of a sweep's jobs and what is done already."""
    from omegaconf import OmegaConf

    from conf.compose import plain

    console = Console()
    if not multirun:
        job = jobs[0]
        print(OmegaConf.to_yaml(OmegaConf.create(plain(job.config))), end="")
        console.print(f"# run {job.run_id}: {_state_of(command, job)}", highlight=False)
        return
    table = Table(
        "job",
        "run id",
        Column("what differs", overflow="fold"),
        "state",
        title=f"rl-exp {command.name}: {len(jobs)} jobs",
    )
    for number, job in enumerate(jobs):
        table.add_row(str(number), job.run_id, escape(_what_differs(job, jobs)), _state_of(command, job))
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


def sweep_directory_of(command: Command, jobs: list[Job]) -> Path:
    """Where a sweep is recorded and compared: the same jobs always have the same directory."""
    name = f"{command.name}-{content_hash(sorted(job.run_id for job in jobs), 10)}"
    return Path(jobs[0].config.output_dir) / "sweeps" / name


def start_sweep(command: Command, jobs: list[Job], overrides: list[str]) -> Path:
    """Record the sweep and return its directory."""
    directory = sweep_directory_of(command, jobs)
    record = {
        "command": command.name,
        "experiment": command.experiment,
        "overrides": overrides,
        "started": now(),
        "jobs": [{"run_id": job.run_id, "overrides": list(job.overrides)} for job in jobs],
    }
    write_json(directory / "sweep.json", record)
    console = Console()
    done = sum(_state_of(command, job) == RunState.finished for job in jobs)
    console.rule(f"rl-exp {command.name} · sweep {directory.name}")
    console.print(
        f"{len(jobs)} jobs, {done} finished already; output in {escape(str(directory))}",
        highlight=False,
        soft_wrap=True,
    )
    return directory


def finish_sweep(command: Command, jobs: list[Job], sweep_directory: Path) -> int:
    """Compare the finished runs, list what is not finished, and return the exit code."""
    from cli.perform import summarise

    console = Console()
    runs = Path(jobs[0].config.output_dir) / command.experiment
    states = [(job, read_status(runs / job.run_id) or {"state": "not started"}) for job in jobs]
    finished = [runs / job.run_id for job, status in states if status["state"] == RunState.finished]
    summarise(command, list(dict.fromkeys(finished)), sweep_directory, console)
    failures = [(job, status) for job, status in states if status["state"] != RunState.finished]
    console.print(f"[bold]sweep[/]     {escape(str(sweep_directory))}", highlight=False, soft_wrap=True)
    if not failures:
        show_document(sweep_directory)
        return 0
    title = f"{len(failures)} of {len(jobs)} jobs did not finish"
    table = Table("run id", Column("what differs", overflow="fold"), "state", "reason", title=title)
    for job, status in failures:
        reason = escape(str(status.get("reason", "")))
        if status["state"] == RunState.running:  # killed, or still at work for another command
            reason = escape(f"last sign of life {status.get('heartbeat')} from {owner_of(status)}")
        table.add_row(job.run_id, escape(_what_differs(job, jobs)), status["state"], reason)
    console.print(table)
    show_document(sweep_directory)
    return 1


def _what_differs(job: Job, jobs: list[Job]) -> str:
    """The overrides that not all jobs of a sweep have."""
    return " ".join(text for text in job.overrides if any(text not in other.overrides for other in jobs))


def _state_of(command: Command, job: Job) -> str:
    directory = Path(job.config.output_dir) / command.experiment / job.run_id
    status = read_status(directory)
    return "new" if status is None else str(status["state"])
