"""What all Hydra-configured commands share: their arguments, their pre-flight, the hand-over, the exit code.

Exit codes: 0 done; 1 a run failed; 2 a mistake in the command; 130 interrupted (the same command continues).
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from cli.completion import complete_override
from experiments.runs.ranks import is_first_process, launched_by_torchrun

if TYPE_CHECKING:
    from omegaconf import DictConfig

    from conf.commands import Command
    from conf.compose import Job

HELP_NAMES = {"help_option_names": ["-h", "--help"]}
# Hydra's own options that are handed through; those with a value take the next word.
FLAGS = {"-m", "--multirun", "--resolve", "--hydra-help"}
FLAGS_WITH_VALUE = {"--cfg", "-c", "--package", "-p", "--info", "-i"}
SHOWN = ("job", "hydra", "all")  # values of --cfg
# Launchers whose jobs run on this machine; what others can use, only their own machines know.
LAUNCHERS_HERE = ("BasicLauncher", "JoblibLauncher", "LocalLauncher")
# Options that only print: no run follows them.
PRINTING = {"--cfg", "-c", "--info", "-i", "--hydra-help"}

Overrides = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="OVERRIDES",
        help="Hydra overrides: key=value or group=option; with -m (--multirun) a sweep: key=a,b or 'key=range(0,3)'.",
        autocompletion=complete_override,
        show_default=False,
    ),
]
DryRun = Annotated[
    bool,
    typer.Option("--dry-run", help="Print the resolved configuration, or a sweep's jobs, and do nothing."),
]


def settings(command: str, examples: Sequence[str]) -> dict[str, Any]:
    """Keyword arguments of `app.command` for a Hydra command: its options pass through, its help ends with examples."""
    from cli.completion import group_options

    groups = "\n".join(f"- `{group}`: {', '.join(options)}" for group, options in group_options(command).items())
    shown = "\n".join(f"    {example}" for example in examples)
    return {
        "context_settings": {"allow_extra_args": True, "ignore_unknown_options": True, **HELP_NAMES},
        "epilog": f"**Config groups** (group=option)\n\n{groups}\n\n**Examples**\n\n```\n{shown}\n```\n\n"
        "Hydra's own options: -m, --cfg job, --info, --hydra-help.",
    }


def launch(name: str, words: list[str] | None, dry_run: bool) -> None:
    """Check the command, hand it to Hydra, and exit with the code that the runs' status files justify."""
    from conf.commands import COMMANDS
    from conf.compose import hydra_settings, plan_jobs
    from conf.launchers import target_of, why_not_here
    from conf.override_rules import UserError

    command = COMMANDS[name]
    try:
        flags, overrides = split_words(name, words or [])
        multirun = "-m" in flags or "--multirun" in flags
        if PRINTING & set(flags):
            if multirun:
                raise UserError("--cfg and --info show one job: use --dry-run to see the jobs of a sweep")
            plan_jobs(command, overrides, multirun=False)
            _call_hydra(command, flags, overrides)
            return
        jobs, multirun = plan_jobs(command, overrides, multirun=multirun)
        hydra = hydra_settings(command, overrides) if multirun and not dry_run else None
        if hydra is not None and (reason := why_not_here(hydra.launcher)):
            raise UserError(reason)
    except UserError as error:
        fail(str(error))
    if dry_run:
        from cli.screens import show_plan

        show_plan(command, jobs, multirun)
        return
    _check_jobs(jobs, multirun)
    if hydra is None or target_of(hydra.launcher) in LAUNCHERS_HERE:
        _check_devices(jobs)
    _run(command, flags, overrides, jobs, hydra)


def summarise_sweep(name: str, words: list[str] | None) -> NoReturn:
    """Compare the jobs of a sweep that are finished, from their files, while others run or before they do."""
    from cli.sweep import finish_sweep, sweep_directory_of
    from conf.commands import COMMANDS
    from conf.compose import plan_jobs
    from conf.override_rules import UserError

    command = COMMANDS[name]
    try:
        _, overrides = split_words(name, words or [])
        jobs, _ = plan_jobs(command, overrides, multirun=True)
    except UserError as error:
        fail(str(error))
    raise typer.Exit(finish_sweep(command, jobs, sweep_directory_of(command, jobs)))


def split_words(name: str, words: list[str]) -> tuple[list[str], list[str]]:
    """Hydra's flags and the overrides as meant, whatever their order; Hydra 1.3 itself wants the flags first."""
    from conf.compose import suggestion
    from conf.override_rules import UserError, friendly

    flags: list[str] = []
    overrides: list[str] = []
    rest = iter(words)
    for word in rest:
        option, _, value = word.partition("=")
        if overrides and overrides[-1].endswith("=") and "=" not in word and not word.startswith("-"):
            overrides[-1] += word  # bash puts a space behind a completed `key=`
        elif not word.startswith("-"):
            overrides.append(word)
        elif word in FLAGS:
            flags.append(word)
        elif option in FLAGS_WITH_VALUE:
            value = value or next(rest, "")
            if not value:
                raise UserError(f"{option} needs a value, such as {option} job")
            if option in ("--cfg", "-c") and value not in SHOWN:
                raise UserError(f"{option} {value} does not exist: use one of {', '.join(SHOWN)}")
            flags += [option, value]
        else:
            known = [*FLAGS, *FLAGS_WITH_VALUE, "--dry-run", "--help"]
            near = suggestion(option, known) or f" Settings have no dashes: {option.lstrip('-')}={value or '...'}"
            raise UserError(f"unknown option {option}.{near}")
    return flags, friendly(name, overrides)


