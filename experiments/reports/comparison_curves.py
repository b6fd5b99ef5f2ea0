"""Curves of several arms over each other: the mean over seeds, and a band from the lowest to the highest."""

from __future__ import annotations

import json
from collections.abc import Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from experiments.reports.captions import n_of
from experiments.reports.reward_styles import REWARD_COLOURS
from experiments.reports.run_comparison import ComparedArm
from experiments.reports.run_records import finite_number
from experiments.reports.style import LINES, MECHANISM_COLOURS, PALETTE, figure_style, save_figure

Floats = NDArray[np.float64]

X_AXES = {"tokens": "training tokens", "step": "steps"}  # the first that rows have
NO_CURVES = ("time", "step", "tokens", "cell")
CURVES = {  # what is drawn of an experiment when nothing is named
    "train": ("eval_part/*/loss", "eval/*/loss", "train/loss"),
    "rlhf": ("probe/normalised_proxy_reward", "probe/ground_truth_reward", "probe/kl"),
}
UNITS = {  # the first pattern that fits names the y-axis
    "*loss": "nats per token",
    "*perplexity": "perplexity",
    "*kl": "nats per completion",
    "*normalised_proxy_reward": "std over the initial policy",
    "*reward": "reward",
}
MOST_PANELS = 6


def read_curves(run: Path) -> tuple[str, dict[str, tuple[Floats, Floats]]]:
    """The x-axis and every metric of metrics.jsonl as (x, y); damaged lines are passed over, ("", {}) without any."""
    rows: list[dict[str, Any]] = []
    try:
        lines = (run / "metrics.jsonl").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return "", {}
    for line in lines:
        try:
            row = json.loads(line)
        except (json.JSONDecodeError, RecursionError):
            continue
        if isinstance(row, dict):
            rows.append(row)
    axis = next((name for name in X_AXES if any(_is_number(row.get(name)) for row in rows)), "")
    points: dict[str, dict[float, float]] = {}
    for row in rows:
        if not axis or not _is_number(row.get(axis)):
            continue
        for name, value in row.items():
            if name not in NO_CURVES and _is_number(value):
                points.setdefault(name, {})[float(row[axis])] = float(value)
    return axis, {
        name: (np.array(sorted(found)), np.array([found[x] for x in sorted(found)]))
        for name, found in points.items()
        if len(found) > 1
    }


def draw_curves(arms: Sequence[ComparedArm], directory: Path, wanted: Sequence[str] = ()) -> Path | None:
    """Write curves.png and curves.svg; None where the arms have no curve in common. ValueError for an unknown one."""
    import matplotlib.pyplot as plt
    from matplotlib.ticker import MaxNLocator

    read = {run.directory: read_curves(run.directory) for arm in arms for run in arm.runs}
    axes_of = {axis for axis, _ in read.values()}
    if not arms or len(axes_of) != 1 or axes_of == {""}:
        if wanted:
            raise ValueError("these runs have no curves on one x-axis in their metrics.jsonl")
        return None
    x_axis = axes_of.pop()
    names = _chosen([set(curves) for _, curves in read.values()], arms[0].runs[0].experiment, wanted)
    if not names:
        return None
    columns = min(3, len(names))
    lines = -(-len(names) // columns)
    with figure_style():
        figure, axes = plt.subplots(lines, columns, figsize=(3.7 * columns, 2.9 * lines + 0.4), squeeze=False)
        for axis, name in zip(axes.flat, names, strict=False):
            for place, arm in enumerate(arms):
                x, values = _aligned([read[run.directory][1][name] for run in arm.runs])
                if not len(x):
                    continue
                colour = arm_colour(arm, arms)
                style = LINES[place // len(PALETTE) % len(LINES)]
                axis.plot(x, values.mean(axis=0), style, color=colour, label=arm.label)
                if len(values) > 1:
                    axis.fill_between(x, values.min(axis=0), values.max(axis=0), color=colour, alpha=0.15, lw=0)
            axis.set_title(name)
            axis.set_xlabel(X_AXES[x_axis])
            axis.set_ylabel(next((unit for pattern, unit in UNITS.items() if fnmatchcase(name, pattern)), ""))
            axis.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
            axis.xaxis.set_major_locator(MaxNLocator(5))
        for axis in axes.flat[len(names) :]:
            axis.set_visible(False)
        handles, labels = axes.flat[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside upper center", ncols=min(4, max(1, len(labels))))
        counts = [len(arm.runs) for arm in arms]
        band = "; band: lowest to highest seed" if max(counts) > 1 else ""
        return save_figure(figure, directory / "curves", f"{n_of(counts, 'seed')} per arm{band}")


def arm_colour(arm: ComparedArm, arms: Sequence[ComparedArm]) -> str:
    """A mechanism's or reward's own colour where it alone tells the arms apart, else the palette's next."""
    for key, colours in (("attention.mechanism", MECHANISM_COLOURS), ("reward.name", REWARD_COLOURS)):
        values = [str(item.runs[0].settings.get(key)) for item in arms]
        own = colours.get(str(arm.runs[0].settings.get(key)))
        if own and len(set(values)) == len(arms):
            return own
    return PALETTE[list(arms).index(arm) % len(PALETTE)]


def _chosen(names: Sequence[set[str]], experiment: str, wanted: Sequence[str]) -> list[str]:
    shared = sorted(set.intersection(*names))
    for name in wanted:
        if name not in shared:
            raise ValueError(f"not all runs have a curve {name}: all have {', '.join(shared) or 'none'}")
    if wanted:
        return list(wanted)
    patterns = CURVES.get(experiment, ("*",))
    return [name for pattern in patterns for name in shared if fnmatchcase(name, pattern)][:MOST_PANELS]


def _aligned(curves: Sequence[tuple[Floats, Floats]]) -> tuple[Floats, Floats]:
    """All seeds on the points of the first, as far as all reach: [points], [seeds, points]."""
    low, high = max(x[0] for x, _ in curves), min(x[-1] for x, _ in curves)
    grid = curves[0][0]
    grid = grid[(grid >= low) & (grid <= high)]
    return grid, np.array([np.interp(grid, x, y) for x, y in curves])


def _is_number(value: Any) -> bool:
    return finite_number(value) is not None
