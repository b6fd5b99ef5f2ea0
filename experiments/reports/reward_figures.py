"""The figures of `rl-exp reward-eval`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from experiments.reports.reward_styles import RewardStyles
from experiments.reports.style import BLUE, GREY, figure_style, save_figure
from experiments.reward_metrics.evaluation import Evaluation
from experiments.reward_metrics.properties import label_of
from experiments.reward_metrics.variance import within_prompt_variance

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Floats = NDArray[np.float64]

NOT_IN_HEAT_MAP = ("raw_variance", "comparisons", "effective_comparisons")


def draw_variance_against_accuracy(evaluation: Evaluation, directory: Path) -> Path:
    """One point per reward model with both intervals; on-policy accuracy beside harm-aware accuracy."""
    import matplotlib.pyplot as plt

    styles = RewardStyles(evaluation.reward_models)
    with figure_style():
        figure, axes = plt.subplots(1, 2, figsize=(8.4, 3.6), sharey=True)
        for axis, name in zip(axes, ("on_policy_accuracy", "harm_aware_accuracy"), strict=True):
            for place, label in enumerate(evaluation.reward_models):
                x, y = evaluation.interval(name, place), evaluation.interval("variance", place)
                if math.isnan(x.value):
                    continue
                style = styles.of(label) | {"linestyle": "none", "markersize": 6, "linewidth": 0.9}
                axis.errorbar(x.value, y.value, xerr=_reach(x), yerr=_reach(y), label=label, **style)
            axis.set_xlabel(label_of(name) + (" (harm-aware accuracy)" if name.startswith("harm") else ""))
        axes[0].set_ylabel(label_of("variance"))
        axes[0].set_ylim(bottom=0)
        handles, labels = axes[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside right upper")
        return save_figure(
            figure,
            directory / "variance_against_accuracy",
            f"n = {evaluation.prompts} prompts; bars: 95 % bootstrap intervals over prompts",
        )


def draw_properties(evaluation: Evaluation, directory: Path) -> Path:
    """All properties of all reward models; colours compare the reward models of a row."""
    import matplotlib.pyplot as plt

    names = [
        name
        for name, values in evaluation.values.items()
        if not name.endswith(NOT_IN_HEAT_MAP) and np.isfinite(values).any()
    ]
    matrix = np.array([evaluation.values[name] for name in names])  # [properties, R]
    low, high = np.nanmin(matrix, axis=1, keepdims=True), np.nanmax(matrix, axis=1, keepdims=True)
    shades = np.where(high > low, (matrix - low) / np.where(high > low, high - low, 1), 0.5)
    with figure_style():
        figure, axis = plt.subplots(figsize=(2.6 + 0.62 * matrix.shape[1], 1.4 + 0.22 * len(names)))
        axis.imshow(shades, cmap="cividis", vmin=0, vmax=1, aspect="auto")
        axis.grid(False)
        for i, j in np.ndindex(matrix.shape):
            if np.isfinite(matrix[i, j]):
                colour = "black" if shades[i, j] > 0.55 else "white"
                axis.text(j, i, _short(float(matrix[i, j])), ha="center", va="center", fontsize=7, color=colour)
        labels = [label.replace("_", " ") for label in evaluation.reward_models]
        axis.set_xticks(range(matrix.shape[1]), labels, rotation=40, ha="right", fontsize=8)
        axis.set_yticks(range(len(names)), [_long_label(name) for name in names], fontsize=7)
        return save_figure(
            figure,
            directory / "properties",
            f"n = {evaluation.prompts} prompts; dark to light: lowest to highest of a row",
        )


def draw_within_prompt_std(reward_models: Sequence[str], scores: Floats, directory: Path) -> Path:
    """How far each prompt's samples are told apart: the std of its globally normalised rewards, [R, P, N]."""
    import matplotlib.pyplot as plt

    spread = within_prompt_variance(torch.from_numpy(scores)).sqrt().numpy()  # [R, P]
    columns = min(4, len(reward_models))
    rows = math.ceil(len(reward_models) / columns)
    bins = np.linspace(0, max(float(spread.max()), 1e-9), 25)
    with figure_style():
        size = (2.1 * columns + 0.4, 1.5 * rows + 0.5)
        figure, axes = plt.subplots(rows, columns, figsize=size, squeeze=False, sharex=True, sharey=True)
        for axis, label, values in zip(axes.flat, reward_models, spread, strict=False):
            axis.hist(values, bins=bins, color=BLUE)
            mean = math.sqrt(float((values**2).mean()))
            axis.axvline(mean, color=GREY, lw=1, ls="--")
            axis.set_title(label.replace("_", " "), fontsize=8)
        for axis in list(axes.flat)[len(reward_models) :]:
            axis.set_visible(False)
        _outer_ticks(axes, len(reward_models))
        figure.supxlabel("std of a prompt's normalised rewards (dashed: root of the reward variance)", fontsize=8)
        figure.supylabel("prompts", fontsize=8)
        return save_figure(figure, directory / "within_prompt_std")


def _outer_ticks(axes: NDArray[np.object_], shown: int) -> None:
    """The last panel of each column keeps its ticks, also above an empty place."""
    rows, columns = axes.shape
    for column in range(columns):
        last = max((row for row in range(rows) if row * columns + column < shown), default=0)
        axis: Axes = axes[last, column]
        axis.tick_params(labelbottom=True)


def _reach(interval: object) -> list[list[float]] | None:
    value, low, high = interval.value, interval.low, interval.high  # type: ignore[attr-defined]
    return None if math.isnan(low) else [[max(0.0, value - low)], [max(0.0, high - value)]]


def _long_label(name: str) -> str:
    return label_of(name) if not name.startswith("error_") else f"share {label_of(name)}"


def _short(value: float) -> str:
    """.52: two digits without the zero."""
    return f"{value:.2f}".replace("0.", ".", 1)
