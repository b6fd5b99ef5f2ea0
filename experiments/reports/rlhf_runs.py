"""Runs of `rl-exp rlhf` as a sweep left them: read from files, grouped into settings and arms.

An arm is a reward model; its runs differ in their seed. A setting is everything else that a sweep varies: policies,
tasks, algorithms. Correlations over reward models are taken within a setting.

Shapes: T looks at the probe prompts (curves), S seeds.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from experiments.runs.files import read_json
from experiments.runs.identity import NOT_IDENTITY, flatten
from experiments.runs.run import RunState, read_status

Floats = NDArray[np.float64]

# What decides the policy at the start: shown by the policy's own label.
POLICY_KEYS = ("attention", "model", "data", "tokenizer", "optimizer", "training", "policy")
# What differs between runs without being another setting: the arm, what is only measured, and how often.
NO_SETTING = ("seed", "reward", "other_rewards", "probe", "threads", "device", *NOT_IDENTITY)
NO_SETTING_KEYS = ("policy_gradient.probe_every", "policy_gradient.checkpoint_every", "policy_gradient.samples")


@dataclass(frozen=True)
class Curve:
    """Means over prompts and samples at some steps, [T] each."""

    steps: Floats
    proxy: Floats  # in standard deviations of the proxy over the initial policy's outputs
    ground_truth: Floats
    kl: Floats  # to the initial policy, nats per completion


@dataclass(frozen=True)
class RlhfRun:
    """One finished run."""

    directory: Path
    arm: str
    policy: str
    task: str
    seed: int
    settings: Mapping[str, Any]  # flat configuration
    properties: Mapping[str, float]  # of the reward model for the initial policy, by name
    probe: Curve  # fixed prompts, common noise
    training: Curve  # each step's own batch
    parts: Mapping[str, float]  # mean parts of the ground truth at step 0: how often each constraint is met

    @property
    def family(self) -> str:
        """How the reward errs."""
        return str(self.settings.get("reward.family", self.arm))


@dataclass(frozen=True)
class Arm:
    """Runs of one setting against one reward model, which differ in their seed."""

    label: str
    runs: tuple[RlhfRun, ...]  # in order of seed

    @property
    def is_ground_truth(self) -> bool:
        """The baseline: it is no reward model."""
        return self.runs[0].family == "ground_truth"

    @property
    def seeds(self) -> list[int]:
        """Of the runs."""
        return [run.seed for run in self.runs]

    def property_value(self, name: str) -> float:
        """Mean over the runs that have it; NaN where none has."""
        values = [run.properties[name] for run in self.runs if math.isfinite(run.properties.get(name, math.nan))]
        return float(np.mean(values)) if values else math.nan


@dataclass(frozen=True)
class Setting:
    """What a sweep varies beside reward models and seeds, at one value."""

    label: str  # empty where a sweep has one setting only
    policy: str
    task: str
    arms: tuple[Arm, ...]

    @property
    def reward_models(self) -> list[Arm]:
        """All arms but the ground truth itself."""
        return [arm for arm in self.arms if not arm.is_ground_truth]

    def arm(self, label: str) -> Arm | None:
        """The arm of that name."""
        return next((arm for arm in self.arms if arm.label == label), None)

    @property
    def property_names(self) -> list[str]:
        """Properties that some run has."""
        return list(dict.fromkeys(name for arm in self.arms for run in arm.runs for name in run.properties))


# Reading ------------------------------------------------------------------------------------------------------------


def read_runs(directories: Sequence[Path]) -> tuple[list[RlhfRun], list[str]]:
    """The finished runs, and one line for each that is left out."""
    runs, left_out = [], []
    for directory in dict.fromkeys(directories):
        try:
            runs.append(read_run(directory))
        except (ValueError, OSError, yaml.YAMLError, OmegaConfBaseException) as error:
            reason = _one_line(error)
            left_out.append(f"{directory.name}: {reason}")
    return runs, left_out


def read_run(directory: Path) -> RlhfRun:
    """One run. ValueError or OSError with the reason where it is not finished or its files are damaged."""
    status = read_status(directory)
    if status is None or status["state"] != RunState.finished:
        state = "not started" if status is None else str(status["state"])
        raise ValueError(state + (f" ({status['reason']})" if status and status.get("reason") else ""))
    loaded = OmegaConf.to_container(OmegaConf.load(directory / "config.yaml"))
    summary = read_json(directory / "summary.json")
    if not isinstance(loaded, dict) or not isinstance(summary, dict):
        raise ValueError("config.yaml or summary.json holds no mapping: it was damaged")
    settings = flatten({str(key): value for key, value in loaded.items()})
    missing = [name for name in ("arm", "policy", "task", "seed", "properties") if name not in summary]
    if missing or not isinstance(summary["properties"], dict):
        raise ValueError(f"summary.json has no {', '.join(missing) or 'properties'}: it was damaged")
    properties = {
        name.removeprefix("reward/"): float(value)
        for name, value in summary["properties"].items()
        if isinstance(value, int | float)
    }
    if {"variance", "on_policy_accuracy"} <= set(properties):  # as in evaluation.py without off-policy pairs
        both = (properties["variance"] + properties["on_policy_accuracy"]) / 2
        properties.setdefault("variance_and_accuracy", both)
    rows = _read_rows(directory / "metrics.jsonl")
    probe = _curve(rows, "probe", _proxy_std(properties))
    if not len(probe.steps) or probe.steps[0] != 0 or len(probe.steps) < 2:
        raise ValueError("metrics.jsonl has no look at the probe prompts at step 0 and after it")
    first = next(row for row in rows if row.get("step") == 0 and "probe/kl" in row)
    parts = {
        name.removeprefix("probe/part/"): float(value)
        for name, value in first.items()
        if name.startswith("probe/part/") and value is not None
    }
    return RlhfRun(
        directory=directory,
        arm=str(summary["arm"]),
        policy=str(summary["policy"]),
        task=str(summary["task"]),
        seed=int(summary["seed"]),
        settings=settings,
        properties=properties,
        probe=probe,
        training=_curve(rows, "policy_gradient", _proxy_std(properties)),
        parts=parts,
    )


def _one_line(error: Exception) -> str:
    if isinstance(error, yaml.YAMLError):
        return "config.yaml is not YAML: it was damaged"
    return (str(error).splitlines() or [type(error).__name__])[0]


def _read_rows(path: Path) -> list[dict[str, Any]]:
    rows = []
    for number, line in enumerate(path.read_text(encoding="utf-8", errors="replace").splitlines(), start=1):
        try:
            row = json.loads(line)
        except json.JSONDecodeError:
            raise ValueError(f"line {number} of metrics.jsonl is damaged") from None
        if isinstance(row, dict):
            rows.append(row)
    return rows


def _proxy_std(properties: Mapping[str, float]) -> float:
    """Standard deviation of the raw proxy over the initial policy's outputs: raw variance is normalised by its square.

    It makes the increases of proxies of different units comparable, whatever normalisation a run trained with.
    """
    raw, normalised = properties.get("raw_variance", math.nan), properties.get("variance", math.nan)
    return math.sqrt(raw / normalised) if raw > 0 and normalised > 0 else 1.0


def _curve(rows: list[dict[str, Any]], prefix: str, proxy_std: float) -> Curve:
    """The rows that have every number; of several at one step the last."""
    names = (f"{prefix}/proxy_reward", f"{prefix}/ground_truth_reward", f"{prefix}/kl")
    found = {
        float(row["step"]): [float(row[name]) for name in names]
        for row in rows
        if row.get("step") is not None and all(isinstance(row.get(name), int | float) for name in names)
    }
    steps = np.array(sorted(found))
    values = np.array([found[step] for step in steps]).reshape(len(steps), len(names))
    return Curve(steps, values[:, 0] / proxy_std, values[:, 1], values[:, 2])


# Grouping -----------------------------------------------------------------------------------------------------------


def group_runs(runs: Sequence[RlhfRun]) -> list[Setting]:
    """Settings and arms by what differs between the configurations, in the order in which the runs are given."""
    varying = _varying(runs, lambda key: _belongs_to_setting(key))
    by_setting: dict[tuple[str, ...], list[RlhfRun]] = {}
    for run in runs:
        by_setting.setdefault(tuple(str(run.settings.get(key)) for key in varying), []).append(run)
    labels = _setting_labels([group[0] for group in by_setting.values()], varying)
    return [
        Setting(label, group[0].policy, group[0].task, tuple(_arms(group)))
        for label, group in zip(labels, by_setting.values(), strict=True)
    ]


def _belongs_to_setting(key: str) -> bool:
    return key.split(".")[0] not in NO_SETTING and key not in NO_SETTING_KEYS


def _varying(runs: Sequence[RlhfRun], wanted: Any) -> list[str]:
    keys = sorted({key for run in runs for key in run.settings if wanted(key)})
    return [key for key in keys if len({str(run.settings.get(key)) for run in runs}) > 1]


def _setting_labels(firsts: Sequence[RlhfRun], varying: list[str]) -> list[str]:
    """The policy's label where policies differ, and the other settings that differ; unambiguous."""
    policies = len({run.policy for run in firsts}) > 1
    shown = [key for key in varying if key.split(".")[0] not in POLICY_KEYS]
    labels = [_label(run, policies, shown) for run in firsts]
    if len(set(labels)) < len(labels):
        labels = [_label(run, policies, varying) for run in firsts]
    return labels


