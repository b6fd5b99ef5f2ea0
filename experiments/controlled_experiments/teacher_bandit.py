"""Which property of a reward model predicts a good teacher: the correlation table on bandits with known truth.

Source: What Makes a Reward Model a Good Teacher? (arXiv 2503.15477), section 4.1, Tables 1 and 2; design D1.

Setting. 200 prompts with 64 outputs each, tabular policy, initial logits N(0, 1). Ground truth = within-prompt part
(share .256 of the variance, the paper's value) + between-prompt part. Reward model j = sqrt(v_j) h_j + sqrt(1 - v_j)
offset, h_j the ground truth's within-prompt part plus noise such that a share a_j of pairs keeps its order.
Off-policy pairs are two further outputs per prompt that the policy never makes, with a noise of their own.

Arms. The paper's six reward models: five with the variances and accuracies of its Table 1, and the perfectly accurate
one of low variance (ground truth times 0.001 on half of the prompts); training on the ground truth itself as a
baseline; and more reward models with random variance and accuracies, because six points hardly constrain a
correlation. `centred=true` is the negative control: no reward has a between-prompt part, so all normalised variances
are nearly equal.

Training. Rewards are normalised by mean and std of 10 samples per prompt; RLOO with 2 samples per prompt.

Measured. From 10 samples of the initial policy per prompt: reward variance, accuracies, harm-aware accuracies. After
training: increase of the expected (normalised) proxy and ground truth reward. Correlations over reward models within
each seed, their mean over seeds with Student's interval over seeds, and a permutation p for that mean.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from experiments.controlled_experiments.findings import Findings, Progress
from experiments.controlled_experiments.teacher_bandit_figures import coefficient_titles, draw_scatter, draw_training
from experiments.controlled_experiments.teacher_bandit_statements import SIX, control_findings, paper_findings
from experiments.policies.ascent import Trajectory, ascend, log_spaced_steps, reward_gradient
from experiments.policies.gradients import Estimator, sample_outputs
from experiments.policies.softmax import SoftmaxPolicy, expected
from experiments.reward_metrics.accuracy import accuracy_on_pairs, on_policy_accuracy
from experiments.reward_metrics.comparisons import pairs_of_samples
from experiments.reward_metrics.correlations import CorrelationMethod, SeedCorrelation, correlation_over_seeds
from experiments.reward_metrics.evaluation import accuracies
from experiments.reward_metrics.variance import reward_variance
from experiments.runs.seeds import SeedStreams

# Table 1: share of on-policy pairs in the reward model's training data -> variance, on- and off-policy accuracy.
TABLE_1 = {
    "100% on-policy": (0.630, 0.660, 0.630),
    "75% on-policy": (0.616, 0.656, 0.732),
    "50% on-policy": (0.555, 0.640, 0.758),
    "25% on-policy": (0.438, 0.616, 0.754),
    "0% on-policy": (0.314, 0.587, 0.762),
}
GROUND_TRUTH_VARIANCE = 0.256
PAPER_CORRELATIONS = {  # Table 2, Pearson: with proxy increase, with ground truth increase
    "variance": (0.982, 0.834),
    "on_policy_accuracy": (-0.762, -0.283),
    "off_policy_accuracy": (-0.933, -0.507),
    "mean_of_accuracies": (-0.870, -0.397),
    "mean_of_variance_and_accuracies": (0.676, 0.940),
}
PROBE_SAMPLES = 10


@dataclass(frozen=True)
class RewardModels:
    """Rewards of every reward model; A reward models, S seeds, P prompts, O outputs."""

    names: list[str]
    rewards: Tensor  # [A, S, P, O]; the first is the ground truth
    off_policy_pairs: Tensor  # [A, S, P, 1, 2]

    @property
    def papers(self) -> slice:
        """The paper's six: after the ground truth, before the random ones."""
        return slice(1, 2 + len(TABLE_1))


