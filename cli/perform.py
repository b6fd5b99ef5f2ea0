"""One job: from the composed configuration to a finished, failed or interrupted run directory."""

from __future__ import annotations

import importlib
import logging
import os
import traceback
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from rich.console import Console
from rich.markup import escape

from cli.prerequisites import finished_run
from cli.screens import show_document, show_end, show_finished_before, show_job, show_start
from cli.sweep import STOPPED, record_job
from conf.commands import COMMANDS
from conf.compose import differences, identity_of, plain, typed
from experiments.runs.files import STORAGE_ERRORS, naming_what_is_written, read_json, write_json
from experiments.runs.follower_run import open_follower_run
from experiments.runs.ranks import Ranks, join_ranks
from experiments.runs.run import Run, RunBusy, RunState, open_run, read_status

if TYPE_CHECKING:
    from conf.commands import Command

logger = logging.getLogger(__name__)


def perform(name: str, composed: DictConfig) -> Any:
    """Do the job unless it is done. A failure is recorded and printed, not raised, so that a sweep continues.

    Of several ranks the first decides, writes and prints; the others compute with it, and leave by SystemExit(1) where
    they cannot finish.
    """
    command = COMMANDS[name]
    config = typed(command, composed)
    ranks = join_ranks(config.device.value)
    try:
        if ranks.is_first:
            return _lead_until_done(command, composed, config, ranks)
        return _follow(command, composed, config, ranks)
    finally:
        ranks.close()


def _lead_until_done(command: Command, composed: DictConfig, config: Any, ranks: Ranks) -> Any:
    """A job of a sweep that fails is tried again as often as the sweep allows, or ends the sweep."""
    directory = Path(config.output_dir) / command.experiment / identity_of(composed, config)
    sweep = _sweep_directory()
    if sweep is not None and (sweep / STOPPED).exists():
        Console().print(f"run {directory.name} does not begin: a job of this sweep failed", highlight=False)
        return None
    for _ in range(1 + (config.sweep.retries if sweep is not None else 0)):
        objective = _lead(command, composed, config, ranks)
        status = read_status(directory)
        if status is None or status["state"] != RunState.failed:
            return objective
        config = replace(config, force=False)  # the next attempt goes on
    if sweep is not None and config.sweep.on_failure.name == "stop":
        write_json(sweep / STOPPED, {"run_id": directory.name})
    return objective


def _lead(command: Command, composed: DictConfig, config: Any, ranks: Ranks) -> Any:
    beside_others = _shares_the_screen()
    # Jobs that run at the same time share one screen: there each of them says when it begins and how it ended.
    console = Console(quiet=beside_others)
    values = plain(composed)
    identity = identity_of(composed, config)
    output_dir = Path(config.output_dir)
    directory = output_dir / command.experiment / identity
    if (sweep_directory := _sweep_directory()) is not None:
        record_job(sweep_directory, identity, _task_overrides())
    if _is_finished(directory) and not config.force:
        ranks.broadcast({"state": RunState.finished})
        show_finished_before(console, directory)
        if not beside_others:
            show_document(directory)
        return _objective(directory)
    if beside_others:
        show_job(directory, _task_overrides(), "begins")

    special = differences(command, composed)
    try:
        with open_run(
            output_dir=output_dir,
            experiment=command.experiment,
            run_id=identity,
            seed=config.seed,
            config=values,
            config_yaml=OmegaConf.to_yaml(OmegaConf.create(values)),
            overrides_yaml=OmegaConf.to_yaml(OmegaConf.create(special)),
            tracking=values["tracking"] | {"step_name": command.step_name},
            group=sweep_directory.name if sweep_directory else None,
            force=config.force,
            console=console,
            ranks=ranks,
        ) as run:
            ranks.broadcast({"state": RunState.running, "attempt": run.attempt})
            show_start(run, _task_overrides())
            with naming_what_is_written(run.directory):
                summary = _experiment(command)(config, run)
            ranks.barrier()
            run.write_summary(summary)
    except KeyboardInterrupt:
        console.print(f"interrupted: {directory} can be continued by the same command", markup=False, soft_wrap=True)
        # submitit takes a job that was interrupted for a lost one, and gives up the sweep while others run.
        if "submitit" not in _launcher():
            raise
    except RunBusy as error:
        ranks.broadcast({"state": "busy"})
        Console().print(f"[red]error:[/] {escape(str(error))}", highlight=False, soft_wrap=True)
    except Exception as error:
        try:
            _tell_failure(Console(), directory, error)
        except OSError:  # stdout itself is full or closed
            _tell_failure(Console(stderr=True), directory, error)
    else:
        _show_results(console, directory, beside_others)
    return _objective(directory)


