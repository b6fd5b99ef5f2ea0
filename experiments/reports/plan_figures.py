"""The figure of `rl-exp bench mode=plan`: the ceiling on tokens per second against context."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from experiments.reports.context_panels import context_panels, label_panels, scale_panel
from experiments.reports.style import BLACK, MECHANISM_COLOURS, figure_style, save_figure

Row = dict[str, Any]

MARKERS = ("o", "s", "^", "D", "v", "P", "X")
PANEL = {"model": "{}", "device": "{}", "tensor_parallel": "tensor parallel {}", "query_length": "query length {}"}


def draw_plan(rows: Sequence[Row], directory: Path) -> Path | None:
    """Ceilings at the batch of the run (thin) and at the largest that fits (thick), a panel per placement.

    A line ends where nothing fits. None where nothing fits at all.
    """
    from matplotlib.lines import Line2D

    fitting = [row for row in rows if row.get("largest_batch")]
    if not fitting:
        return None
    varying = [name for name in PANEL if len({row[name] for row in fitting}) > 1]
    panels = list(dict.fromkeys(tuple(row[name] for name in varying) for row in fitting))
    styles: dict[str, dict[str, Any]] = {
        name: {
            "marker": MARKERS[number % len(MARKERS)],
            "markersize": 4,
            "color": MECHANISM_COLOURS.get(name.partition("-")[0], BLACK),
        }
        for number, name in enumerate(dict.fromkeys(row["mechanism"] for row in fitting))
    }
    with figure_style():
        figure, axes = context_panels(len(panels))
        for axis, panel in zip(axes.flat, panels, strict=False):
            here = [row for row in fitting if tuple(row[name] for name in varying) == panel]
            for name in styles:
                own = sorted((row for row in here if row["mechanism"] == name), key=lambda row: row["context"])
                for column, width in (
                    ("tokens_per_second_ceiling_at_largest", 1.6),
                    ("tokens_per_second_ceiling", 0.6),
                ):
                    points = [(row["context"], row[column]) for row in own if column in row]
                    if points:
                        axis.plot(*zip(*points, strict=True), linewidth=width, **styles[name])
            scale_panel(axis, (row["context"] for row in rows))
            axis.set_title(", ".join(PANEL[name].format(value) for name, value in zip(varying, panel, strict=True)))
        label_panels(axes, len(panels), "tokens per second, at most")
        batches = ", ".join(str(batch) for batch in sorted({row["batch"] for row in rows}))
        note = f"computed, not measured; thick: the largest batch that fits; thin: batch {batches}"
        figure.legend(
            handles=[Line2D([], [], label=name.upper(), **style) for name, style in styles.items()],
            loc="outside right upper",
        )
        return save_figure(figure, directory / "tokens_per_second_ceiling", note)
