"""Panels of throughput against context, both logarithmic: the frame of the decode figures."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def context_panels(count: int) -> tuple[Figure, Any]:
    """A figure with room for `count` panels and a legend beside them, and its array of axes; both scales are shared."""
    import matplotlib.pyplot as plt

    columns = min(count, 2 if count in (2, 4) else 3)
    lines = -(-count // columns)
    return plt.subplots(
        lines, columns, figsize=(3.6 * columns + 1.3, 2.9 * lines), squeeze=False, sharex=True, sharey=True
    )


def scale_panel(axis: Axes, contexts: Iterable[int]) -> None:
    """Logarithmic scales, and a tick for every context. Called when the lines are drawn: ticks widen the view."""
    axis.set_xscale("log", base=2)
    axis.set_yscale("log")
    ticks = sorted(set(contexts))
    axis.set_xticks(ticks, [_short(context) for context in ticks])
    axis.minorticks_off()


def label_panels(axes: Any, count: int, y_label: str) -> None:
    """Hide the axes that hold no panel, and name the outer ones."""
    for axis in axes.flat[count:]:
        axis.set_visible(False)
    for axis in axes[-1]:
        axis.set_xlabel("context length (tokens)")
    for axis in axes[:, 0]:
        axis.set_ylabel(y_label)


def _short(context: int) -> str:
    """`512`, `4K`, `128K`: long numbers of neighbouring panels would touch."""
    return f"{context // 1024}K" if context >= 1024 and context % 1024 == 0 else f"{context:,}"
