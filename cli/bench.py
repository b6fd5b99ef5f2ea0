"""`rl-exp bench`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from cli.hydra_command import DryRun, Overrides, launch, settings

if TYPE_CHECKING:
    from omegaconf import DictConfig

SETTINGS = settings(
    "bench",
    [
        "rl-exp bench",
        "rl-exp bench model=xl bench.mechanism=[gqa-4,gta-4] bench.context=[4096,16384] bench.kernel=[cpu,sdpa]",
        "rl-exp bench mode=generate generate.speculative=true",
        "rl-exp bench mode=generate bench.policy=outputs/train/<run id>/model",
        "rl-exp bench mode=serving serving.cache_megabytes=8 serving.arrivals_per_second=50",
        "rl-exp bench mode=plan model=llama_70b plan.device=h200",
        "rl-exp bench -m model=small,medium,xl",
    ],
)


def bench(overrides: Overrides = None, dry_run: DryRun = False) -> None:
    """Decode speed and cache bytes of every attention mechanism against the limit of this machine."""
    launch("bench", task, overrides, dry_run)


def task(config: DictConfig) -> Any:
    """Hydra's task: module-level, so that launchers can send it to other processes."""
    from cli.perform import perform

    return perform("bench", config)
