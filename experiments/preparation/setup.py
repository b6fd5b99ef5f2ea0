"""What every experiment on rewards starts from, as one value."""

from __future__ import annotations

from dataclasses import dataclass

from conf.rlhf_config import PolicyTaskConfig
from experiments.preparation.policy import Policy, PolicyMaker, load_policy
from experiments.preparation.probe import prepare_probe
from experiments.preparation.task import prepare_task
from experiments.runs.run import Run
from experiments.tasks.task import Task
from experiments.training.device import prepare_device
from experiments.training.probe import Probe


@dataclass(frozen=True)
class Setup:
    """A policy, a task, and what the policy answers to the probe prompts; made once, passed on as it is."""

    config: PolicyTaskConfig
    run: Run
    policy: Policy
    task: Task
    probe: Probe  # of the initial policy


def prepare(config: PolicyTaskConfig, run: Run, make_policy: PolicyMaker) -> Setup:
    """Load or make what the configuration describes. ValueError where policy, task and text do not fit together."""
    device = prepare_device(config.device.value, config.threads)
    policy = load_policy(config, run, device, make_policy)
    task = prepare_task(config, run, policy)
    return Setup(config, run, policy, task, prepare_probe(config, run, policy, task))