def teacher_bandit(
    *,
    seeds: int,
    prompts: int,
    outputs: int,
    steps: int,
    learning_rate: float,
    random_reward_models: int,
    centred: bool,
    streams: SeedStreams,
    progress: Progress,
) -> Findings:
    """Measure the reward models before training, train, correlate."""
    models = reward_models(seeds, prompts, outputs, random_reward_models, centred, streams.torch("rewards"))
    logits = torch.randn(1, seeds, prompts, outputs, generator=streams.torch("policy"), dtype=torch.float64)

    # Measurement before training -----------------------------------------------------------------------------------
    policy = SoftmaxPolicy(logits)
    uniforms = torch.rand(1, seeds, prompts, PROBE_SAMPLES, generator=streams.torch("probe"), dtype=torch.float64)
    probe = sample_outputs(policy.probabilities(), uniforms)
    sampled = models.rewards.gather(-1, probe.expand(len(models.names), -1, -1, -1))
    properties = measure(models, sampled, policy.log_probabilities().gather(-1, probe))

    # Training ------------------------------------------------------------------------------------------------------
    flat = sampled.flatten(2)
    rewards = (models.rewards - flat.mean(-1)[..., None, None]) / flat.std(-1)[..., None, None]
    truth = rewards[:1]
    trajectory = Trajectory(
        log_spaced_steps(steps, per_decade=8),
        {"proxy": lambda p: expected(p, rewards).mean(-1), "ground_truth": lambda p: expected(p, truth).mean(-1)},
    )
    policy.parameters = logits.expand(len(models.names), -1, -1, -1).clone()
    gradient = reward_gradient(rewards, estimator=Estimator.rloo, samples=2, generator=streams.torch("sampling"))
    with progress("RLOO on every reward model", steps) as bar:
        # Every prompt has parameters of its own: times `prompts` undoes the mean over prompts in the objective.
        ascend(
            policy,
            gradient,
            learning_rate=learning_rate * prompts,
            steps=steps,
            observers=[trajectory],
            advance=bar.advance,
        )
    curves = {name: trajectory.stacked(name) for name in trajectory.measures}  # [T, A, S]
    increase = {name: (values[-1] - values[0]).numpy() for name, values in curves.items()}

    # Correlations ----------------------------------------------------------------------------------------------------
    permutations = streams.numpy("bootstrap")
    groups = {SIX: models.papers}
    if random_reward_models:
        groups[f"{random_reward_models} random"] = slice(models.papers.stop, None)
    correlations: list[dict[str, Any]] = []
    per_seed: dict[tuple[str, str, str], np.ndarray] = {}
    for group, members in groups.items():
        for name, values in properties.items():
            for outcome, change in increase.items():
                for method in CorrelationMethod:
                    result = correlation_over_seeds(
                        values[members],
                        change[members],
                        generator=permutations,
                        same_items=group == SIX,
                        method=method,
                        resamples=999,
                    )
                    if method is CorrelationMethod.pearson:
                        per_seed[group, name, outcome] = np.array(result.by_seed)
                    correlations.append(row_of(group, name, outcome, method, result, centred))
    early = int(np.argmin(np.abs(np.array(trajectory.steps) - steps / 4)))
    statements = (
        control_findings(increase, properties)
        if centred
        else paper_findings(
            models.names,
            increase,
            (curves["ground_truth"][early] - curves["ground_truth"][0]).numpy(),
            trajectory.steps[early],
            per_seed,
        )
    )

    table = [
        {
            "reward_model": name,
            **{key: float(values[i].mean()) for key, values in properties.items()},
            "proxy_increase": float(increase["proxy"][i].mean()),
            "ground_truth_increase": float(increase["ground_truth"][i].mean()),
            "seeds": seeds,
        }
        for i, name in enumerate(models.names)
    ]
    return Findings(
        reading=reading_of(per_seed, increase, models, centred),
        statements=statements,
        tables={"reward_models": table, "correlations": correlations},
        figures={
            "training": draw_training(
                models.names, models.papers, trajectory.steps, {k: v.numpy() for k, v in curves.items()}
            ),
            "correlations": draw_scatter(
                models.names, models.papers, properties, increase, coefficient_titles(per_seed)
            ),
        },
        captions={
            "training": f"Increase of normalised expected reward, mean over n = {seeds} seeds, bands: standard error.",
            "correlations": (
                f"Squares: the paper's six, mean over n = {seeds} seeds. r: Pearson over reward models, mean over seeds"
                + (
                    f", the paper's six first. Dots: {random_reward_models} random reward models, others in every seed."
                    if random_reward_models
                    else "."
                )
            ),
        },
        trajectory=[
            (
                step,
                {
                    f"controlled/{outcome}_increase/{name}".replace(" ", "_"): float(
                        (values[t, i] - values[0, i]).mean()
                    )
                    for outcome, values in curves.items()
                    for i, name in enumerate(models.names[: models.papers.stop])
                },
            )
            for t, step in enumerate(trajectory.steps)
        ],
        summary={
            f"pearson/{name}/{outcome}": float(np.mean(values))
            for (group, name, outcome), values in per_seed.items()
            if group == SIX and name in ("variance", "on_policy_accuracy")
        },
    )


