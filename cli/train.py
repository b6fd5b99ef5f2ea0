"""`rl-exp train`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from cli.hydra_command import DryRun, Overrides, launch, settings

if TYPE_CHECKING:
    from omegaconf import DictConfig

SETTINGS = settings(
    "train",
    [
        "rl-exp train attention=gla model=tiny seed=1",
        "rl-exp train -m attention=gqa,gta,mla,gla seed=0,1",
        "rl-exp train -m attention=gqa,gta hydra/launcher=joblib",
        "rl-exp train data=local data.path=my_texts/ training.tokens=2000000",
        "rl-exp train attention=gta --dry-run",
    ],
)


def train(overrides: Overrides = None, dry_run: DryRun = False) -> None:
    """Pretrain a small language model with one attention mechanism: MHA, MQA, GQA, GTA, MLA or GLA."""
    launch("train", task, overrides, dry_run)


def task(config: DictConfig) -> Any:
    """Hydra's task: module-level, so that launchers can send it to other processes."""
    from cli.perform import perform

    return perform("train", config)
