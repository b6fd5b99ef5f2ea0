"""The same colour for the same reward in every figure: a family has a colour, its members shades or markers."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from experiments.reports.style import BLACK, GREEN, GREY, LINES, ORANGE, PALETTE, PURPLE, SKY_BLUE, VERMILION

# The rewards of conf/reward/ that are made here: colour, marker, line. Shades get lighter as a knob goes down.
REWARDS: dict[str, tuple[str, str, str]] = {
    "ground_truth": (BLACK, "o", "-"),
    "perfect_low_variance": (GREY, "s", "--"),
    # reward models by the share of on-policy pairs that they were trained on: blue
    "on_policy_100": ("#08306b", "o", "-"),
    "on_policy_75": ("#0072b2", "^", "-"),
    "on_policy_50": ("#3b93cf", "D", "-"),
    "on_policy_25": ("#74b3e0", "v", "-"),
    "on_policy_0": ("#a5cdec", "P", "-"),
    # reward models trained badly: orange
    "few_pairs": (ORANGE, "s", "-"),
    "label_noise": (ORANGE, "X", "--"),
    "small_reward_model": (ORANGE, "^", ":"),
    # the ground truth with noise: red
    "noisy_90": ("#f2a07b", "o", "-"),
    "noisy_75": (VERMILION, "^", "-"),
    "noisy_60": ("#8a3c00", "D", "-"),
    # the ground truth in steps, or cut off: green
    "coarse": (GREEN, "D", "-"),
    "clipped": (GREEN, "v", "--"),
    "overpaying": (PURPLE, "P", "-"),
    "suppressing": ("#7a5195", "X", "--"),
    "ensemble": (SKY_BLUE, "D", "--"),
    "binary_credit": ("#117733", "o", "-"),
    "partial_credit": ("#882255", "s", "-"),
    # the theory's one erroneous reward
    "proxy": (VERMILION, "o", "-"),
}
REWARD_COLOURS = {name: colour for name, (colour, _, _) in REWARDS.items()}
WIDE = ("ground_truth", "perfect_low_variance")  # what every other reward is held against
MARKERS = ("o", "s", "^", "D", "v", "P", "X")


class RewardStyles:
    """Styles by the labels of rewards, `name` or `name knob=value`; rewards of others take the palette in order."""

    def __init__(self, labels: Iterable[str]) -> None:
        unique = list(dict.fromkeys(labels))
        foreign = [label for label in unique if _name(label) not in REWARDS]
        self._foreign = {label: place for place, label in enumerate(foreign)}
        self._turns: dict[str, int] = {}  # of several values of one reward's knob, each has a line of its own
        counts: dict[str, int] = {}
        for label in unique:
            self._turns[label] = counts.get(_name(label), 0)
            counts[_name(label)] = self._turns[label] + 1

    def of(self, label: str) -> dict[str, Any]:
        """Keyword arguments of `plot`."""
        if label in self._foreign:
            place = self._foreign[label]
            colour, marker = PALETTE[place % (len(PALETTE) - 1)], MARKERS[place % len(MARKERS)]  # black is the truth's
            line: str = LINES[place // (len(PALETTE) - 1) % len(LINES)]
        else:
            colour, marker, line = REWARDS[_name(label)]
            turn = self._turns.get(label, 0)
            if turn:
                marker = MARKERS[(MARKERS.index(marker) + turn) % len(MARKERS)]
                line = LINES[(LINES.index(line) + turn) % len(LINES)]
        width = {"linewidth": 2.2} if label in WIDE else {}
        return {"color": colour, "marker": marker, "linestyle": line, "markersize": 4, **width}


def _name(label: str) -> str:
    return label.partition(" ")[0]