def _show_results(console: Console, directory: Path, beside_others: bool) -> None:
    """The screens of a finished run. What fails here is one line: the results are there all the same."""
    try:
        show_end(console, directory)
        if beside_others:
            show_job(directory, _task_overrides(), "is finished")
        else:
            show_document(directory)
    except BrokenPipeError:
        raise
    except Exception as error:
        logger.exception("the results cannot be shown")
        reason = escape(f"the results cannot be shown ({error}); the run is finished: {directory}")
        Console(stderr=True).print(f"[yellow]{reason}[/]", highlight=False, soft_wrap=True)


def _follow(command: Command, composed: DictConfig, config: Any, ranks: Ranks) -> None:
    """A rank after the first: its part of the computation, nothing else."""
    try:
        decision = ranks.broadcast()
        if decision["state"] == RunState.finished:
            return
        if decision["state"] != RunState.running:
            raise SystemExit(1)
        with open_follower_run(
            output_dir=Path(config.output_dir),
            experiment=command.experiment,
            run_id=identity_of(composed, config),
            seed=config.seed,
            attempt=decision["attempt"],
            ranks=ranks,
        ) as run:
            _experiment(command)(config, run)
            ranks.barrier()
    except Exception as error:  # told by the first rank, and in this rank's own log
        raise SystemExit(1) from error


def _experiment(command: Command) -> Callable[[Any, Run], dict[str, Any]]:
    """The function of experiments/<experiment>.py; one that starts from another command's run is handed its maker."""
    function: Callable[..., dict[str, Any]] = getattr(
        importlib.import_module(f"experiments.{command.experiment}"), command.experiment
    )
    if command.starts_from is None:
        return function
    return partial(function, make_policy=partial(finished_run, COMMANDS[command.starts_from]))


def _tell_failure(console: Console, directory: Path, error: Exception) -> None:
    console.print(f"[red]failed:[/] {escape(str(error) or type(error).__name__)}", highlight=False, soft_wrap=True)
    if isinstance(error, OSError) and error.errno in STORAGE_ERRORS:
        console.print("fix this, then run the same command again: it continues where it stopped", highlight=False)
    console.print(f"full log: {directory / 'logs'}", highlight=False, markup=False, soft_wrap=True)
    if os.environ.get("RL_EXP_DEBUG"):
        traceback.print_exception(error)


def _is_finished(directory: Path) -> bool:
    """Whether the results are there; without a readable summary the last checkpoint makes them again."""
    status = read_status(directory)
    return status is not None and status["state"] == RunState.finished and _summary(directory) is not None


def _summary(directory: Path) -> dict[str, Any] | None:
    try:
        summary = read_json(directory / "summary.json")
    except (OSError, ValueError):
        return None
    return summary if isinstance(summary, dict) else None


def _objective(directory: Path) -> Any:
    """What a sweeper such as optuna minimises: `objective` in the summary."""
    return (_summary(directory) or {}).get("objective")


def _task_overrides() -> list[str]:
    return list(HydraConfig.get().overrides.task) if HydraConfig.initialized() else []


def _sweep_directory() -> Path | None:
    if not HydraConfig.initialized() or HydraConfig.get().mode is not RunMode.MULTIRUN:
        return None
    return Path(HydraConfig.get().sweep.dir)


def _launcher() -> str:
    """The name of the launcher's module and class; empty where there is no sweep."""
    return "" if _sweep_directory() is None else str(HydraConfig.get().launcher.get("_target_", ""))


def _shares_the_screen() -> bool:
    """Whether a launcher runs several jobs of a sweep at the same time. Those of submitit print into files."""
    launcher = _launcher()
    return bool(launcher) and "BasicLauncher" not in launcher and "submitit" not in launcher
