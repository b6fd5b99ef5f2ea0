"""What a probe of the present policy says: rewards, KL divergence, and the proxy's variance and accuracies.

Shapes: P probe prompts, N samples of each, n = P N rows.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from experiments.reward_metrics.point_properties import point_properties
from experiments.rewards.reward import Reward
from experiments.tasks.task import Floats
from experiments.training.probe import Probe


@dataclass(frozen=True)
class ProbeResult:
    """A probe that is scored by every reward model."""

    probe: Probe
    proxy_rewards: Floats  # [n]
    metrics: dict[str, float]


def measure_probe(probe: Probe, proxy: Reward, others: Sequence[Reward], reference: Tensor) -> ProbeResult:
    """`probe/` measures the policy, `reward/` the proxy for this policy.

    `reference` [n, L] are the log-probabilities of the completions' tokens under the initial policy.
    """
    rollouts, outputs = probe.rollouts, probe.outputs
    rewards = proxy(outputs)
    log_ratio = rollouts.sequence_log_probabilities - reference.double().sum(dim=1).numpy()
    metrics = {
        "probe/proxy_reward": float(rewards.mean()),
        "probe/normalised_proxy_reward": float(proxy.probe_scale(rewards, outputs).mean()),
        "probe/ground_truth_reward": float(outputs.ground_truth.mean()),
        "probe/kl": float(log_ratio.mean()),
        "probe/length": float(rollouts.lengths.mean()),
        "probe/entropy": -float(rollouts.sequence_log_probabilities.sum() / rollouts.lengths.sum()),
        **{f"probe/reward/{reward.name}": float(reward(outputs).mean()) for reward in others},
        **{f"probe/part/{name}": float(values.mean()) for name, values in outputs.parts.items()},
        **point_properties(probe.by_prompt(rewards), probe.ground_truth),
    }
    # In the scale of the initial policy's rewards: the present policy's own spread would move under the curve.
    scale = float(proxy.probe_rewards.var(ddof=1))
    metrics["reward/variance"] = metrics["reward/raw_variance"] / scale if scale else 0.0
    return ProbeResult(probe, rewards, metrics)


def samples_before_and_after(before: ProbeResult, after: ProbeResult, prompts: int) -> list[dict[str, Any]]:
    """The first sample of each of `prompts` prompts, with the same noise before and after training."""
    rows = [prompt * before.probe.samples for prompt in range(min(prompts, before.probe.prompts))]
    samples = []
    for row in rows:
        sample: dict[str, Any] = {"prompt": before.probe.rollouts.prompts[row].text}
        for name, result in (("before", before), ("after", after)):
            sample[name] = result.probe.rollouts.texts[row]
            sample[f"ground truth {name}"] = float(result.probe.outputs.ground_truth[row])
            sample[f"proxy {name}"] = float(result.proxy_rewards[row])
        samples.append(sample)
    return samples


def samples_as_text(samples: Sequence[dict[str, Any]]) -> str:
    """Plain text for people."""
    lines = []
    for sample in samples:
        lines.append(f"prompt   {json.dumps(sample['prompt'], ensure_ascii=False)}")
        for name in ("before", "after"):
            scores = f"truth {sample[f'ground truth {name}']:+.2f}  proxy {sample[f'proxy {name}']:+.2f}"
            lines.append(f"  {name:<6} [{scores}] {json.dumps(sample[name], ensure_ascii=False)}")
    return "\n".join(lines) + "\n"
