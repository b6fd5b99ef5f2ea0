"""Every property of reward models for one policy: its probe rollouts, and pairs that are not its own, side by side."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from conf.reward_config import OffPolicy
from conf.task_config import TaskKind
from experiments.preparation.rewards import off_policy_source
from experiments.preparation.setup import Setup
from experiments.reward_metrics.evaluation import Evaluation, OffPolicyPairs, evaluate_reward_models
from experiments.rewards.reward import Reward
from experiments.tasks.task import Outputs, outputs_of
from experiments.training.probe import Probe

OFF_POLICY_SEED = 546  # all policies, arms and seeds see the same pairs


@dataclass(frozen=True)
class OffPolicyOutputs:
    """Two completions of each of Q probe prompts that the policy did not draw: rows 2 q and 2 q + 1 are pair q."""

    outputs: Outputs  # [2 Q]
    log_probabilities: NDArray[np.float64]  # [Q, 2] under the policy
    lengths: NDArray[np.int64]  # [Q, 2]
    prompt: NDArray[np.int64]  # [Q] place among the probe prompts


def prepare_off_policy(setup: Setup) -> OffPolicyOutputs | None:
    """One pair of other completions for every probe prompt.

    The data set's own; else real text, where prompts are beginnings of it; else the policy's at a high temperature, or
    random tokens for the enumerable task. None where the source has no two completions for any prompt.
    """
    policy, task, probe = setup.policy, setup.task, setup.probe
    prompts = list(probe.rollouts.prompts[:: probe.samples])
    if "chosen" in task.prompts[0].facts:
        kind = OffPolicy.dataset
    elif setup.config.task.kind is TaskKind.enumerable:
        kind = OffPolicy.uniform
    else:
        kind = OffPolicy.corpus if setup.config.task.continues_text else OffPolicy.hot
    source = off_policy_source(setup, kind)
    pairs = [
        (place, prompt, found[:2])
        for place, (prompt, found) in enumerate(
            zip(prompts, source.completions(prompts, 2, OFF_POLICY_SEED), strict=True)
        )
        if len(found) >= 2
    ]
    if not pairs:
        return None
    rows = [prompt for _, prompt, _ in pairs for _ in range(2)]
    tokens = [row for _, _, found in pairs for row in found]
    texts = policy.tokenizer.batch_decode([list(row) for row in tokens], skip_special_tokens=True)
    finished = [row[-1] in task.stop_tokens for row in tokens]
    values = policy.reference_log_probabilities([prompt.tokens for prompt in rows], tokens)
    return OffPolicyOutputs(
        outputs=outputs_of(task, rows, texts, tokens, finished),
        log_probabilities=values.double().sum(dim=1).numpy().reshape(-1, 2),
        lengths=np.array([len(row) for row in tokens]).reshape(-1, 2),
        prompt=np.array([place for place, _, _ in pairs]),
    )


def evaluate_rewards(
    setup: Setup,
    rewards: Sequence[Reward],
    off_policy: OffPolicyOutputs | None,
    generator: np.random.Generator,
    *,
    resamples: int = 1000,
    error_tolerance: float = 0.25,
) -> Evaluation:
    """The properties of the reward models for the initial policy, with intervals over prompts."""
    probe = setup.probe
    pairs = None
    if off_policy is not None:
        pairs = OffPolicyPairs(
            rewards=np.stack([reward(off_policy.outputs).reshape(-1, 2) for reward in rewards]),
            ground_truth=off_policy.outputs.ground_truth.reshape(-1, 2),
            log_probabilities=off_policy.log_probabilities,
            lengths=off_policy.lengths,
            prompt=off_policy.prompt,
        )
    return evaluate_reward_models(
        [reward.name for reward in rewards],
        np.stack([probe.by_prompt(reward.probe_rewards) for reward in rewards]),
        probe.ground_truth,
        probe.log_probabilities,
        probe.lengths,
        generator=generator,
        off_policy=pairs,
        outputs=same_outputs(probe),
        error_tolerance=error_tolerance,
        resamples=resamples,
    )


def initial_properties(setup: Setup, reward: Reward) -> dict[str, float]:
    """Every property of `rl-exp reward-eval` of one reward model, by `reward/<name>`, without intervals."""
    generator = setup.run.seeds.numpy("evaluation")
    evaluation = evaluate_rewards(setup, [reward], prepare_off_policy(setup), generator, resamples=0)
    return {f"reward/{name}": float(values[0]) for name, values in evaluation.values.items()}


def same_outputs(probe: Probe) -> NDArray[np.int64]:
    """Numbers [P, N] of the different outputs of each prompt: equal numbers are equal tokens."""
    numbers = np.empty(len(probe.rollouts), dtype=np.int64)
    for start in range(0, len(numbers), probe.samples):
        seen: dict[tuple[int, ...], int] = {}
        for row in range(start, start + probe.samples):
            numbers[row] = seen.setdefault(probe.rollouts.tokens[row], len(seen))
    return numbers.reshape(probe.prompts, probe.samples)
