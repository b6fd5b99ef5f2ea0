"""The figures of a sweep of `rl-exp rlhf`: curves over steps and KL divergence, and increases against properties."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from experiments.reports.captions import n_of
from experiments.reports.reward_styles import RewardStyles
from experiments.reports.rlhf_increases import Outcome, Point, increases, points_of
from experiments.reports.rlhf_runs import Arm, Setting
from experiments.reports.style import GREY, figure_style, save_figure
from experiments.reward_metrics.properties import MAIN_PROPERTIES, label_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Floats = NDArray[np.float64]

MOST_SETTINGS = 6  # rows of one figure
AXIS = {Outcome.proxy: "proxy reward increase (std)", Outcome.ground_truth: "ground truth reward increase"}


def draw_all(settings: Sequence[Setting], correlations: Sequence[dict[str, Any]], directory: Path) -> list[Path]:
    """Every figure that these runs allow."""
    styles = RewardStyles(arm.label for setting in settings for arm in setting.arms)
    shown = list(settings)[:MOST_SETTINGS]
    figures = [draw_training_curves(shown, styles, directory), draw_over_optimisation(shown, styles, directory)]
    for name, file in (("variance", "increase_against_variance"), ("on_policy_accuracy", "increase_against_accuracy")):
        if any(np.isfinite([arm.property_value(name) for arm in setting.arms]).sum() > 2 for setting in shown):
            figures.append(draw_increase_against(name, shown, correlations, styles, directory / file))
    correlations = [row for row in correlations if math.isfinite(row["coefficient"])]
    if any(row["setting"] == setting.label for row in correlations for setting in shown):
        figures.append(draw_correlations(shown, correlations, directory))
    return figures


def draw_training_curves(settings: Sequence[Setting], styles: RewardStyles, directory: Path) -> Path:
    """Proxy and ground truth on the probe prompts over steps; mean over seeds, band from the lowest to the highest."""

    def curve(axis: Axes, arm: Arm, outcome: Outcome) -> None:
        steps, values = _by_seed(arm, outcome)
        line = axis.plot(steps, values.mean(axis=0), label=arm.label, **styles.of(arm.label))
        if len(values) > 1:
            colour = line[0].get_color()
            axis.fill_between(steps, values.min(axis=0), values.max(axis=0), alpha=0.12, color=colour, lw=0)

    note = _seeds(settings, "band: lowest to highest seed")
    return _draw_curves(settings, curve, "policy-gradient steps", directory / "training_curves", note)


def draw_over_optimisation(settings: Sequence[Setting], styles: RewardStyles, directory: Path) -> Path:
    """Proxy and ground truth against the root of the KL divergence, as Gao, Schulman and Hilton draw them."""

    def curve(axis: Axes, arm: Arm, outcome: Outcome) -> None:
        (_, values), (_, kl), style = _by_seed(arm, outcome), _by_seed(arm, None), styles.of(arm.label)
        axis.plot(_root(kl.mean(axis=0)), values.mean(axis=0), label=arm.label, **style)
        for one_kl, one in zip(kl, values, strict=True):
            axis.plot(_root(one_kl), one, color=style["color"], lw=0.6, alpha=0.35)

    x_label, note = "square root of KL divergence (√nats)", _seeds(settings, "thin: single seeds")
    return _draw_curves(settings, curve, x_label, directory / "over_optimisation", note)


def _draw_curves(
    settings: Sequence[Setting], curve: Callable[[Axes, Arm, Outcome], None], x_label: str, path: Path, note: str
) -> Path:
    """A row of panels per setting, one for each outcome, with the `curve` of every arm."""
    with figure_style():
        figure, axes = _grid(settings, 2)
        for row, setting in zip(axes, settings, strict=True):
            for axis, outcome in zip(row, Outcome, strict=True):
                for arm in setting.arms:
                    curve(axis, arm, outcome)
                axis.axhline(0, color=GREY, lw=0.8)
                axis.set(xlabel=x_label, ylabel=AXIS[outcome])
            _name_setting(row, setting)
        _legend(figure, axes)
        return save_figure(figure, path, note)


def draw_increase_against(
    name: str,
    settings: Sequence[Setting],
    correlations: Sequence[dict[str, Any]],
    styles: RewardStyles,
    path: Path,
) -> Path:
    """Early increases of both, and the ground truth's at the end, against a property; arms are points."""
    with figure_style():
        figure, axes = _grid(settings, 3)
        for row, setting in zip(axes, settings, strict=True):
            steps = [point for point in points_of(setting) if not point.at_kl]
            panels = ((Outcome.proxy, steps[0]), (Outcome.ground_truth, steps[0]), (Outcome.ground_truth, steps[-1]))
            for axis, (outcome, point) in zip(row, panels, strict=True):
                for arm in setting.arms:
                    _arm_point(axis, arm, name, outcome, point, styles)
                axis.axhline(0, color=GREY, lw=0.8)
                axis.set_xlabel(f"{label_of(name)} before training")
                axis.set_ylabel(AXIS[outcome])
                axis.set_title(f"{point.label}{_coefficient(correlations, setting, name, outcome, point)}", fontsize=8)
            _name_setting(row, setting)
        _legend(figure, axes)
        hollow = "hollow: the ground truth as reward, not part of r"
        return save_figure(figure, path, _seeds(settings, f"bars: lowest to highest seed; {hollow}"))


