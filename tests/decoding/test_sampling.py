"""What is drawn, how often, with which log-probabilities, and from which noise."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from transformers import TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

from experiments.decoding.sampling import (
    GREEDY,
    NUCLEUS_GUESS,
    BatchSampling,
    SamplingOptions,
    filtered,
    sample,
    sequence_seed,
    uniforms,
)


def normal_logits(rows, vocabulary, seed=0, scale=3.0):
    return scale * torch.randn(rows, vocabulary, generator=torch.Generator().manual_seed(seed))


def draw(logits, options, seeds=None, positions=None, **rules):
    rows = len(logits)
    batch = BatchSampling(options, range(rows) if seeds is None else seeds, **rules)
    return sample(logits, batch, np.zeros(rows, np.int64) if positions is None else positions)


def distribution_by_hand(logits, options):
    """fp64, one token after the other: temperature, then top-k, then the smallest likely set that reaches top-p."""
    logits = np.asarray(logits, np.float64) / (options.temperature or 1.0)
    order = sorted(range(len(logits)), key=lambda token: -logits[token])
    if options.top_k:
        order = order[: options.top_k]
    weights = np.exp(logits - logits.max())
    total = sum(weights[token] for token in order)
    kept, reached = [], 0.0
    for token in order:
        kept.append(token)
        reached += weights[token] / total
        if options.top_p < 1.0 and reached >= options.top_p:
            break
    probabilities = np.zeros(len(logits))
    probabilities[kept] = weights[kept] / weights[kept].sum()
    return probabilities


options_drawn = st.builds(
    SamplingOptions,
    temperature=st.floats(0.2, 3.0),
    top_k=st.integers(0, 40),
    top_p=st.sampled_from([0.05, 0.3, 0.77, 0.95, 1.0]),
)


@settings(max_examples=60, deadline=None)
@given(st.lists(options_drawn, min_size=1, max_size=5), st.integers(2, 300), st.integers(0, 10**6))
def test_filters_keep_the_tokens_that_a_definition_by_hand_keeps(options, vocabulary, seed):
    """Rows with options of their own side by side; vocabularies around the first guess of the nucleus."""
    logits = normal_logits(len(options), vocabulary, seed)
    batch = BatchSampling(options, range(len(options)))
    scaled = logits if batch.temperatures is None else logits / batch.temperatures
    mine = filtered(scaled, batch).double().softmax(dim=-1).numpy()
    for row, option in enumerate(options):
        theirs = distribution_by_hand(logits[row], option)
        differing = np.flatnonzero((mine[row] > 0) != (theirs > 0))
        if len(differing) == 0:
            np.testing.assert_allclose(mine[row], theirs, atol=1e-6)
        else:  # a cumulative share that is top_p within rounding may go either way, by one token
            shares = np.sort(distribution_by_hand(logits[row], replace(option, top_p=1.0)))[::-1].cumsum()
            assert len(differing) == 1
            assert np.abs(shares - option.top_p).min() < 1e-6


@pytest.mark.parametrize(
    "option", [SamplingOptions(0.7, 50, 0.9), SamplingOptions(1.3, 5, 1.0), SamplingOptions(2, 0, 0.6)]
)
def test_filters_agree_with_those_of_transformers(option):
    logits = normal_logits(6, 1000)
    batch = BatchSampling([option] * 6, range(6))
    theirs = TemperatureLogitsWarper(float(option.temperature))(None, logits)
    if option.top_k:
        theirs = TopKLogitsWarper(option.top_k)(None, theirs)
    theirs = TopPLogitsWarper(option.top_p)(None, theirs) if option.top_p < 1.0 else theirs
    torch.testing.assert_close(filtered(logits / option.temperature, batch), theirs)


def test_a_flat_distribution_needs_more_tokens_than_the_first_guess():
    logits = normal_logits(1, 20 * NUCLEUS_GUESS, scale=0.1)
    batch = BatchSampling([SamplingOptions(top_p=0.9)], [0])
    kept = int(filtered(logits, batch).isfinite().sum())
    assert 15 * NUCLEUS_GUESS < kept < 19 * NUCLEUS_GUESS
    probabilities = torch.sort(logits.double().softmax(dim=-1), descending=True).values[0]
    assert float(probabilities[: kept - 1].sum()) < 0.9 <= float(probabilities[:kept].sum()) + 1e-6


def test_equally_likely_tokens_stay_together():
    logits = torch.tensor([[2.0, 1.0, 1.0, 1.0, -3.0]])
    for option in (SamplingOptions(top_k=2), SamplingOptions(top_p=0.6)):
        assert filtered(logits, BatchSampling([option], [0])).isfinite().tolist() == [[True, True, True, True, False]]


def test_draws_follow_the_distribution():
    """A chi-square test over 20000 seeds; the seeds are fixed, so the test is too."""
    option = SamplingOptions(temperature=0.8, top_k=9, top_p=0.95)
    logits = normal_logits(1, 30, seed=5, scale=1.0)
    rows = 20_000
    drawn = draw(logits.expand(rows, -1), [option] * rows).tokens
    expected = distribution_by_hand(logits[0], option) * rows
    counts = np.bincount(drawn.numpy(), minlength=30)
    assert (counts[expected == 0] == 0).all()
    assert stats.chisquare(counts[expected > 0], expected[expected > 0]).pvalue > 0.001


def test_log_probabilities_of_policy_and_of_sampling():
    options = [SamplingOptions(), SamplingOptions(0.5), SamplingOptions(1.0, 3), SamplingOptions(1.5, 0, 0.5), GREEDY]
    logits = normal_logits(5, 50)
    drawn = draw(logits, options)
    rows = torch.arange(5)
    policy = logits.double().log_softmax(dim=-1)[rows, drawn.tokens]
    torch.testing.assert_close(drawn.policy_log_probabilities.double(), policy, rtol=0, atol=1e-5)
    for row, option in enumerate(options[:4]):
        truth = np.log(distribution_by_hand(logits[row], option)[drawn.tokens[row]])
        assert abs(float(drawn.sampling_log_probabilities[row]) - truth) < 1e-5
    assert float(drawn.sampling_log_probabilities[0]) == float(drawn.policy_log_probabilities[0])
    assert drawn.tokens[4] == logits[4].argmax()
    assert drawn.sampling_log_probabilities[4] == 0.0


def test_greedy_is_the_likeliest_token_whatever_the_seed():
    logits = normal_logits(4, 50)
    assert torch.equal(draw(logits, [GREEDY] * 4, seeds=[7, 8, 9, 10]).tokens, logits.argmax(dim=-1))


def test_a_row_draws_the_same_alone_and_in_any_batch():
    logits, seeds, positions = normal_logits(6, 200), [3, 2**64 - 1, -5, 3, 0, 12], np.array([0, 4, 1, 0, 9, 2])
    options = [SamplingOptions(1.0, k, p) for k, p in [(0, 1.0), (20, 0.9), (0, 0.5), (7, 1.0), (0, 1.0), (1, 1.0)]]
    together = draw(logits, options, seeds, positions)
    for row in range(6):
        rows = slice(row, row + 1)
        alone = draw(logits[rows], options[rows], seeds[rows], positions[rows])
        for one, other in zip(alone, together, strict=True):
            torch.testing.assert_close(one, other[rows])


def test_forbidden_stop_tokens_are_never_drawn_before_their_time():
    logits = torch.tensor([[9.0, 0.0, 1.0]]).expand(4, -1)
    rules = {"stop_tokens": [[0], [0], [0], []], "min_new_tokens": [3, 3, 0, 3]}
    options = [SamplingOptions(0.1), GREEDY, GREEDY, GREEDY]
    assert draw(logits, options, positions=np.array([2, 2, 2, 2]), **rules).tokens.tolist() == [2, 2, 0, 0]
    assert draw(logits, options, positions=np.array([3, 3, 3, 3]), **rules).tokens.tolist() == [0, 0, 0, 0]


def test_a_token_without_probability_is_never_drawn():
    logits = torch.full((500, 40), -torch.inf)
    logits[:, 17] = 0.0
    logits[:, 39] = -40.0
    assert (draw(logits, [SamplingOptions()] * 500).tokens == 17).all()


def test_noise_is_uniform_and_unrelated_between_neighbouring_seeds_and_positions():
    batch = BatchSampling([SamplingOptions()] * 200, range(200))
    noise = np.stack([uniforms(batch.hashed_seeds, np.full(200, position)) for position in range(200)])
    assert noise.min() >= 0.0
    assert noise.max() < 1.0
    assert stats.kstest(noise.ravel(), "uniform").pvalue > 0.01
    for first, second in ((noise[1:], noise[:-1]), (noise[:, 1:], noise[:, :-1])):
        assert abs(np.corrcoef(first.ravel(), second.ravel())[0, 1]) < 0.02
    assert len(np.unique(noise)) == noise.size


def test_samples_of_a_request_have_seeds_of_their_own():
    seeds = {sequence_seed(seed, number) for seed in range(100) for number in range(100)}
    assert len(seeds) == 100 * 100
    assert all(sequence_seed(seed, 0) == seed for seed in (0, 7, 2**64 - 1))
    assert sequence_seed(7, 3) == sequence_seed(7 + 2**64, 3)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"temperature": -0.1}, "temperature=-0.1"),
        ({"temperature": float("nan")}, "temperature=nan"),
        ({"top_k": -1}, "top_k=-1"),
        ({"top_p": 0.0}, "top_p=0.0"),
        ({"top_p": 1.1}, "top_p=1.1"),
    ],
)
def test_impossible_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        SamplingOptions(**options)


def test_logits_of_another_batch_are_refused():
    with pytest.raises(ValueError, match="logits of 3 rows"):
        sample(normal_logits(3, 10), BatchSampling([GREEDY] * 2, [0, 1]), np.zeros(3, np.int64))
