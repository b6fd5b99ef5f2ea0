"""Golden trajectories: the numbers of short runs, kept as text, so that a refactoring can be shown to change nothing.

    make golden                         compare this machine's numbers with the recorded ones, bit for bit
    make golden ARGUMENTS=--record      record them anew (say why in the commit)

CI compares within a tolerance (`test_golden_trajectories.py`), because processors round differently.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from pathlib import Path

from rlhf_cases import tiny_rlhf
from train_cases import tiny_training
from typer.testing import CliRunner

from cli.main import app

RECORDED = Path(__file__).with_name("trajectories.json")
MECHANISMS = ("mha", "mqa", "gqa", "gta", "mla", "gla", "gla_q", "tied_key_value")
ALGORITHMS = {  # name -> settings; the estimate of the KL in the loss without importance weights is the older one
    "rloo": ("policy_gradient=rloo",),
    "grpo": ("policy_gradient=grpo",),
    "grpo_unweighted_kl": ("policy_gradient=grpo", "policy_gradient.importance_weighted_kl=false"),
}

Trajectory = dict[str, list[float]]  # metric -> its values, in order


def train_trajectory(mechanism: str, folder: Path) -> Trajectory:
    """Loss and gradient norm of 20 steps of `rl-exp train`, and the held-out losses."""
    changes = (f"attention={mechanism}", "training.tokens=2560", "training.log_every_steps=1", "training.samples=0")
    return trajectory("train", tiny_training(folder, *changes), folder, ("train/loss", "train/gradient_norm", "eval/"))


def rlhf_trajectory(algorithm: str, folder: Path) -> Trajectory:
    """Rewards, KL divergence and losses of 10 steps of `rl-exp rlhf`, and its probes."""
    changes = (*ALGORITHMS[algorithm], "policy_gradient.steps=10", "reward=noisy_75", "threads=1")
    names = (
        "policy_gradient/proxy_reward",
        "policy_gradient/ground_truth_reward",
        "policy_gradient/kl",
        "policy_gradient/loss",
        "policy_gradient/gradient_norm",
        "policy_gradient/entropy",
        "probe/proxy_reward",
        "probe/ground_truth_reward",
        "probe/kl",
    )
    settings = tiny_rlhf(folder, *changes, "policy_gradient.learning_rate=1e-3")
    return trajectory("rlhf", settings, folder, names)


def trajectory(command: str, settings: list[str], folder: Path, names: tuple[str, ...]) -> Trajectory:
    """Run a command in `folder`; the metrics whose name begins with one of `names`."""
    before = Path.cwd()
    os.chdir(folder)
    try:
        result = CliRunner().invoke(app, [command, *settings])
    finally:
        os.chdir(before)
    if result.exit_code:
        raise RuntimeError(result.output)
    (run,) = (folder / "outputs" / command).iterdir()
    values: Trajectory = {}
    for line in (run / "metrics.jsonl").read_text().splitlines():
        for name, value in json.loads(line).items():
            if name.startswith(names):
                values.setdefault(name, []).append(value)
    return values


def all_trajectories() -> dict[str, Trajectory]:
    """Every recorded run, computed now: `train/<mechanism>` and `rlhf/<algorithm>`."""
    found: dict[str, Trajectory] = {}
    for command, names, run in (("train", MECHANISMS, train_trajectory), ("rlhf", ALGORITHMS, rlhf_trajectory)):
        for name in names:
            with tempfile.TemporaryDirectory() as folder:
                found[f"{command}/{name}"] = run(name, Path(folder))
    return found


def main() -> int:
    """See the module's docstring; exit code 1 where a number differs."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--record", action="store_true", help="write the file of recorded numbers")
    parser.add_argument("--against", type=Path, default=RECORDED, help="the file to compare with")
    parser.add_argument("--output", type=Path, help="where to record (default: the recorded file)")
    arguments = parser.parse_args()
    now = all_trajectories()
    if arguments.record:
        (arguments.output or RECORDED).write_text(json.dumps(now, indent=1) + "\n")
        return 0
    recorded = json.loads(arguments.against.read_text())
    worst = 0.0
    for run, values in recorded.items():
        for name, expected in values.items():
            found = now[run].get(name, [])
            same = found == expected
            if not same and len(found) == len(expected):
                pairs = zip(found, expected, strict=True)
                relative = max(abs(a - b) / max(abs(b), 1e-3) for a, b in pairs)
                worst = max(worst, relative)
                print(f"{run} {name}: largest relative difference {relative:.2e}")
            elif not same:
                worst = float("inf")
                print(f"{run} {name}: {len(found)} values instead of {len(expected)}")
    print("bit for bit the same" if worst == 0 else f"not the same: up to {worst:.2e}")
    return int(worst > 0)


if __name__ == "__main__":
    sys.exit(main())
