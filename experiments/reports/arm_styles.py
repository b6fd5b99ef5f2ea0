"""The same colour, marker and line for the same reward model in every figure of a run or sweep."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from experiments.reports.style import BLACK, GREY, PALETTE

LANDMARKS: dict[str, dict[str, Any]] = {
    "ground_truth": {"color": BLACK, "linestyle": "-", "linewidth": 2.2, "marker": "o"},
    "perfect_low_variance": {"color": GREY, "linestyle": "--", "linewidth": 2.2, "marker": "s"},
}
COLOURS = PALETTE[:-1]  # black is the ground truth's
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
LINES = ("-", "--", ":")


class ArmStyles:
    """Styles by the labels of reward models, in the order in which they are given."""

    def __init__(self, labels: Iterable[str]) -> None:
        others = [label for label in dict.fromkeys(labels) if label not in LANDMARKS]
        self._place = {label: place for place, label in enumerate(others)}

    def of(self, label: str) -> dict[str, Any]:
        """Keyword arguments of `plot`."""
        if label in LANDMARKS:
            return {"markersize": 4, **LANDMARKS[label]}
        place = self._place[label]
        turn = place // len(COLOURS)
        return {
            "color": COLOURS[place % len(COLOURS)],
            "marker": MARKERS[(place % len(COLOURS) + 3 * turn) % len(MARKERS)],
            "linestyle": LINES[turn % len(LINES)],
            "markersize": 4,
        }
