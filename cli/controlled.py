"""`rl-exp controlled`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from cli.hydra_command import DryRun, Overrides, launch, settings

if TYPE_CHECKING:
    from omegaconf import DictConfig

SETTINGS = settings(
    "controlled",
    [
        "rl-exp controlled",
        "rl-exp controlled experiment=phase_diagram",
        "rl-exp controlled -m 'experiment=glob(*)'",
    ],
)


def controlled(overrides: Overrides = None, dry_run: DryRun = False) -> None:
    """The theory of both reward papers on tabular and log-linear policies, with exact gradients, in seconds."""
    launch("controlled", task, overrides, dry_run)


def task(config: DictConfig) -> Any:
    """Hydra's task: module-level, so that launchers can send it to other processes."""
    from cli.perform import perform

    return perform("controlled", config)
