"""Probe rollouts of the initial policy: the same for every reward model and seed."""

from __future__ import annotations

from conf.rlhf_config import PolicyTaskConfig
from experiments.preparation.policy import Policy
from experiments.runs.run import Run
from experiments.tasks.task import Task
from experiments.training.probe import PROBE_SEED, Probe, probe_prompts, stored_probe
from experiments.training.rollouts import Rollouts

FITTING_SEED = 612  # of rollouts on which knobs of reward models are set, and not judged
FITTING_SAMPLES = 4  # times as many as those on which they are judged


def prepare_probe(config: PolicyTaskConfig, run: Run, policy: Policy, task: Task) -> Probe:
    """The artifact of these rollouts, drawn where there is none."""
    return _drawn(config, run, policy, task, config.probe.samples, PROBE_SEED)


def prepare_fitting_probe(config: PolicyTaskConfig, run: Run, policy: Policy, task: Task) -> Probe:
    """Other and more completions of the probe prompts: what is set on them is judged on those of `prepare_probe`."""
    return _drawn(config, run, policy, task, FITTING_SAMPLES * config.probe.samples, FITTING_SEED)


def _drawn(config: PolicyTaskConfig, run: Run, policy: Policy, task: Task, samples: int, seed: int) -> Probe:
    prompts = probe_prompts(task, config.probe.prompts)
    recipe = {
        "policy": policy.address,
        "task": task.recipe(),
        "prompts": len(prompts),
        "samples": samples,
        "seed": seed,
    }

    def draw() -> Rollouts:
        run.console.print(
            f"[bold]probe[/]     {len(prompts)} prompts x {samples} completions of the initial policy are drawn",
            highlight=False,
        )
        return policy.initial_sampler(task).sample(prompts, samples, seed=seed)

    return stored_probe(run.artifacts, recipe, task, samples, draw)