def draw_correlations(settings: Sequence[Setting], correlations: Sequence[dict[str, Any]], directory: Path) -> Path:
    """Pearson's r of every property with every increase; a frame where the permutation p is at most .05.

    Of several settings the main properties, two settings beside each other.
    """
    import matplotlib.pyplot as plt

    settings = [s for s in settings if any(row["setting"] == s.label for row in correlations)]
    known = dict.fromkeys(row["property"] for row in correlations)
    names = [name for name in MAIN_PROPERTIES if name in known]
    if len(settings) == 1:
        names += [name for name in known if name not in MAIN_PROPERTIES]
    columns = min(2, len(settings))
    lines = -(-len(settings) // columns)
    most = max(len(points_of(setting)) for setting in settings) * len(Outcome)
    with figure_style():
        size = (2.4 + 0.5 * most * columns, (1.3 + 0.26 * len(names)) * lines + 0.3)
        figure, axes = plt.subplots(lines, columns, figsize=size, squeeze=False, sharey=True)
        for axis, setting in zip(axes.flat, settings, strict=False):
            rows = [row for row in correlations if row["setting"] == setting.label and row["method"] == "pearson"]
            image = _correlation_panel(axis, names, setting, rows)
        for axis in axes.flat[len(settings) :]:
            axis.set_visible(False)
        figure.colorbar(image, ax=axes.ravel().tolist(), shrink=0.7 / lines, label="Pearson's r")
        n = n_of((row["reward_models"] for row in correlations), "reward model")
        note = f"{n}; framed: permutation p at most .05, not corrected"
        return save_figure(figure, directory / "correlations", note)


def _correlation_panel(axis: Axes, names: Sequence[str], setting: Setting, rows: Sequence[dict[str, Any]]) -> Any:
    """Properties against increases, those that some reward model has; returns the image, for its scale of colours."""
    from matplotlib.patches import Rectangle

    found = {(row["property"], row["increase_of"], row["point"]): row for row in rows}
    points = [point for point in points_of(setting) if any(row["point"] == point.name for row in rows)]
    heads = [(outcome, point) for outcome in Outcome for point in points]
    matrix = np.full((len(names), len(heads)), math.nan)
    for i, name in enumerate(names):
        for j, (outcome, point) in enumerate(heads):
            cell = found.get((name, outcome.value, point.name))
            if cell is None:
                continue
            matrix[i, j] = cell["coefficient"]
            colour = "white" if abs(matrix[i, j]) > 0.65 else "black"
            axis.text(j, i, _short(matrix[i, j]), ha="center", va="center", fontsize=7, color=colour)
            if cell["permutation_p"] <= 0.05:
                axis.add_patch(Rectangle((j - 0.46, i - 0.46), 0.92, 0.92, fill=False, lw=1.2, ec="black"))
    image = axis.imshow(matrix, cmap="RdBu_r", vmin=-1, vmax=1, aspect="auto")
    axis.grid(False)
    axis.set_xticks(range(len(heads)), [point.label for _, point in heads], rotation=60, ha="right", fontsize=7)
    axis.set_yticks(range(len(names)), [label_of(name) for name in names], fontsize=8)
    axis.axvline(len(points) - 0.5, color="white", lw=3)
    for k, outcome in enumerate(Outcome):
        middle = (2 * k + 1) / (2 * len(Outcome))
        axis.text(middle, 1.01, outcome.words, ha="center", va="bottom", fontsize=8, transform=axis.transAxes)
    if setting.label:
        axis.set_title(setting.label, fontsize=8, pad=16)
    return image


# Parts of figures -------------------------------------------------------------------------------------------------


def _grid(settings: Sequence[Setting], columns: int) -> tuple[Figure, Any]:
    import matplotlib.pyplot as plt

    size = (3.5 * columns, 2.9 * len(settings) + 0.2)
    return plt.subplots(len(settings), columns, figsize=size, squeeze=False)


def _name_setting(row: Sequence[Axes], setting: Setting) -> None:
    """Above the row. A long name may reach over several panels, so only its height takes part in the layout."""
    if setting.label:
        title = row[0].title
        title.set_text(f"\n{title.get_text() or ' '}")
        name = row[0].annotate(
            setting.label, (0, 1), xytext=(0, 16), xycoords="axes fraction", textcoords="offset points", fontsize=9,
            fontweight="bold", annotation_clip=False,
        )  # fmt: skip
        name.set_in_layout(False)


def _legend(figure: Figure, axes: Any) -> None:
    """One for all panels, outside."""
    entries: dict[str, Any] = {}
    for axis in axes.flat:
        for handle, label in zip(*axis.get_legend_handles_labels(), strict=True):
            entries.setdefault(label, handle)
    figure.legend(entries.values(), entries.keys(), loc="outside right upper")


def _by_seed(arm: Arm, outcome: Outcome | None) -> tuple[Floats, Floats]:
    """Steps at which all runs evaluated, [T], and increases (or the KL, for None), [S, T]."""
    steps = sorted(set.intersection(*(set(run.probe.steps.tolist()) for run in arm.runs)))
    rows = []
    for run in arm.runs:
        curve = run.probe
        values = curve.kl if outcome is None else curve.proxy if outcome is Outcome.proxy else curve.ground_truth
        values = values if outcome is None else values - values[0]
        rows.append(values[np.searchsorted(curve.steps, steps)])
    return np.array(steps), np.array(rows)


def _root(kl: Floats) -> Floats:
    """Estimates of small divergences may be below 0."""
    return np.asarray(np.sqrt(np.maximum(kl, 0)))


def _arm_point(axis: Axes, arm: Arm, name: str, outcome: Outcome, point: Point, styles: RewardStyles) -> None:
    values, x = increases(arm, outcome, point), arm.property_value(name)
    if not np.isfinite(values).all() or math.isnan(x):
        return
    style = styles.of(arm.label) | {"linestyle": "none", "markersize": 6, "linewidth": 0.9}
    if arm.is_ground_truth:
        style["markerfacecolor"] = "white"
    mean = values.mean()
    reach = [[mean - values.min()], [values.max() - mean]]
    axis.errorbar(x, mean, yerr=reach, label=arm.label, **style)


def _coefficient(
    correlations: Sequence[dict[str, Any]], setting: Setting, name: str, outcome: Outcome, point: Point
) -> str:
    wanted = (setting.label, name, outcome.value, point.name, "pearson")
    for row in correlations:
        if (row["setting"], row["property"], row["increase_of"], row["point"], row["method"]) == wanted:
            interval = "" if math.isnan(row["low"]) else f" [{_short(row['low'])}, {_short(row['high'])}]"
            return f": r = {_short(row['coefficient'])}{interval}"
    return ""


def _short(value: float) -> str:
    """-.52: a coefficient without its zero."""
    return f"{value:+.2f}".replace("0.", ".", 1)


def _seeds(settings: Sequence[Setting], bands: str) -> str:
    numbers = [len(arm.runs) for setting in settings for arm in setting.arms]
    return n_of(numbers, "seed") + (f"; {bands}" if max(numbers) > 1 else "")
