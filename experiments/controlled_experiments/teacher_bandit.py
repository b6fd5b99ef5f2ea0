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
each seed, their mean over seeds with a bootstrap interval; permutation p over reward models after averaging over seeds.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from scipy import stats
from torch import Tensor

from experiments.controlled_experiments.findings import Findings, Progress, Statement
from experiments.policies.ascent import Trajectory, ascend, log_spaced_steps, reward_gradient
from experiments.policies.gradients import Estimator, sample_outputs
from experiments.policies.softmax import SoftmaxPolicy, expected
from experiments.reports.style import BLACK, GREY, PALETTE, figure_style
from experiments.reward_metrics import harm_aware
from experiments.reward_metrics.accuracy import accuracy_on_pairs, on_policy_accuracy
from experiments.reward_metrics.correlations import CorrelationMethod, Interval, correlation, mean_interval
from experiments.reward_metrics.variance import reward_variance
from experiments.runs.seeds import SeedStreams

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PAPER = "What Makes a Reward Model a Good Teacher?, "
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
    bootstrap = streams.numpy("bootstrap")
    groups = {"the paper's six": models.papers}
    if random_reward_models:
        groups[f"{random_reward_models} random"] = slice(models.papers.stop, None)
    correlations = []
    per_seed: dict[tuple[str, str, str], np.ndarray] = {}
    for group, members in groups.items():
        for name, values in properties.items():
            for outcome, change in increase.items():
                rows, by_seed = correlate(values[members], change[members], bootstrap)
                per_seed[group, name, outcome] = by_seed
                paper = PAPER_CORRELATIONS.get(name, (None, None))[outcome == "ground_truth"]
                compare = paper if group == "the paper's six" and not centred else None
                correlations += [
                    {"reward_models": group, "property": name, "with_increase_of": outcome, **row}
                    | ({"paper": compare} if row["method"] == "pearson" else {})
                    for row in rows
                ]
    statements = (control_statements if centred else paper_statements)(
        models, increase, properties, per_seed, bootstrap
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
            "training": draw_training(models, trajectory.steps, {k: v.numpy() for k, v in curves.items()}),
            "correlations": draw_scatter(models, properties, increase, coefficient_titles(per_seed)),
        },
        captions={
            "training": f"Increase of normalised expected reward, mean over n = {seeds} seeds, bands: standard error.",
            "correlations": (
                f"Every point is one reward model, mean over n = {seeds} seeds. Squares: the paper's six; dots: random "
                "reward models. r: Pearson over reward models, mean over seeds, the paper's six first."
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
            if group == "the paper's six" and name in ("variance", "on_policy_accuracy")
        },
    )


# Reward models -------------------------------------------------------------------------------------------------------


def reward_models(
    seeds: int, prompts: int, outputs: int, random_models: int, centred: bool, generator: torch.Generator
) -> RewardModels:
    """The ground truth, the paper's six and random ones. `centred` leaves out every between-prompt part."""

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    profiles = list(TABLE_1.values())
    draws = torch.rand(random_models, 3, generator=generator, dtype=torch.float64)
    profiles += [(0.1 + 0.8 * v, 0.52 + 0.36 * on, 0.52 + 0.36 * off) for v, on, off in draws.tolist()]

    within, within_pair = normal(seeds, prompts, outputs), normal(seeds, prompts, 1, 2)
    between = 0.0 if centred else 1.0
    offset = math.sqrt(1 - GROUND_TRUTH_VARIANCE) * between * normal(seeds, prompts, 1)
    truth = math.sqrt(GROUND_TRUTH_VARIANCE) * within + offset
    truth_pair = math.sqrt(GROUND_TRUTH_VARIANCE) * within_pair + offset[..., None]

    rewards, pairs = [truth], [truth_pair]
    for variance, on_accuracy, off_accuracy in profiles:
        offset_j = math.sqrt(1 - variance) * between * normal(seeds, prompts, 1)
        rewards.append(math.sqrt(variance) * noisy(within, on_accuracy, normal(*within.shape)) + offset_j)
        pairs.append(
            math.sqrt(variance) * noisy(within_pair, off_accuracy, normal(*within_pair.shape)) + offset_j[..., None]
        )
    # Perfectly accurate, low variance (appendix F.1): raw rewards have a mean away from 0, so shrinking half of the
    # prompts adds spread between prompts.
    shrink = torch.where(torch.rand(seeds, prompts, 1, generator=generator) < 0.5, 0.001, 1.0)
    shift = 3.0 * between
    rewards.insert(1 + len(TABLE_1), (truth + shift) * shrink)
    pairs.insert(1 + len(TABLE_1), (truth_pair + shift) * shrink[..., None])
    names = ["ground truth", *TABLE_1, "perfect, low variance", *(f"random {i}" for i in range(random_models))]
    return RewardModels(names, torch.stack(rewards), torch.stack(pairs))


