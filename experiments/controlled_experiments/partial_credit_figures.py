"""Figures of `partial_credit`: the map of penalties, and how often sampled updates succeed."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from experiments.reports.reward_styles import REWARD_COLOURS
from experiments.reports.style import figure_style

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def draw_map(penalty: dict[bool, np.ndarray], joint: np.ndarray, easy: list[float], sharing: list[float]) -> Figure:
    """Rows: with and without std; columns: sharing."""
    import matplotlib.pyplot as plt
    from matplotlib.colors import TwoSlopeNorm

    lowest, highest = min(float(v.min()) for v in penalty.values()), max(float(v.max()) for v in penalty.values())
    scale = TwoSlopeNorm(0, min(-0.1, lowest), max(0.1, highest))
    with figure_style():
        figure, axes = plt.subplots(
            2, len(sharing), figsize=(2.3 * len(sharing) + 1, 4.4), sharex=True, sharey=True, squeeze=False
        )
        for row, (std, values) in enumerate(penalty.items()):
            for column, share in enumerate(sharing):
                panel = axes[row][column]
                panel.grid(False)
                image = panel.pcolormesh(
                    joint, easy, values[column], cmap="RdBu_r", norm=scale, shading="nearest", rasterized=True
                )
                panel.set(xscale="log")
                if row == 0:
                    panel.set_title(f"sharing {share:g}")
            axes[row][0].set_ylabel("advantages / std" if std else "plain advantages")
        figure.supxlabel("initial probability of meeting both")
        figure.supylabel("initial probability of only the easy one")
        figure.colorbar(image, ax=axes, shrink=0.8).set_label("log10 (time partial / time binary)")
    return figure


def draw_sampled(sampled: dict[bool, np.ndarray], joint: list[float], sharing: list[float], steps: int) -> Figure:
    """Share of seeds that reach the goal, against the initial joint probability."""
    import matplotlib.pyplot as plt

    with figure_style():
        figure, axes = plt.subplots(
            1, len(sharing), figsize=(2.4 * len(sharing) + 0.4, 2.9), sharey=True, squeeze=False
        )
        for column, share in enumerate(sharing):
            panel = axes[0][column]
            for std, values in sampled.items():
                for credit, name in enumerate(("binary", "partial")):
                    reached = np.isfinite(values[credit, column]).mean(axis=-1)
                    label = f"{name} credit, {'advantages / std' if std else 'plain advantages'}"
                    style = "--" if std else "-"
                    colour = REWARD_COLOURS[f"{name}_credit"]
                    panel.plot(joint, reached, marker=".", ls=style, color=colour, label=label)
            panel.set(xscale="log", xlabel="initial P(both)", title=f"sharing {share:g}", ylim=(-0.03, 1.03))
        axes[0][0].set_ylabel(f"share of seeds that succeed\nwithin {steps:,} updates")
        handles, labels = axes[0][0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside upper center", ncols=2)
    return figure