# Reward models -------------------------------------------------------------------------------------------------------


def reward_models(
    seeds: int, prompts: int, outputs: int, random_models: int, centred: bool, generator: torch.Generator
) -> RewardModels:
    """The ground truth, the paper's six and random ones. `centred` leaves out every between-prompt part."""

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    # Every seed has random reward models of its own, so that an interval over seeds covers their choice.
    profiles = [
        tuple(torch.full((seeds, 1, 1), value, dtype=torch.float64) for value in profile)
        for profile in TABLE_1.values()
    ]
    for v, on, off in torch.rand(random_models, 3, seeds, 1, 1, generator=generator, dtype=torch.float64):
        profiles.append((0.1 + 0.8 * v, 0.52 + 0.36 * on, 0.52 + 0.36 * off))

    within, within_pair = normal(seeds, prompts, outputs), normal(seeds, prompts, 1, 2)
    between = 0.0 if centred else 1.0
    offset = math.sqrt(1 - GROUND_TRUTH_VARIANCE) * between * normal(seeds, prompts, 1)
    truth = math.sqrt(GROUND_TRUTH_VARIANCE) * within + offset
    truth_pair = math.sqrt(GROUND_TRUTH_VARIANCE) * within_pair + offset[..., None]

    rewards, pairs = [truth], [truth_pair]
    for variance, on_accuracy, off_accuracy in profiles:
        offset_j = torch.sqrt(1 - variance) * between * normal(seeds, prompts, 1)
        noise, pair_noise = normal(*within.shape), normal(*within_pair.shape)
        rewards.append(torch.sqrt(variance) * noisy(within, on_accuracy, noise) + offset_j)
        pair = noisy(within_pair, off_accuracy[..., None], pair_noise)
        pairs.append(torch.sqrt(variance)[..., None] * pair + offset_j[..., None])
    # Perfectly accurate, low variance (appendix F.1): raw rewards have a mean away from 0, so shrinking half of the
    # prompts adds spread between prompts.
    shrink = torch.where(torch.rand(seeds, prompts, 1, generator=generator) < 0.5, 0.001, 1.0)
    shift = 3.0 * between
    rewards.insert(1 + len(TABLE_1), (truth + shift) * shrink)
    pairs.insert(1 + len(TABLE_1), (truth_pair + shift) * shrink[..., None])
    perfect = "perfect, half shrunk" if centred else "perfect, low variance"  # centred, shrinking does not lower it
    names = ["ground truth", *TABLE_1, perfect, *(f"random {i}" for i in range(random_models))]
    return RewardModels(names, torch.stack(rewards), torch.stack(pairs))


def noisy(signal: Tensor, accuracy: Tensor, noise: Tensor) -> Tensor:
    """Unit-variance signal plus noise that keeps the order of a share `accuracy` of Gaussian pairs.

    Two Gaussians of correlation rho agree in sign with probability 1/2 + arcsin(rho)/pi.
    """
    rho = torch.sin((accuracy - 0.5) * math.pi)
    return rho * signal + torch.sqrt(1 - rho * rho) * noise