def noisy(signal: Tensor, accuracy: float, noise: Tensor) -> Tensor:
    """Unit-variance signal plus noise that keeps the order of a share `accuracy` of Gaussian pairs.

    Two Gaussians of correlation rho agree in sign with probability 1/2 + arcsin(rho)/pi.
    """
    rho = math.sin((accuracy - 0.5) * math.pi)
    return rho * signal + math.sqrt(1 - rho * rho) * noise


def measure(models: RewardModels, sampled: Tensor, log_probability: Tensor) -> dict[str, np.ndarray]:
    """Properties of every reward model for this policy, [A, S] each, from samples [A, S, P, N]."""
    truth = sampled[:1]
    variance = reward_variance(sampled)
    on_accuracy = on_policy_accuracy(sampled, truth.expand_as(sampled))
    off_accuracy = accuracy_on_pairs(models.off_policy_pairs, models.off_policy_pairs[:1])
    pairs = harm_aware.pairs_of_samples(truth)
    chosen, rejected = pairs.of(sampled)
    logs, mask, mean = pairs.of(log_probability), pairs.mask, sampled.mean(-1)
    both = (on_accuracy + off_accuracy) / 2
    return {
        name: values.numpy()
        for name, values in {
            "variance": variance,
            "on_policy_accuracy": on_accuracy,
            "off_policy_accuracy": off_accuracy,
            "mean_of_accuracies": both,
            "mean_of_variance_and_accuracies": (variance + both) / 2,
            "mean_of_variance_and_on_policy_accuracy": (variance + on_accuracy) / 2,
            "accuracy": harm_aware.pairwise_accuracy(chosen, rejected, mask),
            "harm_aware_accuracy": harm_aware.pairwise_harm_aware_accuracy(chosen, rejected, mean, mask),
            "weighted_accuracy": harm_aware.pairwise_weighted_accuracy(chosen, rejected, *logs, mask),
            "weighted_harm_aware_accuracy": harm_aware.pairwise_weighted_harm_aware_accuracy(
                chosen, rejected, *logs, mean, mask
            ),
        }.items()
    }


# Statistics ----------------------------------------------------------------------------------------------------------


def correlate(
    values: np.ndarray, change: np.ndarray, generator: np.random.Generator
) -> tuple[list[dict[str, object]], np.ndarray]:
    """Rows for Pearson and Spearman over reward models, and the Pearson coefficient of every seed; both [A, S]."""
    rows: list[dict[str, object]] = []
    pearson = np.array([])
    for method in CorrelationMethod:
        ranks = method is CorrelationMethod.spearman
        a, b = (stats.rankdata(x, axis=0) if ranks else x for x in (values, change))
        a, b = a - a.mean(axis=0), b - b.mean(axis=0)
        by_seed = (a * b).sum(axis=0) / np.sqrt((a * a).sum(axis=0) * (b * b).sum(axis=0))
        if method is CorrelationMethod.pearson:
            pearson = by_seed
        interval = mean_interval(by_seed, generator=generator, resamples=2000)
        averaged = correlation(
            values.mean(axis=1), change.mean(axis=1), generator=generator, method=method, resamples=1999
        )
        rows.append(
            {
                "method": str(method),
                "coefficient": interval.value,
                "low": interval.low,
                "high": interval.high,
                "seeds": interval.n,
                "n_reward_models": averaged.n,
                "of_seed_means": averaged.value,
                "of_seed_means_low": averaged.low,
                "of_seed_means_high": averaged.high,
                "permutation_p": averaged.permutation_p,
            }
        )
    return rows, pearson


