"""The figures of `teacher_bandit`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from experiments.reports.reward_styles import REWARD_COLOURS
from experiments.reports.style import GREY, figure_style

if TYPE_CHECKING:
    from matplotlib.figure import Figure


LABELS = {"on_policy_accuracy": "on-policy accuracy", "harm_aware_accuracy": "harm-aware accuracy"}


def coefficient_titles(per_seed: dict[tuple[str, str, str], np.ndarray]) -> dict[str, str]:
    """Pearson's r with the increase of ground truth, for every property: the paper's six, then the random ones."""
    titles: dict[str, list[str]] = {}
    for (_, name, outcome), values in per_seed.items():
        if outcome == "ground_truth":
            titles.setdefault(name, []).append(f"{values.mean():+.2f}")
    return {name: ", ".join(texts) for name, texts in titles.items()}


def draw_training(names: list[str], papers: slice, steps: Sequence[int], curves: dict[str, np.ndarray]) -> Figure:
    """Increase of proxy and ground truth reward along training, for the paper's reward models and the ground truth."""
    import matplotlib.pyplot as plt

    x = np.asarray(steps)
    with figure_style():
        figure, axes = plt.subplots(1, 2, figsize=(7.4, 3.2))
        for panel, (outcome, values) in zip(axes, curves.items(), strict=True):
            for i, name in enumerate(names[: papers.stop]):
                change = values[:, i] - values[0, i]
                colour = _colour(name)
                middle, error = change.mean(axis=-1), change.std(axis=-1) / math.sqrt(change.shape[-1])
                panel.plot(x, middle, color=colour, label=name, ls="--" if name.startswith("perfect") else "-")
                panel.fill_between(x, middle - error, middle + error, color=colour, alpha=0.2, linewidth=0)
            panel.set(xlabel="updates", ylabel=f"{outcome.replace('_', ' ')} increase (std)")
        handles, labels = axes[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside upper center", ncols=4)
    return figure


def draw_scatter(
    names: list[str],
    papers: slice,
    properties: dict[str, np.ndarray],
    increase: dict[str, np.ndarray],
    coefficients: dict[str, str],
) -> Figure:
    """Ground truth increase against four properties."""
    import matplotlib.pyplot as plt

    shown = ("variance", "on_policy_accuracy", "mean_of_variance_and_accuracies", "harm_aware_accuracy")
    change = increase["ground_truth"]
    with figure_style():
        figure, axes = plt.subplots(1, len(shown), figsize=(9.6, 2.8), sharey=True)
        for panel, name in zip(axes, shown, strict=True):
            x, rest = properties[name], slice(papers.stop, None)
            label = "random reward models, every seed"
            if len(x[rest]):
                panel.scatter(x[rest], change[rest], s=5, color=GREY, alpha=0.4, label=label, lw=0)
            for i in range(papers.start, papers.stop):
                square = {"s": 26, "marker": "s", "lw": 0, "color": _colour(names[i])}
                panel.scatter(x[i].mean(), change[i].mean(), label=names[i], **square)
            panel.set(xlabel=LABELS.get(name, name.replace("_", " ")), title=f"r = {coefficients[name]}")
            panel.locator_params(axis="x", nbins=4)
        axes[0].set_ylabel("ground truth increase (std)")
        handles, labels = axes[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside upper center", ncols=4)
    return figure


def _colour(name: str) -> str:
    """`75% on-policy`, `ground truth`, `perfect, low variance`: as the same rewards of language models."""
    share, _, rest = name.partition("% ")
    if rest == "on-policy":
        return REWARD_COLOURS[f"on_policy_{share}"]
    return REWARD_COLOURS["ground_truth" if name == "ground truth" else "perfect_low_variance"]
