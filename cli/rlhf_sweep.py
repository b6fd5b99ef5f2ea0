"""`rl-exp rlhf-sweep`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from cli.hydra_command import DryRun, Overrides, launch, settings, summarise_sweep

if TYPE_CHECKING:
    from omegaconf import DictConfig

SETTINGS = settings(
    "rlhf-sweep",
    [
        "rl-exp rlhf-sweep",
        "rl-exp rlhf-sweep preset=good_teacher",
        "rl-exp rlhf-sweep reward=on_policy_100,on_policy_0 seed=0,1,2 attention=gqa,gla",
        "rl-exp rlhf-sweep preset=good_teacher hydra/launcher=submitit_slurm",
        "rl-exp rlhf-sweep preset=good_teacher --summary       # of what is finished so far",
        "rl-exp rlhf-sweep --dry-run",
    ],
)


Summary = Annotated[
    bool,
    typer.Option("--summary", help="Summarise the jobs that are finished, while others still run, and run nothing."),
]


def rlhf_sweep(overrides: Overrides = None, dry_run: DryRun = False, summary: Summary = False) -> None:
    """Train policies against many reward models: which property of a reward model makes a good teacher?"""
    if summary:
        summarise_sweep("rlhf-sweep", overrides)
    launch("rlhf-sweep", task, overrides, dry_run)


def task(config: DictConfig) -> Any:
    """Hydra's task: module-level, so that launchers can send it to other processes."""
    from cli.perform import perform

    return perform("rlhf-sweep", config)
