"""`rl-exp rlhf-sweep`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from cli.hydra_command import DryRun, Overrides, launch, settings

if TYPE_CHECKING:
    from omegaconf import DictConfig

SETTINGS = settings(
    "rlhf-sweep",
    [
        "rl-exp rlhf-sweep",
        "rl-exp rlhf-sweep preset=good_teacher",
        "rl-exp rlhf-sweep reward=on_policy_100,on_policy_0 seed=0,1,2 attention=gqa,gla",
        "rl-exp rlhf-sweep preset=good_teacher hydra/launcher=submitit_slurm",
        "rl-exp rlhf-sweep --dry-run",
    ],
)


def rlhf_sweep(overrides: Overrides = None, dry_run: DryRun = False) -> None:
    """Train policies against many reward models: which property of a reward model makes a good teacher?"""
    launch("rlhf-sweep", task, overrides, dry_run)


def task(config: DictConfig) -> Any:
    """Hydra's task: module-level, so that launchers can send it to other processes."""
    from cli.perform import perform

    return perform("rlhf-sweep", config)
