"""One look for every figure: colour-blind-safe (Okabe and Ito), and the same colour for the same thing everywhere."""

from __future__ import annotations

from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from experiments.reports.captions import add_caption

if TYPE_CHECKING:
    from matplotlib.figure import Figure

BLACK, DARK_GREY, GREY = "#000000", "#4d4d4d", "#7f7f7f"
ORANGE, SKY_BLUE, GREEN, YELLOW = "#E69F00", "#56B4E9", "#009E73", "#F0E442"
BLUE, VERMILION, PURPLE = "#0072B2", "#D55E00", "#CC79A7"
LINES: tuple[Literal["-", "--", ":", "-."], ...] = ("-", "--", ":", "-.")
PALETTE = (BLUE, VERMILION, GREEN, PURPLE, ORANGE, SKY_BLUE, BLACK)

MECHANISM_COLOURS = {
    "mha": BLACK,
    "mqa": GREY,
    "gqa": BLUE,
    "gta": VERMILION,
    "mla": GREEN,
    "gla": PURPLE,
    "tied_key_value": ORANGE,
}

EFFECT_COLOURS = {"harmful": VERMILION, "benign": GREY, "beneficial": GREEN}


def figure_style() -> AbstractContextManager[None]:
    """The context in which every figure is drawn; it never opens a window."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    from cycler import cycler

    return plt.rc_context(
        {
            "figure.dpi": 120,
            "figure.constrained_layout.use": True,
            "font.size": 9,
            "axes.grid": True,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.prop_cycle": cycler(color=PALETTE),
            "grid.alpha": 0.3,
            "legend.frameon": False,
            "lines.linewidth": 1.6,
            "svg.hashsalt": "rl-exp",  # the same figure gives the same file
        }
    )


def save_figure(figure: Figure, path: Path, note: str = "") -> Path:
    """Write `path`.png and `path`.svg, close the figure, and return the PNG's path.

    `note` says what it rests on (`n = 3 seeds; band: ...`): it stands under the figure, and in captions.json beside it.
    """
    import matplotlib.pyplot as plt

    if note:
        figure.supxlabel(note, fontsize=8)
        add_caption(path, note)
    path.parent.mkdir(parents=True, exist_ok=True)
    for suffix in (".svg", ".png"):
        figure.savefig(
            path.with_suffix(suffix),
            bbox_inches="tight",
            metadata={"Date": None} if suffix == ".svg" else None,
        )
    plt.close(figure)
    return path.with_suffix(".png")
