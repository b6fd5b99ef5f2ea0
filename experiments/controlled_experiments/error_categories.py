"""Do the paper's conditions tell which reward errors harm? Every label is tried against its counterfactual.

Source: When Errors Can Be Beneficial (arXiv 2604.25872), its categories of reward errors.

Setting. Random problems of one prompt: initial probabilities from a Dirichlet, ground truth uniform in [-1, 1] with one
output at 1 and one at -1, a proxy that errs on some outputs by a uniform draw from [-1, 1]. Tabular policies or
log-linear ones with random unit features. Exact gradients.

Arms. Every problem is trained on its proxy, and once more for each erroneous output on the proxy with that error alone
corrected.

Measured. The effect of an error is the increase of ground truth reward with it minus that without it: harmful below
-`effect_size`, beneficial above, else benign. It is compared with `categorise_reward_errors`, which sees the initial
policy and the rewards only. Stalling passes, so the effect depends on how long one trains: it is measured and judged at
every horizon; `judged_after` is the one that the figure and the summary show. Cohen's kappa says how much of the
agreement is more than chance.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from experiments.controlled_experiments.findings import Finding, Findings, Progress, counted
from experiments.controlled_experiments.statements import CATEGORIES, statements_of
from experiments.policies.ascent import Advance, Trajectory, ascend, reward_gradient
from experiments.policies.problems import Problem
from experiments.policies.softmax import SoftmaxPolicy, expected
from experiments.reports.style import EFFECT_COLOURS, figure_style
from experiments.reward_metrics.correlations import no_interval, student_interval
from experiments.reward_metrics.error_categories import RewardError, categorise_reward_errors
from experiments.runs.seeds import SeedStreams

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SAYS = statements_of("error_categories")
EFFECTS = ("harmful", "benign", "beneficial")


def error_categories(
    *,
    problems: int,
    outputs: int,
    error_probability: float,
    horizons: list[int],
    judged_after: int,
    learning_rate: float,
    effect_size: float,
    negligible_probability: float,
    negligible_velocity: float,
    problem: Problem | None,
    streams: SeedStreams,
    progress: Progress,
) -> Findings:
    """Categorise, train with and without each error, compare; a `problem` of one prompt replaces the random ones."""
    suites = (
        {problem.name: (problem.initial_policy(), problem.ground_truth, problem.proxy)}
        if problem is not None
        else {
            geometry: random_problems(problems, outputs, error_probability, geometry, streams.numpy(geometry))
            for geometry in ("tabular", "random features")
        }
    )
    rows, statements, tables, confusions = [], [], {}, {}
    with progress("with and without each error", max(horizons) * len(suites)) as bar:
        for name, (policy, ground_truth, proxy) in suites.items():
            start = policy.probabilities()[:, 0, 0]
            features = None if policy.features is None else policy.features[:, 0, 0]
            category = categorise_reward_errors(
                start,
                ground_truth,
                proxy,
                features,
                negligible_probability=negligible_probability,
                negligible_velocity=negligible_velocity,
            )
            effects = counterfactual_effects(policy, ground_truth, proxy, horizons, learning_rate, bar.advance)
            for horizon, effect in effects.items():
                outcome = torch.sign(effect) * (effect.abs() > effect_size)  # [problems, outputs]
                rows += confusion_rows(name, horizon, category, outcome, effect)
                if problem is None:
                    statements += judged(name == "tabular", horizon, category, outcome, effect)
                if horizon == judged_after:
                    confusions[name] = confusion(category, outcome)
    tables["confusion"] = rows
    if problem is not None:
        tables["outputs"] = output_rows(category[0], effects, ground_truth[0], proxy[0], start[0])
    errors = sum(int(matrix.sum()) for matrix in confusions.values())
    agreement = {name: agreement_share(matrix) for name, matrix in confusions.items()}
    kappa = {name: cohens_kappa(matrix) for name, matrix in confusions.items()}
    reading = (
        "No reward has an error: there is nothing to categorise."
        if not errors
        else (
            f"Of {errors:,} single reward errors, trained for {judged_after:,} updates with and without the error, the "
            "label gave the sign of the effect in "
            + " and ".join(f"{share:.0%} ({name}, kappa {kappa[name]:.2f})" for name, share in agreement.items())
            + f"; an effect counts beyond {effect_size:g} of ground truth reward."
        )
    )
    return Findings(
        reading=reading,
        statements=statements,
        tables=tables,
        figures={"confusion": draw(confusions)},
        captions={
            "confusion": (
                "Share of each label's errors that proved harmful, benign or beneficial when that error alone was "
                f"corrected ({judged_after:,} updates, exact gradients, n = {errors:,} errors; counts in the bars)."
            )
        },
        summary={f"agreement/{name}".replace(" ", "_"): share for name, share in agreement.items()}
        | {f"kappa/{name}".replace(" ", "_"): value for name, value in kappa.items()},
    )


# Problems ------------------------------------------------------------------------------------------------------------


def random_problems(
    problems: int, outputs: int, error_probability: float, geometry: str, generator: np.random.Generator
) -> tuple[SoftmaxPolicy, Tensor, Tensor]:
    """Initial policies [problems, 1, ...], ground truth and proxy [problems, outputs]."""
    start = generator.dirichlet(np.full(outputs, 0.7), size=problems)
    start = (start + 1e-6) / (1 + outputs * 1e-6)
    ground_truth = generator.uniform(-1, 1, size=(problems, outputs))
    best_and_worst = generator.permuted(np.tile(np.arange(outputs), (problems, 1)), axis=1)[:, :2]
    np.put_along_axis(ground_truth, best_and_worst, np.array([[1.0, -1.0]]), axis=1)
    wrong = generator.random((problems, outputs)) < error_probability
    proxy = np.where(wrong, generator.uniform(-1, 1, size=(problems, outputs)), ground_truth)
    logits = torch.from_numpy(np.log(start))[:, None, None]
    if geometry == "tabular":
        return SoftmaxPolicy(logits), torch.from_numpy(ground_truth), torch.from_numpy(proxy)
    # Random unit features plus the identity: of full rank, so that they can produce every initial policy.
    features = generator.normal(size=(problems, outputs, outputs)) * 0.35 / np.sqrt(outputs) + np.eye(outputs)
    features /= np.linalg.norm(features, axis=-1, keepdims=True)
    phi = torch.from_numpy(features)
    weights = torch.linalg.solve(phi, logits[:, 0, 0])
    return (
        SoftmaxPolicy(weights[:, None], phi[:, None, None]),
        torch.from_numpy(ground_truth),
        torch.from_numpy(proxy),
    )


# Counterfactuals -----------------------------------------------------------------------------------------------------


def counterfactual_effects(
    policy: SoftmaxPolicy,
    ground_truth: Tensor,
    proxy: Tensor,
    horizons: list[int],
    learning_rate: float,
    advance: Advance,
) -> dict[int, Tensor]:
    """Ground truth increase with the error minus that with it corrected, per horizon: [problems, outputs] each.

    One tensor holds every problem (arms) with its O + 1 rewards (the seeds dimension): the proxy, and the proxy with
    output k corrected.
    """
    outputs = proxy.shape[-1]
    corrected = torch.where(torch.eye(outputs, dtype=torch.bool), ground_truth[:, None], proxy[:, None])
    rewards = torch.cat([proxy[:, None], corrected], dim=1)[:, :, None]  # [problems, O + 1, 1, O]
    repeats = [1, outputs + 1] + [1] * (policy.parameters.ndim - 2)
    together = SoftmaxPolicy(policy.parameters.repeat(*repeats), policy.features, policy.temperature)
    truth = ground_truth[:, None, None]
    trajectory = Trajectory(horizons, {"truth": lambda p: expected(p, truth)[..., 0]})
    ascend(
        together,
        reward_gradient(rewards),
        learning_rate=learning_rate,
        steps=max(horizons),
        observers=[trajectory],
        advance=advance,
    )
    values = trajectory.stacked("truth")  # [horizons, problems, O + 1]
    return {horizon: value[:, :1] - value[:, 1:] for horizon, value in zip(sorted(horizons), values, strict=True)}


# Agreement -----------------------------------------------------------------------------------------------------------


def confusion(category: Tensor, outcome: Tensor) -> np.ndarray:
    """Counts [labels 1 to 5, effects (harmful, benign, beneficial)]."""
    labels = [label for label in RewardError if label is not RewardError.none]
    return np.array([[int(((category == label) & (outcome == sign)).sum()) for sign in (-1, 0, 1)] for label in labels])


def agreement_share(matrix: np.ndarray) -> float:
    """Share of errors whose effect has the sign that their label predicts."""
    labels = [label for label in RewardError if label is not RewardError.none]
    hits = sum(matrix[row, label.predicted_effect + 1] for row, label in enumerate(labels))
    return float(hits / max(matrix.sum(), 1))


def cohens_kappa(matrix: np.ndarray) -> float:
    """Agreement of predicted and measured sign beyond chance: 0 is chance, 1 is perfect."""
    signs = [label.predicted_effect + 1 for label in RewardError if label is not RewardError.none]
    predicted = np.zeros((3, 3))
    np.add.at(predicted, signs, matrix)
    predicted /= max(predicted.sum(), 1)
    chance = float(predicted.sum(axis=0) @ predicted.sum(axis=1))
    return (float(np.trace(predicted)) - chance) / (1 - chance) if chance < 1 else float("nan")


def judged(tabular: bool, horizon: int, category: Tensor, outcome: Tensor, effect: Tensor) -> list[Finding]:
    """One finding per category: the mean effect of its errors, with problems as the unit.

    Of benign errors the mean absolute effect, because effects of both signs must not cancel.
    """
    findings = []
    for name in CATEGORIES:
        label = RewardError[name]
        chosen = category == label
        per_problem = chosen.sum(dim=1)
        benign = label.predicted_effect == 0
        sizes = effect.abs() if benign else effect
        means = ((sizes * chosen).sum(dim=1) / per_problem)[per_problem > 0].numpy()
        right = (outcome == label.predicted_effect)[chosen].double().mean()
        findings.append(
            SAYS[f"{'' if tabular else 'features.'}{name}"].found(
                student_interval(means) if means.size else no_interval(),
                f"mean {'absolute ' if benign else ''}effect of an error on ground truth reward; the label's sign is "
                f"right for {float(right):.0%} of {counted(int(chosen.sum()), 'error')}",
                case=f"after {counted(horizon, 'update')}",
            )
        )
    return findings


def confusion_rows(name: str, horizon: int, category: Tensor, outcome: Tensor, effect: Tensor) -> list[dict[str, Any]]:
    """The confusion table of one suite and horizon."""
    matrix = confusion(category, outcome)
    rows = []
    for row, label in enumerate(label for label in RewardError if label is not RewardError.none):
        chosen = effect[category == label]
        rows.append(
            {
                "suite": name,
                "updates": horizon,
                "label": label.name,
                **{effect_name: int(count) for effect_name, count in zip(EFFECTS, matrix[row], strict=True)},
                "mean_effect": float(chosen.mean()) if chosen.numel() else float("nan"),
            }
        )
    return rows


def output_rows(
    category: Tensor, effects: dict[int, Tensor], ground_truth: Tensor, proxy: Tensor, start: Tensor
) -> list[dict[str, Any]]:
    """For a single problem: every output with its label and effects."""
    return [
        {
            "output": output,
            "initial_probability": float(start[output]),
            "ground_truth": float(ground_truth[output]),
            "proxy": float(proxy[output]),
            "label": RewardError(int(category[output])).name,
            **{f"effect_after_{horizon}": float(effect[0, output]) for horizon, effect in effects.items()},
        }
        for output in range(len(category))
    ]


def draw(confusions: dict[str, np.ndarray]) -> Figure:
    """Stacked shares of measured effects per label, one panel per suite."""
    import matplotlib.pyplot as plt

    labels = [
        label.name.replace("_", "\n", 1).replace("_", " ") for label in RewardError if label is not RewardError.none
    ]
    with figure_style():
        figure, axes = plt.subplots(
            1, len(confusions), figsize=(4.4 * len(confusions), 3.0), sharey=True, squeeze=False
        )
        for panel, (name, matrix) in zip(axes[0], confusions.items(), strict=True):
            totals = np.maximum(matrix.sum(axis=1), 1)
            left = np.zeros(len(labels))
            for column, effect in enumerate(EFFECTS):
                share = matrix[:, column] / totals
                bars = panel.barh(labels, share, left=left, color=EFFECT_COLOURS[effect], label=f"proved {effect}")
                texts = [
                    str(count) if width > 0.07 else "" for count, width in zip(matrix[:, column], share, strict=True)
                ]
                panel.bar_label(bars, texts, label_type="center", fontsize=7, color="white")
                left += share
            panel.set(title=name, xlabel="share of the label's errors", xlim=(0, 1))
            panel.grid(False)
        axes[0][0].invert_yaxis()
        handles, names = axes[0][0].get_legend_handles_labels()
        figure.legend(handles, names, loc="outside upper center", ncols=3)
    return figure