def paper_statements(
    models: RewardModels,
    increase: dict[str, np.ndarray],
    properties: dict[str, np.ndarray],
    per_seed: dict[tuple[str, str, str], np.ndarray],
    generator: np.random.Generator,
) -> list[Statement]:
    """Table 2 of the paper on its own six reward models, and the same on random ones."""
    six = "the paper's six"

    def interval(values: np.ndarray) -> Interval:
        return mean_interval(values, generator=generator)

    def pearson(group: str, name: str, outcome: str) -> Interval:
        return interval(per_seed[group, name, outcome])

    over = "mean over seeds of Pearson's r over six reward models"
    truth = increase["ground_truth"]
    low, half = models.names.index("perfect, low variance"), models.names.index("50% on-policy")
    statements = [
        Statement(
            "reward variance predicts the increase of the proxy reward (paper: r = .982)",
            PAPER + "Table 2",
            over,
            pearson(six, "variance", "proxy"),
            at_least=0.95,
        ),
        Statement(
            "reward variance predicts the increase of the ground truth reward (paper: r = .834)",
            PAPER + "Table 2",
            over,
            pearson(six, "variance", "ground_truth"),
            at_least=0.5,
        ),
        Statement(
            "on-policy accuracy alone does not predict it: r is negative (paper: -.283)",
            PAPER + "Table 2",
            over,
            pearson(six, "on_policy_accuracy", "ground_truth"),
            at_most=0.0,
        ),
        Statement(
            "off-policy accuracy alone does not predict it: r is negative (paper: -.507)",
            PAPER + "Table 2",
            over,
            pearson(six, "off_policy_accuracy", "ground_truth"),
            at_most=0.0,
        ),
        Statement(
            "variance and accuracy together predict ground truth better than variance alone (paper: .940 and .834)",
            PAPER + "Table 2",
            "difference of Pearson's r with ground truth increase, paired over seeds",
            interval(
                per_seed[six, "mean_of_variance_and_accuracies", "ground_truth"]
                - per_seed[six, "variance", "ground_truth"]
            ),
            at_least=0.0,
        ),
        Statement(
            "a perfectly accurate reward model of low variance is a worse teacher than a less accurate one",
            PAPER + "Figure 2",
            "ground truth increase, perfect and low variance minus 50% on-policy, paired over seeds",
            interval(truth[low] - truth[half]),
            at_most=0.0,
        ),
        Statement(
            "early on, proxies beat training on the ground truth itself",
            PAPER + "Figure 2",
            "ground truth increase, best of the five proxies minus ground truth as the training reward, paired "
            "over seeds",
            interval(truth[1 : 1 + len(TABLE_1)].max(axis=0) - truth[0]),
            at_least=0.0,
        ),
    ]
    for group in {group for group, _, _ in per_seed} - {six}:
        over = f"mean over seeds of Pearson's r over {group} reward models of independent variance and accuracy"
        statements += [
            Statement(
                f"reward variance predicts the increase of the {outcome.replace('_', ' ')} reward ({group} "
                "reward models)",
                PAPER + "section 4.1, beyond its six reward models",
                over,
                pearson(group, "variance", outcome),
                at_least=math.ulp(0),
            )
            for outcome in ("proxy", "ground_truth")
        ]
        statements += [
            Statement(
                f"at independent variance, accuracy does predict ground truth ({group} reward models)",
                "derived here: Table 2's negative sign comes from the six models' profile",
                over,
                pearson(group, "on_policy_accuracy", "ground_truth"),
                at_least=math.ulp(0),
            ),
            Statement(
                f"harm-aware accuracy predicts ground truth better than accuracy ({group} reward models)",
                "When Errors Can Be Beneficial, section 4",
                "difference of Pearson's r with ground truth increase, paired over seeds",
                interval(
                    per_seed[group, "harm_aware_accuracy", "ground_truth"] - per_seed[group, "accuracy", "ground_truth"]
                ),
                at_least=math.ulp(0),
            ),
        ]
    return statements


def control_statements(
    models: RewardModels,
    increase: dict[str, np.ndarray],
    properties: dict[str, np.ndarray],
    per_seed: dict[tuple[str, str, str], np.ndarray],
    generator: np.random.Generator,
) -> list[Statement]:
    """Without between-prompt spread nothing is left for variance to explain, and accuracy decides."""
    proxies = slice(1, 1 + len(TABLE_1))
    spread = properties["variance"][proxies].max(axis=0) - properties["variance"][proxies].min(axis=0)
    gap = increase["proxy"][proxies]
    order = np.array([profile[1] for profile in TABLE_1.values()])
    by_seed = np.array([np.corrcoef(order, increase["ground_truth"][proxies, s])[0, 1] for s in range(spread.size)])
    return [
        Statement(
            "without between-prompt spread all five proxies have nearly the same normalised variance",
            "negative control of design D1",
            "largest minus smallest variance of the five proxies of Table 1",
            mean_interval(spread, generator=generator),
            at_most=0.1,
        ),
        Statement(
            "and nearly the same speed of the proxy reward",
            "negative control of design D1",
            "largest minus smallest proxy increase of the five, relative to the mean",
            mean_interval((gap.max(axis=0) - gap.min(axis=0)) / gap.mean(axis=0), generator=generator),
            at_most=0.15,
        ),
        Statement(
            "so that on-policy accuracy decides the increase of ground truth",
            "negative control of design D1",
            "Pearson's r of nominal on-policy accuracy with ground truth increase over the five, mean over seeds",
            mean_interval(by_seed, generator=generator),
            at_least=0.8,
        ),
    ]


