"""Probe rollouts of the initial policy: the same for every reward model and seed."""

from __future__ import annotations

from conf.rlhf_config import PolicyTaskConfig
from experiments.preparation.policy import Policy
from experiments.runs.run import Run
from experiments.tasks.task import Task
from experiments.training.probe import PROBE_SEED, Probe, probe_prompts, stored_probe
from experiments.training.rollouts import Rollouts


def prepare_probe(config: PolicyTaskConfig, run: Run, policy: Policy, task: Task) -> Probe:
    """The artifact of these rollouts, drawn where there is none."""
    prompts, samples = probe_prompts(task, config.probe.prompts), config.probe.samples
    recipe = {
        "policy": policy.address,
        "task": task.recipe(),
        "prompts": len(prompts),
        "samples": samples,
        "seed": PROBE_SEED,
    }

    def draw() -> Rollouts:
        run.console.print(
            f"[bold]probe[/]     {len(prompts)} prompts x {samples} completions of the initial policy are drawn",
            highlight=False,
        )
        return policy.initial_sampler(task).sample(prompts, samples, seed=PROBE_SEED)

    return stored_probe(run.artifacts, recipe, task, samples, draw)
