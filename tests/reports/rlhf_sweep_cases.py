"""Run directories of `rl-exp rlhf` as a sweep leaves them, made of planted effects."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from omegaconf import OmegaConf

STEPS = tuple(range(0, 101, 20))
Gain = Callable[[float], float]  # share of training -> increase


def made_run(
    sweep: Path,
    *,
    arm: str,
    seed: int,
    properties: dict[str, float],
    proxy: Gain,
    truth: Gain,
    kl: Gain = lambda share: 2 * share,
    family: str = "noisy",
    policy: str = "gqa, 1,000,000 tokens",
    settings: dict[str, Any] | None = None,
    parts: dict[str, float] | None = None,
    state: str = "finished",
) -> Path:
    """One run directory; rows of training batches stand between those of the probe prompts."""
    name = f"{arm}-{seed}-{abs(hash((policy, str(settings)))) % 10**6}"
    run = sweep.parent.parent / "rlhf" / name
    run.mkdir(parents=True)
    config = OmegaConf.create({"seed": seed, "reward": {"name": arm, "family": family}, "output_dir": str(sweep)})
    for key, value in ({"attention.mechanism": policy.split(",")[0]} | (settings or {})).items():
        OmegaConf.update(config, key, value)
    OmegaConf.save(config, run / "config.yaml")
    own = {f"reward/{key}": value for key, value in properties.items()}
    summary = {"arm": arm, "policy": policy, "task": "sentiment", "seed": seed, "properties": own}
    (run / "summary.json").write_text(json.dumps(summary))
    (run / "manifest.json").write_text("{}")
    (run / "status.json").write_text(json.dumps({"state": state, "reason": "planted"}))
    rows = []
    for step in STEPS:
        share = step / STEPS[-1]
        values = {"proxy_reward": 1 + proxy(share), "ground_truth_reward": truth(share), "kl": kl(share)}
        rows.append({"step": step} | {f"policy_gradient/{key}": value for key, value in values.items()})
        looks = {f"probe/{key}": value for key, value in values.items()}
        looks |= {f"probe/part/{key}": value for key, value in (parts or {}).items()}
        rows.append({"step": step} | looks | own)
    (run / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return run


def sweep_directory(root: Path, preset: str = "good_teacher", runs: list[Path] | None = None) -> Path:
    """outputs/sweeps/<id> with its record."""
    directory = root / "sweeps" / "rlhf-sweep-planted"
    directory.mkdir(parents=True, exist_ok=True)
    record = {
        "command": "rlhf-sweep",
        "experiment": "rlhf",
        "overrides": [f"preset={preset}"],
        "jobs": [{"run_id": run.name} for run in runs or []],
    }
    (directory / "sweep.json").write_text(json.dumps(record))
    return directory


def teacher_sweep(root: Path, *, effect: float, noise: float = 0.02, seeds: int = 3, draws: int = 0) -> list[Path]:
    """Reward models whose speed is `effect` times their variance, a perfect one of low variance, and the truth."""
    draw = np.random.default_rng(draws)
    directory = sweep_directory(root)
    variances = np.linspace(0.2, 0.9, 11)
    accuracies = draw.permutation(np.linspace(0.55, 0.9, 11))
    models = [(f"model_{i}", "noisy", v, a) for i, (v, a) in enumerate(zip(variances, accuracies, strict=True))]
    models += [("perfect_low_variance", "scaled", 0.1, 1.0), ("ground_truth", "ground_truth", 0.45, 1.0)]
    runs = []
    for arm, family, variance, accuracy in models:
        own = draw.normal(scale=0.15, size=2)  # what a reward model's speed has beside its variance
        for seed in range(seeds):
            speed = effect * variance + own[0] + noise * draw.normal()
            gain = effect * variance * accuracy + own[1] + noise * draw.normal()
            properties = {
                "variance": variance,
                "raw_variance": 4 * variance,  # raw rewards have a std of 2
                "on_policy_accuracy": accuracy,
                "strict_accuracy": accuracy,
                "harm_aware_accuracy": min(1.0, accuracy + 0.05 * draw.random()),
            }
            runs.append(
                made_run(
                    directory,
                    arm=arm,
                    seed=seed,
                    family=family,
                    properties=properties,
                    proxy=lambda share, speed=speed: 2 * speed * share,
                    truth=lambda share, gain=gain: 0.1 + gain * share,
                    kl=lambda share, variance=variance: 2 * (0.2 + variance) * share,
                )
            )
    return runs