# Reading and figures -------------------------------------------------------------------------------------------------


def reading_of(
    per_seed: dict[tuple[str, str, str], np.ndarray],
    increase: dict[str, np.ndarray],
    models: RewardModels,
    centred: bool,
) -> str:
    """One paragraph with the coefficients in it."""
    six = "the paper's six"
    regime = "Without between-prompt spread" if centred else "With the paper's profile of six reward models"
    best = models.names[models.papers][int(increase["ground_truth"][models.papers].mean(axis=1).argmax())]

    def r(group: str, name: str, outcome: str) -> str:
        return f"{per_seed[group, name, outcome].mean():+.2f}"

    text = (
        f"{regime}, reward variance correlates {r(six, 'variance', 'proxy')} with the increase of the proxy reward and "
        f"{r(six, 'variance', 'ground_truth')} with that of the ground truth; on-policy accuracy "
        f"{r(six, 'on_policy_accuracy', 'ground_truth')} and the mean of variance and accuracies "
        f"{r(six, 'mean_of_variance_and_accuracies', 'ground_truth')} with the ground truth. The best teacher "
        "of the six "
        f"is '{best}'."
    )
    for group in {group for group, _, _ in per_seed} - {six}:
        text += (
            f" Over {group} reward models of independent variance and accuracy the coefficients with the ground "
            "truth are "
            f"{r(group, 'variance', 'ground_truth')} (variance), "
            f"{r(group, 'on_policy_accuracy', 'ground_truth')} (on-policy "
            f"accuracy) and {r(group, 'harm_aware_accuracy', 'ground_truth')} (harm-aware accuracy)."
        )
    return text


def coefficient_titles(per_seed: dict[tuple[str, str, str], np.ndarray]) -> dict[str, str]:
    """Pearson's r with the increase of ground truth, for every property: the paper's six, then the random ones."""
    titles: dict[str, list[str]] = {}
    for (_, name, outcome), values in per_seed.items():
        if outcome == "ground_truth":
            titles.setdefault(name, []).append(f"{values.mean():+.2f}")
    return {name: ", ".join(texts) for name, texts in titles.items()}


def draw_training(models: RewardModels, steps: Sequence[int], curves: dict[str, np.ndarray]) -> Figure:
    """Increase of proxy and ground truth reward along training, for the paper's reward models and the ground truth."""
    import matplotlib.pyplot as plt

    x = np.asarray(steps)
    with figure_style():
        figure, axes = plt.subplots(1, 2, figsize=(7.4, 3.2))
        for panel, (outcome, values) in zip(axes, curves.items(), strict=True):
            for i, name in enumerate(models.names[: models.papers.stop]):
                change = values[:, i] - values[0, i]
                colour = BLACK if i == 0 else PALETTE[i - 1]
                middle, error = change.mean(axis=-1), change.std(axis=-1) / math.sqrt(change.shape[-1])
                panel.plot(x, middle, color=colour, label=name, ls="--" if i == 0 else "-")
                panel.fill_between(x, middle - error, middle + error, color=colour, alpha=0.2, linewidth=0)
            panel.set(xlabel="updates", ylabel=f"{outcome.replace('_', ' ')} reward increase (std)")
        handles, labels = axes[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=4)
    return figure


def draw_scatter(
    models: RewardModels,
    properties: dict[str, np.ndarray],
    increase: dict[str, np.ndarray],
    coefficients: dict[str, str],
) -> Figure:
    """Ground truth increase against four properties."""
    import matplotlib.pyplot as plt

    shown = ("variance", "on_policy_accuracy", "mean_of_variance_and_accuracies", "harm_aware_accuracy")
    change = increase["ground_truth"].mean(axis=1)
    with figure_style():
        figure, axes = plt.subplots(1, len(shown), figsize=(9.6, 2.8), sharey=True)
        for panel, name in zip(axes, shown, strict=True):
            x = properties[name].mean(axis=1)
            rest = slice(models.papers.stop, None)
            panel.scatter(x[rest], change[rest], s=10, color=GREY, label="random reward models", lw=0)
            for i in range(models.papers.start, models.papers.stop):
                panel.scatter(x[i], change[i], s=26, marker="s", color=PALETTE[i - 1], label=models.names[i], lw=0)
            panel.set(xlabel=name.replace("_", " "), title=f"r = {coefficients[name]}")
        axes[0].set_ylabel("ground truth increase (std)")
        handles, labels = axes[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=4)
    return figure
