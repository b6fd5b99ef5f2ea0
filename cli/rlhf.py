"""`rl-exp rlhf`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from cli.hydra_command import DryRun, Overrides, launch, settings

if TYPE_CHECKING:
    from omegaconf import DictConfig

SETTINGS = settings(
    "rlhf",
    [
        "rl-exp rlhf",
        "rl-exp rlhf reward=perfect_low_variance policy_gradient=grpo seed=1",
        "rl-exp rlhf task=constraints reward=partial_credit",
        "rl-exp rlhf attention=gla training.tokens=2000000      # another policy, trained first",
        "rl-exp rlhf policy.path=my_model/ tokenizer=hub tokenizer.path=my_model/",
        "rl-exp rlhf --dry-run",
    ],
)


def rlhf(overrides: Overrides = None, dry_run: DryRun = False) -> None:
    """Train a policy against one reward model with policy gradient, and watch the ground truth."""
    launch("rlhf", task, overrides, dry_run)


def task(config: DictConfig) -> Any:
    """Hydra's task: module-level, so that launchers can send it to other processes."""
    from cli.perform import perform

    return perform("rlhf", config)
