"""What a command starts from: the finished run of another command, made where there is none."""

from __future__ import annotations

import importlib
import time
from pathlib import Path
from typing import TYPE_CHECKING

from omegaconf import OmegaConf

from conf.compose import differences, identity_of, plain
from experiments.runs.run import Run, RunBusy, RunState, open_run, read_status

if TYPE_CHECKING:
    from conf.commands import Command
    from conf.run_config import RunConfig

BUSY_SECONDS = 1.0  # between checks of a run that another process makes


def finished_run(command: Command, settings: RunConfig, run: Run) -> Path:
    """The directory of the finished run of `command` with these settings; `run` is the one that needs it.

    Jobs of a sweep that need the same run wait for the one that makes it. Of several ranks the first makes it, alone.
    """
    composed = OmegaConf.structured(settings)
    values = plain(composed)
    identity = identity_of(composed, settings)
    directory = Path(settings.output_dir) / command.experiment / identity
    waiting = False
    while not _is_finished(directory):
        if not run.ranks.is_first:
            time.sleep(BUSY_SECONDS)
            continue
        needed = f"run {identity} of rl-exp {command.name}"
        try:
            run.console.print(f"[bold]policy[/]    is trained first: {needed}", highlight=False)
            with open_run(
                output_dir=Path(settings.output_dir),
                experiment=command.experiment,
                run_id=identity,
                seed=settings.seed,
                config=values,
                config_yaml=OmegaConf.to_yaml(OmegaConf.create(values)),
                overrides_yaml=OmegaConf.to_yaml(OmegaConf.create(differences(command, composed))),
                tracking=values["tracking"] | {"step_name": command.step_name},
                console=run.console,
            ) as making:
                experiment = importlib.import_module(f"experiments.{command.experiment}")
                making.write_summary(getattr(experiment, command.experiment)(settings, making))
        except RunBusy:
            if not waiting:
                run.console.print(f"[bold]policy[/]    waiting for the process that makes {needed}", highlight=False)
            waiting = True
            time.sleep(BUSY_SECONDS)
    return directory


def _is_finished(directory: Path) -> bool:
    status = read_status(directory)
    return status is not None and status["state"] == RunState.finished and (directory / "summary.json").is_file()
