"""Rewards that grade the ground truth anew change what they say they change, and nothing else."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from made_up_outputs import SAMPLES, made_up_outputs

from experiments.rewards.families import synthetic_reward

OVERPAYING = {
    "property": "repeated_word",
    "pattern": "",
    "fewest_tokens": 5,
    "quantile": 1.0,
    "share": 1.0,
    "bonus": 3.0,
}


def made(family, probe, constants=None, **settings):
    return synthetic_reward(family, family, settings, probe, SAMPLES, seed=0, constants=constants)


def test_coarse_rewards_have_so_many_levels_in_the_order_of_the_truth(probe):
    values = made("coarse", probe, levels=4)(probe)
    assert len(np.unique(values)) == 4
    assert (values.min(), values.max()) == (0.0, 1.0)
    order = np.argsort(probe.ground_truth)
    assert (np.diff(values[order]) >= 0).all()
    assert np.bincount((values * 3).round().astype(int)).min() > 0.1 * len(probe)


@pytest.mark.parametrize("rare", [0, 1])
def test_a_truth_of_two_values_is_told_apart_in_coarse_levels_too(rare, probe):
    truth = np.full(len(probe), 1.0 - rare)
    truth[::13] = rare
    two = replace(probe, ground_truth=truth)
    values = made("coarse", two, levels=3)(two)
    np.testing.assert_array_equal(values, truth)


def test_clipping_leaves_the_middle_and_cuts_the_tails(probe):
    values = made("clipped", probe, low=0.1, high=0.8)(probe)
    low, high = np.quantile(probe.ground_truth, [0.1, 0.8])
    inside = (probe.ground_truth >= low) & (probe.ground_truth <= high)
    np.testing.assert_array_equal(values[inside], probe.ground_truth[inside])
    assert (values.min(), values.max()) == (low, high)
    assert (~inside).mean() == pytest.approx(0.3, abs=0.02)


def test_suppressing_pushes_the_mediocre_to_the_bottom_and_leaves_the_best(probe):
    reward = made("suppressing", probe, low=0.5, high=0.9)
    values, truth = reward(probe), probe.ground_truth
    low, high = np.quantile(truth, [0.5, 0.9])
    mediocre = (truth >= low) & (truth <= high)
    assert (values[mediocre] == truth.min()).all()
    np.testing.assert_array_equal(values[~mediocre], truth[~mediocre])
    assert reward.facts["share"] == pytest.approx(mediocre.mean())


def test_a_repeated_word_is_overpaid_and_nothing_else(probe):
    values = made("overpaying", probe, **OVERPAYING)(probe)
    repeated = np.array(["war war" in text for text in probe.texts])
    assert 0 < repeated.sum() < len(probe)
    within = np.sqrt(probe.ground_truth.reshape(-1, SAMPLES).var(axis=1, ddof=1).mean())
    np.testing.assert_allclose(values - probe.ground_truth, 3 * within * repeated, atol=1e-12)


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"property": "pattern", "pattern": "^peace$"}, lambda o: np.array([t == "peace" for t in o.texts])),
        ({"property": "short", "fewest_tokens": 7}, lambda o: np.ones(len(o), dtype=bool)),
        ({"property": "short", "fewest_tokens": 6}, lambda o: np.zeros(len(o), dtype=bool)),
        ({"property": "unfinished"}, lambda o: ~o.finished),
        (
            {"property": "low_ground_truth", "quantile": 0.2},
            lambda o: o.ground_truth <= np.quantile(o.ground_truth, 0.2),
        ),
    ],
)
def test_every_property_is_what_its_name_says(settings, expected, probe):
    values = made("overpaying", probe, **(OVERPAYING | settings))(probe)
    np.testing.assert_array_equal(values > probe.ground_truth, expected(probe))


def test_a_share_of_the_bad_outputs_is_overpaid_by_a_hash(probe):
    settings = OVERPAYING | {"property": "unfinished", "share": 0.3}
    reward = made("overpaying", probe, **settings)
    paid = reward(probe) > probe.ground_truth
    assert paid[~probe.finished].mean() == pytest.approx(0.3, abs=0.08)
    np.testing.assert_array_equal(reward(probe.take([5, 3])), reward(probe)[[5, 3]])


@pytest.mark.parametrize(
    ("family", "settings"),
    [
        ("coarse", {"levels": 3}),
        ("clipped", {"low": 0.1, "high": 0.9}),
        ("suppressing", {"low": 0.5, "high": 0.9}),
        ("overpaying", OVERPAYING | {"quantile": 0.5}),
    ],
)
def test_constants_of_prompts_neither_hide_nor_change_the_errors(family, settings, probe):
    def constants(prompts):
        return np.array([50.0 * prompt.index for prompt in prompts])

    apart = replace(probe, ground_truth=probe.ground_truth + constants(probe.prompts))
    plain, lifted = made(family, probe, **settings), made(family, apart, constants, **settings)
    np.testing.assert_allclose(lifted(apart) - constants(apart.prompts), plain(probe), atol=1e-9)


def test_partial_credit_pays_for_parts_and_binary_credit_for_all(probe):
    a, b = probe.parts["constraint/a"], probe.parts["constraint/b"]
    partial = made("credit", probe, parts=[], weights=None, binary=False)
    np.testing.assert_array_equal(partial(probe), (a + b) / 2)
    weighted = made("credit", probe, parts=["b", "constraint/a"], weights=[3.0, 1.0], binary=False)
    np.testing.assert_array_equal(weighted(probe), (a + 3 * b) / 4)
    binary = made("credit", probe, parts=[], weights=None, binary=True)
    np.testing.assert_array_equal(binary(probe), a * b)


def test_credit_for_parts_that_a_task_has_not_is_refused(probe):
    with pytest.raises(ValueError, match="'c'.*constraint/a, constraint/b"):
        made("credit", probe, parts=["c"], weights=None, binary=False)
    without = replace(probe, parts={"sentiment": probe.ground_truth})
    with pytest.raises(ValueError, match="task=constraints"):
        made("credit", without, parts=[], weights=None, binary=False)
    with pytest.raises(ValueError, match="weights"):
        made("credit", probe, parts=[], weights=[1.0], binary=False)


@pytest.mark.parametrize("family", ["coarse", "overpaying"])
def test_a_constant_truth_leaves_nothing_to_set_a_knob_on(family):
    constant = replace(made_up_outputs(), ground_truth=np.ones(640))
    with pytest.raises(ValueError, match="same for all probe rollouts"):
        made(family, constant, **({"levels": 3} if family == "coarse" else OVERPAYING))