def silence_stderr() -> None:
    """Drop what is written to stderr from here on, also by libraries."""
    sys.stderr.flush()
    with open(os.devnull, "wb") as nowhere:
        os.dup2(nowhere.fileno(), 2)


def fail(message: str, code: int = 2) -> NoReturn:
    """Print one clear message to stderr, once where torchrun started several processes, and exit."""
    if not is_first_process():
        raise typer.Exit(code)
    typer.secho("error: ", fg=typer.colors.RED, bold=True, nl=False, err=True)
    typer.echo(message, err=True)
    raise typer.Exit(code)


def _check_jobs(jobs: list[Job], multirun: bool) -> None:
    """Refuse a number of processes (torchrun's, or this one alone) that a job cannot use, and inputs it cannot."""
    launched = launched_by_torchrun()
    if launched is not None and launched.size > 1 and multirun:
        fail("torchrun cannot run a sweep: start one job at a time")
    for job in jobs:
        try:
            job.settings.check_processes(launched.size if launched else None)
            job.settings.check_inputs()
        except ValueError as error:
            fail(str(error))


def _check_devices(jobs: list[Job]) -> None:
    """Refuse jobs that need a GPU where this machine has none."""
    needing = [job for job in jobs if job.settings.needs_cuda()]
    if needing and not has_cuda():
        fail(
            f"{' '.join(needing[0].overrides)} needs a GPU, and torch finds no CUDA device: use device=cpu, or install "
            "a CUDA build of torch where there is one"
        )


def has_cuda() -> bool:
    """Whether torch finds a CUDA device; importing it takes two seconds, so only who needs one asks."""
    import torch

    return torch.cuda.is_available()


def _run(
    command: Command,
    flags: list[str],
    overrides: list[str],
    jobs: list[Job],
    hydra: DictConfig | None,
) -> NoReturn:
    """`hydra` is Hydra's part of the configuration of a sweep; None for a single job."""
    from cli.sweep import finish_sweep, start_sweep
    from conf.compose import is_search
    from conf.launchers import target_of
    from conf.override_rules import quoted
    from experiments.runs.run import RunState, read_status

    output_dir = Path(jobs[0].config.output_dir)
    try:
        output_dir.mkdir(parents=True, exist_ok=True)
        if not os.access(output_dir, os.W_OK):
            raise PermissionError(f"{output_dir} is not writable")
    except OSError as error:
        fail(f"output_dir={output_dir} cannot be used ({error}): name a folder that you may write, output_dir=PATH")
    if hydra is None:
        sweep_directory, search, launcher = None, False, ""
    else:
        sweep_directory = start_sweep(command, jobs, overrides, hydra)
        search, launcher = is_search(hydra), target_of(hydra.launcher)
        overrides = [f"hydra.sweep.dir={quoted(str(sweep_directory))}", *overrides]
        flags = flags if {"-m", "--multirun"} & set(flags) else ["-m", *flags]
    try:
        _call_hydra(command, flags, overrides)
    except KeyboardInterrupt:
        if launcher == "SlurmLauncher":
            fail(
                "interrupted; the jobs stay with Slurm (squeue --me, scancel): wait before you start them again",
                code=130,
            )
        try:
            fail("interrupted; the same command continues where it stopped", code=130)
        finally:
            if launcher == "JoblibLauncher":
                silence_stderr()  # joblib prints pages about workers that are gone
    except SystemExit:
        # Hydra's way to end when a launcher raised: joblib does so for all jobs when one worker was killed, submitit
        # while others run on.
        if sweep_directory is None:
            raise
        finish_sweep(command, jobs, sweep_directory, search=search)
        others = " when the jobs that are at work have ended" if launcher in ("LocalLauncher", "SlurmLauncher") else ""
        fail(f"the launcher ended before all jobs did; the same command continues the sweep{others}", code=1)
    if sweep_directory is not None:
        raise typer.Exit(finish_sweep(command, jobs, sweep_directory, search=search))
    if not is_first_process():
        raise typer.Exit(0)  # a rank that could not finish has left by SystemExit; the status is the first rank's
    status = read_status(output_dir / command.experiment / jobs[0].run_id) or {}
    if status.get("state") == RunState.interrupted:
        raise typer.Exit(130)
    raise typer.Exit(0 if status.get("state") == RunState.finished else 1)


def _call_hydra(command: Command, flags: list[str], overrides: list[str]) -> None:
    import hydra
    from hydra.core.global_hydra import GlobalHydra

    from cli.perform import perform
    from conf.compose import CONF_DIRECTORY
    from conf.launchers import register_launcher_schemas

    command.schema()
    register_launcher_schemas()
    GlobalHydra.instance().clear()
    task = partial(perform, command.name)  # of a module's function: launchers send it to other processes
    job_name = f"hydra.job.name={command.name.replace('-', '_')}"  # which Slurm shows
    words, sys.argv = sys.argv, [f"rl-exp {command.name}", *flags, job_name, *overrides]
    try:
        hydra.main(version_base="1.3", config_path=str(CONF_DIRECTORY), config_name=command.config_name)(task)()
    finally:
        sys.argv = words
