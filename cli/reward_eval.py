"""`rl-exp reward-eval`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from cli.hydra_command import DryRun, Overrides, launch, settings

if TYPE_CHECKING:
    from omegaconf import DictConfig

SETTINGS = settings(
    "reward-eval",
    [
        "rl-exp reward-eval",
        "rl-exp reward-eval rewards=[ground_truth,on_policy_100,on_policy_0] probe.prompts=256",
        "rl-exp reward-eval task=constraints rewards=[partial_credit,binary_credit]",
        "rl-exp reward-eval -m attention=gqa,gla      # the same reward models for two policies",
        "rl-exp reward-eval policy.path=my_model/ tokenizer=hub tokenizer.path=my_model/",
        "rl-exp reward-eval --dry-run",
    ],
)


def reward_eval(overrides: Overrides = None, dry_run: DryRun = False) -> None:
    """Score reward models for a policy without training it: variance, accuracies, harm-aware accuracies, errors."""
    launch("reward-eval", task, overrides, dry_run)


def task(config: DictConfig) -> Any:
    """Hydra's task: module-level, so that launchers can send it to other processes."""
    from cli.perform import perform

    return perform("reward-eval", config)