def _label(run: RlhfRun, policies: bool, keys: list[str]) -> str:
    parts = [run.policy] if policies else []
    parts += [_words(key, run.settings.get(key)) for key in keys]
    return "; ".join(parts)


def _words(key: str, value: Any) -> str:
    """`steps=40`; of a list of names the names alone."""
    name = key.rsplit(".", 1)[-1]
    return " + ".join(map(str, value)) if name == "names" and isinstance(value, list) else f"{name}={_shown(value)}"


def _shown(value: Any) -> str:
    return "+".join(map(str, value)) if isinstance(value, list) else str(value)


def _arms(runs: list[RlhfRun]) -> list[Arm]:
    """Runs by reward: its name, and whatever else of it a sweep varies under one name."""
    by_name: dict[str, list[RlhfRun]] = {}
    for run in runs:
        by_name.setdefault(run.arm, []).append(run)
    arms = []
    for name, same in by_name.items():
        varying = _varying(same, lambda key: key.startswith("reward."))
        groups: dict[str, list[RlhfRun]] = {}
        for run in same:
            parts = [f"{key.rsplit('.', 1)[-1]}={_shown(run.settings.get(key))}" for key in varying]
            groups.setdefault(" ".join([name, *parts]), []).append(run)
        arms += [Arm(label, tuple(sorted(group, key=lambda run: run.seed))) for label, group in groups.items()]
    return arms
