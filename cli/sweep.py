"""A sweep: recorded before its jobs run, compared and summarised after them. They may run in other processes.

outputs/sweeps/<command>-<hash of its jobs>/
    sweep.json  what was asked for       jobs/<run id>.json  written by each job as it begins
    comparison.json, figures/ and so on, as the experiment compares; submitit/: what the jobs printed
"""

from __future__ import annotations

import importlib
import logging
import os
import traceback
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.markup import escape
from rich.table import Column, Table

from cli.screens import show_document, state_of, what_differs
from experiments.runs.files import read_json, write_json
from experiments.runs.identity import content_hash
from experiments.runs.manifest import now
from experiments.runs.run import RunState, owner_of, read_status

if TYPE_CHECKING:
    from omegaconf import DictConfig

    from conf.commands import Command
    from conf.compose import Job

STOPPED = "stopped.json"  # in a sweep's directory, when a job failed and no other is to begin

logger = logging.getLogger(__name__)


def sweep_directory_of(command: Command, jobs: list[Job], space: list[str] | None = None) -> Path:
    """Where a sweep is recorded and compared: the same jobs always have the same directory.

    A search has the settings of its `space` beside the first point, for its jobs are not known.
    """
    name = f"{command.name}-{content_hash(sorted([*(job.run_id for job in jobs), *(space or [])]), 10)}"
    return Path(jobs[0].config.output_dir) / "sweeps" / name


def start_sweep(command: Command, jobs: list[Job], overrides: list[str], hydra: DictConfig) -> Path:
    """Record the sweep and return its directory. `hydra` is Hydra's part of the configuration."""
    from omegaconf import OmegaConf

    from conf.compose import is_search

    search = is_search(hydra)
    space = sorted(text for text in overrides if not text.startswith(("output_dir=", "tracking."))) if search else None
    directory = sweep_directory_of(command, jobs, space)
    record = {
        "command": command.name,
        "experiment": command.experiment,
        "overrides": overrides,
        "started": now(),
        "jobs": "chosen by the sweeper: see jobs/"
        if search
        else [{"run_id": job.run_id, "overrides": list(job.overrides)} for job in jobs],
    }
    write_json(directory / "sweep.json", record)
    (directory / STOPPED).unlink(missing_ok=True)
    console = Console()
    console.rule(f"rl-exp {command.name} · sweep {directory.name}")
    done = sum(state_of(command, job) == RunState.finished for job in jobs)
    count = "the sweeper chooses the jobs" if search else f"{len(jobs)} jobs, {done} finished already"
    console.print(f"{count}; output in {escape(str(directory))}", highlight=False, soft_wrap=True)
    launcher = OmegaConf.to_container(hydra.launcher, resolve=False)
    if isinstance(launcher, dict) and "submitit_folder" in launcher:
        folder = str(launcher["submitit_folder"]).replace("${hydra.sweep.dir}", str(directory)).removesuffix("/%j")
        console.print(f"what the jobs print is in {escape(folder)}", highlight=False, soft_wrap=True)
    return directory


def record_job(sweep_directory: Path, run_id: str, overrides: list[str]) -> None:
    """Say in the sweep's directory that a job begins: of a search there is no other list of its jobs."""
    write_json(sweep_directory / "jobs" / f"{run_id}.json", {"run_id": run_id, "overrides": overrides, "begun": now()})


def finish_sweep(command: Command, jobs: list[Job], sweep_directory: Path, *, search: bool = False) -> int:
    """Compare the finished runs, list what is not finished, and return the exit code.

    The jobs of a search are those that began.
    """
    console = Console()
    runs = Path(jobs[0].config.output_dir) / command.experiment
    asked = _begun(sweep_directory) if search else [(job.run_id, list(job.overrides)) for job in jobs]
    states = [(run, overrides, read_status(runs / run) or {"state": "not started"}) for run, overrides in asked]
    finished = [runs / run for run, _, status in states if status["state"] == RunState.finished]
    compared = _compare(command, list(dict.fromkeys(finished)), sweep_directory, console)
    failures = [entry for entry in states if entry[2]["state"] != RunState.finished]
    if search:
        console.print(f"{len(asked)} trials, {len(finished)} finished", highlight=False)
    console.print(f"[bold]sweep[/]     {escape(str(sweep_directory))}", highlight=False, soft_wrap=True)
    if failures:
        title = f"{len(failures)} of {len(asked)} jobs did not finish"
        table = Table("run id", Column("what differs", overflow="fold"), "state", "reason", title=title)
        for run, overrides, status in failures:
            reason = escape(str(status.get("reason", "")))
            if status["state"] == RunState.running:  # killed, or still at work for another command
                reason = escape(f"last sign of life {status.get('heartbeat')} from {owner_of(status)}")
            differs = what_differs(overrides, [others for _, others in asked])
            table.add_row(run, escape(differs), status["state"], reason)
        console.print(table)
    show_document(sweep_directory)
    return 1 if failures or not asked or not compared else 0


def _compare(command: Command, runs: list[Path], sweep_directory: Path, console: Console) -> bool:
    """The experiment's own comparison of finished runs, where it has one; False where it failed, which is printed."""
    if not runs:
        return True
    try:
        compare = getattr(importlib.import_module(f"experiments.{command.comparison}"), "compare", None)
        if compare is not None:
            compare(runs, sweep_directory, console)
    except BrokenPipeError:
        raise
    except Exception as error:
        logger.exception("the comparison failed")
        reason = escape(f"{error or type(error).__name__}; the runs are complete")
        console.print(f"[red]the comparison failed:[/] {reason}", highlight=False, soft_wrap=True)
        if os.environ.get("RL_EXP_DEBUG"):
            traceback.print_exception(error)
        return False
    return True


def _begun(sweep_directory: Path) -> list[tuple[str, list[str]]]:
    """(run id, overrides) of every job that began in this sweep, in this order."""
    records = [read_json(path) for path in (sweep_directory / "jobs").glob("*.json")]
    return [(record["run_id"], record["overrides"]) for record in sorted(records, key=lambda entry: entry["begun"])]
