"""The same thing has the same colour in every figure."""

from __future__ import annotations

import pytest

from conf.reward_config import REWARD_DIRECTORY, RewardFamily, named_reward
from experiments.reports.reward_styles import REWARDS, RewardStyles

NOT_MADE_HERE = {RewardFamily.hub}


def test_a_reward_has_the_same_colour_whatever_it_is_drawn_beside():
    labels = list(REWARDS)
    alone = {label: RewardStyles([label]).of(label) for label in labels}
    together = RewardStyles(reversed(labels))
    assert all(together.of(label) == alone[label] for label in labels)


def test_every_reward_that_is_made_here_has_a_colour_of_its_own():
    names = {path.stem for path in REWARD_DIRECTORY.glob("*.yaml")} - {"python"}  # a function of the user's own
    made_here = {name for name in names if named_reward(name).family not in NOT_MADE_HERE}
    without = made_here - set(REWARDS)
    assert not without, f"give {', '.join(sorted(without))} a colour in experiments/reports/reward_styles.py"
    looks = [(colour, line) for colour, _, line in (REWARDS[name] for name in made_here)]
    assert len(set(looks)) == len(looks), "two rewards cannot be told apart"


@pytest.mark.parametrize("labels", [["noisy_75 share=0.1", "noisy_75 share=0.2"], ["mine", "yours"]])
def test_values_of_one_knob_and_foreign_rewards_are_told_apart(labels):
    first, second = (RewardStyles(labels).of(label) for label in labels)
    assert (first["color"], first["linestyle"], first["marker"]) != (
        second["color"],
        second["linestyle"],
        second["marker"],
    )
