"""The eight accuracies of the imperfect-rewards paper: by hand, by property, and at the edges."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from experiments.reward_metrics import harm_aware as ha


def draws(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


# Two prompts, two pairs each. Right: pair 1 of prompt 1. Tied: pair 2 of prompt 1. Wrong: both of prompt 2, of which
# the second has a rejected output (1.0) below the prompt's mean proxy reward (1.5).
CHOSEN = torch.tensor([[2.0, 1.0], [0.0, 0.5]], dtype=torch.float64)
REJECTED = torch.tensor([[1.0, 1.0], [3.0, 1.0]], dtype=torch.float64)
MEAN = torch.tensor([0.0, 1.5], dtype=torch.float64)
# Pair probabilities 1/2, 1/8, 1/8, 1/4.
CHOSEN_LOG = torch.tensor([[0.5, 0.5], [0.25, 0.5]], dtype=torch.float64).log()
REJECTED_LOG = torch.tensor([[1.0, 0.25], [0.5, 0.5]], dtype=torch.float64).log()


def test_pairwise_metrics_by_hand():
    assert ha.pairwise_accuracy(CHOSEN, REJECTED).item() == pytest.approx(1 / 4)
    assert ha.pairwise_harm_aware_accuracy(CHOSEN, REJECTED, MEAN).item() == pytest.approx(2 / 4)
    logs = (CHOSEN_LOG, REJECTED_LOG)
    assert ha.pairwise_weighted_accuracy(CHOSEN, REJECTED, *logs).item() == pytest.approx(1 / 2)
    assert ha.pairwise_weighted_harm_aware_accuracy(CHOSEN, REJECTED, *logs, MEAN).item() == pytest.approx(3 / 4)


def test_one_vs_many_metrics_by_hand():
    """Prompt 1: chosen 2 > 1 and 0. Prompt 2: chosen 1 < 1.2, but all are below the mean 1.5. Prompt 3: 1 < 2."""
    chosen = torch.tensor([2.0, 1.0, 1.0], dtype=torch.float64)
    rejected = torch.tensor([[1.0, 0.0], [1.2, 0.0], [2.0, 0.0]], dtype=torch.float64)
    mean = torch.tensor([0.0, 1.5, 1.5], dtype=torch.float64)
    chosen_log = torch.tensor([0.5, 0.5, 1.0], dtype=torch.float64).log()
    rejected_log = torch.tensor([[0.5, 0.5], [0.5, 1.0], [1.0, 0.5]], dtype=torch.float64).log()  # 1/8, 1/4, 1/2
    assert ha.one_vs_many_accuracy(chosen, rejected).item() == pytest.approx(1 / 3)
    assert ha.one_vs_many_harm_aware_accuracy(chosen, rejected, mean).item() == pytest.approx(2 / 3)
    logs = (chosen_log, rejected_log)
    assert ha.one_vs_many_weighted_accuracy(chosen, rejected, *logs).item() == pytest.approx(1 / 7)
    assert ha.one_vs_many_weighted_harm_aware_accuracy(chosen, rejected, *logs, mean).item() == pytest.approx(3 / 7)


def test_a_tie_is_an_error_and_a_constant_proxy_scores_zero():
    constant = torch.full((3, 4), 0.7, dtype=torch.float64)
    mean = torch.full((3,), 0.7, dtype=torch.float64)
    assert ha.pairwise_accuracy(constant, constant).item() == 0
    assert ha.pairwise_harm_aware_accuracy(constant, constant, mean).item() == 0


def test_one_huge_reward_buys_harm_aware_accuracy():
    """The known way to game HAcc: raise the mean with one sample, and every misranking below it is forgiven."""
    chosen, rejected = torch.zeros(1, 5, dtype=torch.float64), torch.ones(1, 5, dtype=torch.float64)
    honest, inflated = torch.tensor([0.5]).double(), torch.tensor([100.0]).double()
    assert ha.pairwise_harm_aware_accuracy(chosen, rejected, honest).item() == 0
    assert ha.pairwise_harm_aware_accuracy(chosen, rejected, inflated).item() == 1


@given(st.integers(0, 10**6))
@settings(max_examples=60, deadline=None)
def test_harm_aware_is_never_below_plain_and_all_are_shares(seed):
    chosen, rejected, mean = draws(seed, 2, 4, 3), draws(seed + 1, 2, 4, 3), draws(seed + 2, 2, 4)
    logs = (50 * draws(seed + 3, 2, 4, 3), 50 * draws(seed + 4, 2, 4, 3))
    many = (chosen[..., 0], rejected, logs[0][..., 0], logs[1])
    pairs = [
        (ha.pairwise_accuracy(chosen, rejected), ha.pairwise_harm_aware_accuracy(chosen, rejected, mean)),
        (
            ha.pairwise_weighted_accuracy(chosen, rejected, *logs),
            ha.pairwise_weighted_harm_aware_accuracy(chosen, rejected, *logs, mean),
        ),
        (ha.one_vs_many_accuracy(*many[:2]), ha.one_vs_many_harm_aware_accuracy(*many[:2], mean)),
        (ha.one_vs_many_weighted_accuracy(*many), ha.one_vs_many_weighted_harm_aware_accuracy(*many, mean)),
    ]
    for plain, harm_aware in pairs:
        assert plain.shape == (2,)
        assert bool((plain >= 0).all())
        assert bool((harm_aware >= plain - 1e-12).all())
        assert bool((harm_aware <= 1 + 1e-12).all())


@given(st.integers(0, 10**6), st.floats(0.01, 100), st.floats(-100, 100), st.floats(-5000, 5000))
@settings(max_examples=60, deadline=None)
def test_invariances_that_the_docstrings_state(seed, factor, shift, log_shift):
    chosen, rejected, mean = draws(seed, 4, 3), draws(seed + 1, 4, 3), draws(seed + 2, 4)
    logs = (draws(seed + 3, 4, 3), draws(seed + 4, 4, 3))
    value = ha.pairwise_weighted_harm_aware_accuracy(chosen, rejected, *logs, mean)
    moved = ha.pairwise_weighted_harm_aware_accuracy(
        factor * chosen + shift, factor * rejected + shift, logs[0] + log_shift, logs[1], factor * mean + shift
    )
    assert moved.item() == pytest.approx(value.item(), abs=1e-9)
    generator = torch.Generator().manual_seed(seed)
    rows, columns = torch.randperm(4, generator=generator), torch.randperm(3, generator=generator)
    shuffled = [tensor[rows][:, columns] for tensor in (chosen, rejected, *logs)]
    permuted = ha.pairwise_weighted_harm_aware_accuracy(*shuffled, mean[rows])
    assert permuted.item() == pytest.approx(value.item())
    cubed = ha.pairwise_accuracy(chosen**3, rejected**3)
    assert cubed.item() == ha.pairwise_accuracy(chosen, rejected).item()


def test_equal_log_probabilities_give_the_unweighted_metrics():
    chosen, rejected, mean = draws(0, 4, 3), draws(1, 4, 3), draws(2, 4)
    same = torch.full((4, 3), -300.0, dtype=torch.float64)
    weighted = ha.pairwise_weighted_harm_aware_accuracy(chosen, rejected, same, same, mean)
    assert weighted.item() == pytest.approx(ha.pairwise_harm_aware_accuracy(chosen, rejected, mean).item())


def test_very_negative_log_probabilities_stay_finite_and_length_normalisation_spreads_the_weight():
    """At hundreds of nats per output one pair decides everything: effective sample size 1. Per token it does not."""
    chosen_log, rejected_log = -3000 + 300 * draws(0, 20, 10), -3000 + 300 * draws(1, 20, 10)
    lengths = torch.full((20, 10), 500.0, dtype=torch.float64)
    raw = ha.pair_weights(chosen_log, rejected_log)
    per_token = ha.pair_weights(ha.length_normalised(chosen_log, lengths), ha.length_normalised(rejected_log, lengths))
    assert raw.sum().item() == pytest.approx(1)
    assert ha.effective_sample_size(raw).item() == pytest.approx(1, abs=0.1)
    assert ha.effective_sample_size(per_token).item() > 50
    equal = ha.pair_weights(torch.zeros(20, 10), torch.zeros(20, 10))
    assert ha.effective_sample_size(equal).item() == pytest.approx(200)


def test_an_impossible_output_has_no_weight_and_empty_outputs_count_one_token():
    log = torch.tensor([[-1.0, -math.inf]], dtype=torch.float64)
    assert ha.pair_weights(log, torch.zeros(1, 2)).tolist() == [[1.0, 0.0]]
    assert ha.length_normalised(torch.tensor([-3.0]), torch.tensor([0.0])).item() == -3.0


def test_ragged_negatives_ignore_their_padding():
    chosen, rejected = draws(0, 3), draws(1, 3, 4)
    logs, mean = (draws(2, 3), draws(3, 3, 4)), draws(4, 3)
    mask = torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0], [1, 0, 0, 0]]).bool()
    reference = [
        ha.one_vs_many_weighted_harm_aware_accuracy(
            chosen, torch.where(mask, rejected, filler), logs[0], torch.where(mask, logs[1], filler), mean, mask
        ).item()
        for filler in (0.0, 1e6, -1e6)
    ]
    assert reference[0] == reference[1] == reference[2]
    plain = torch.stack([rejected[0].max(), rejected[1, :2].max(), rejected[2, 0]])
    expected = (chosen > plain).double().mean().item()
    assert ha.one_vs_many_accuracy(chosen, rejected, mask).item() == pytest.approx(expected)


def test_pairs_of_samples_put_the_better_one_first_and_drop_ties():
    truth = torch.tensor([[1.0, 3.0, 3.0]])
    pairs = ha.pairs_of_samples(truth)
    chosen, rejected = pairs.of(truth)
    assert chosen.tolist() == [[3.0, 3.0, 3.0]]
    assert rejected[pairs.mask].tolist() == [1.0, 1.0]
    assert pairs.mask.tolist() == [[True, True, False]]
    models = torch.stack([truth, -truth])  # [models, prompts, samples] against one ground truth
    accuracy = ha.pairwise_accuracy(*pairs.of(models), pairs.mask)
    assert accuracy.tolist() == [1.0, 0.0]


def test_what_cannot_be_scored_is_refused():
    with pytest.raises(ValueError, match="NaN"):
        ha.pairwise_accuracy(torch.tensor([[torch.nan]]), torch.zeros(1, 1))
    with pytest.raises(ValueError, match="no pair is left"):
        ha.pairwise_accuracy(torch.zeros(1, 1), torch.zeros(1, 1), torch.zeros(1, 1).bool())
    with pytest.raises(ValueError, match="positive probability"):
        ha.pair_weights(torch.full((1, 1), -math.inf), torch.zeros(1, 1))
    with pytest.raises(ValueError, match="log-probabilities"):
        ha.pair_weights(torch.tensor([[torch.nan]]), torch.zeros(1, 1))
    with pytest.raises(ValueError, match="no rejected output"):
        ha.one_vs_many_accuracy(torch.zeros(1), torch.zeros(1, 2), torch.zeros(1, 2).bool())