def measure(models: RewardModels, sampled: Tensor, log_probability: Tensor) -> dict[str, np.ndarray]:
    """Properties of every reward model for this policy, [A, S] each, from samples [A, S, P, N]."""
    truth = sampled[:1]
    variance = reward_variance(sampled)
    on_accuracy = on_policy_accuracy(sampled, truth.expand_as(sampled))
    off_accuracy = accuracy_on_pairs(models.off_policy_pairs, models.off_policy_pairs[:1])
    both = (on_accuracy + off_accuracy) / 2
    measured = {
        "variance": variance,
        "on_policy_accuracy": on_accuracy,
        "off_policy_accuracy": off_accuracy,
        "mean_of_accuracies": both,
        "mean_of_variance_and_accuracies": (variance + both) / 2,
        "mean_of_variance_and_on_policy_accuracy": (variance + on_accuracy) / 2,
    }
    by_seed = [
        accuracies_of_samples(sampled[:, seed].numpy(), truth[0, seed].numpy(), log_probability[0, seed].numpy())
        for seed in range(sampled.shape[1])
    ]
    return {name: values.numpy() for name, values in measured.items()} | {
        own: np.stack([found[name] for found in by_seed], axis=1)
        for own, name in (
            ("accuracy", "strict_accuracy"),
            ("harm_aware_accuracy", "harm_aware_accuracy"),
            ("weighted_accuracy", "weighted_accuracy"),
            ("weighted_harm_aware_accuracy", "weighted_harm_aware_accuracy"),
        )
    }


def accuracies_of_samples(rewards: np.ndarray, truth: np.ndarray, log_probability: np.ndarray) -> dict[str, np.ndarray]:
    """Harm-aware accuracies over pairs of samples, [A] each: rewards [A, P, N], ground truth and log pi [P, N]."""
    items = pairs_of_samples(rewards, truth, log_probability, log_probability)
    return {name: values[0] for name, values in accuracies(np.ones((1, len(truth))), items).items()}


def row_of(
    group: str, name: str, outcome: str, method: CorrelationMethod, result: SeedCorrelation, centred: bool
) -> dict[str, Any]:
    """One row of the correlation table, beside the paper's coefficient where there is one."""
    paper = PAPER_CORRELATIONS.get(name, (None, None))[outcome == "ground_truth"]
    comparable = group == SIX and method is CorrelationMethod.pearson and not centred
    return {
        "reward_models": group,
        "property": name,
        "with_increase_of": outcome,
        "method": str(method),
        "coefficient": result.value,
        "low": result.low,
        "high": result.high,
        "permutation_p": result.permutation_p,
        "n_reward_models": result.items,
        "seeds": result.n,
        "paper": paper if comparable else None,
    }


# Reading and figures -------------------------------------------------------------------------------------------------


def reading_of(
    per_seed: dict[tuple[str, str, str], np.ndarray],
    increase: dict[str, np.ndarray],
    models: RewardModels,
    centred: bool,
) -> str:
    """One paragraph with the coefficients in it."""
    regime = "Without between-prompt spread" if centred else "With the paper's profile of six reward models"
    best = models.names[models.papers][int(increase["ground_truth"][models.papers].mean(axis=1).argmax())]

    def r(group: str, name: str, outcome: str) -> str:
        return f"{per_seed[group, name, outcome].mean():+.2f}"

    text = (
        f"{regime}, reward variance correlates {r(SIX, 'variance', 'proxy')} with the increase of the proxy reward "
        f"and {r(SIX, 'variance', 'ground_truth')} with that of the ground truth; on-policy accuracy "
        f"{r(SIX, 'on_policy_accuracy', 'ground_truth')} and the mean of variance and accuracies "
        f"{r(SIX, 'mean_of_variance_and_accuracies', 'ground_truth')} with the ground truth. The best teacher of the "
        f"six is '{best}'."
    )
    for group in {group for group, _, _ in per_seed} - {SIX}:
        text += (
            f" Over {group} reward models of independent variance and accuracy the coefficients with the ground truth "
            f"are {r(group, 'variance', 'ground_truth')} (variance), {r(group, 'on_policy_accuracy', 'ground_truth')} "
            f"(on-policy accuracy) and {r(group, 'harm_aware_accuracy', 'ground_truth')} (harm-aware accuracy)."
        )
    return text
