"""Updates of a small policy: the pieces add up, the order is the generator's, nothing broken reaches the weights."""

import copy
import itertools

import numpy as np
import pytest
import torch

from experiments.models.configuration import RlExpConfig
from experiments.models.transformer import build_model
from experiments.training import policy_gradient_step
from experiments.training.log_probabilities import token_log_probabilities
from experiments.training.policy_gradient_step import (
    PolicyGradientBatch,
    accumulate_gradient,
    pieces,
    update_policy,
)
from experiments.training.policy_losses import policy_loss, sequence_weights

VOCABULARY, GROUPS, SAMPLES = 50, 3, 4
OPTIONS = {"clip": 0.2, "sequence_ratio": False, "kl_estimator": "k2", "kl_coefficient": 0.1}


def policy(dtype=torch.float64):
    config = RlExpConfig(
        attention="gqa",
        hidden_size=32,
        layers=2,
        query_heads=4,
        head_dim=8,
        feed_forward_dim=64,
        vocab_size=VOCABULARY,
        initializer_range=0.3,
        zero_init_output=False,
    )
    return build_model(config, torch.Generator().manual_seed(0), dtype).requires_grad_()


def rollouts(model, seed=0):
    random = np.random.default_rng(seed)
    prompts, completions = [], []
    for _ in range(GROUPS):
        prompt = random.integers(0, VOCABULARY, int(random.integers(2, 9))).tolist()
        for _ in range(SAMPLES):
            prompts.append(prompt)
            completions.append(random.integers(0, VOCABULARY, int(random.integers(1, 12))).tolist())
    with torch.no_grad():
        values = token_log_probabilities(model, prompts, completions).to(next(model.parameters()).dtype)
    advantages = torch.from_numpy(random.normal(size=len(prompts)))
    return PolicyGradientBatch(prompts, completions, values - 0.05, advantages, values + 0.1)


def gradients(model):
    return [parameter.grad.clone() for parameter in model.parameters()]


def sgd(model, learning_rate=0.1):
    return torch.optim.SGD(model.parameters(), lr=learning_rate)


@pytest.mark.parametrize("denominator", ["sequences", "tokens", "each_sequence"])
@pytest.mark.parametrize("sequence_ratio", [False, True])
def test_pieces_add_up_to_the_gradient_of_the_whole(monkeypatch, denominator, sequence_ratio):
    model = policy()
    batch = rollouts(model)
    options = {**OPTIONS, "sequence_ratio": sequence_ratio}
    lengths = batch.lengths
    mask = torch.arange(int(lengths.max())) < lengths[:, None]
    whole = policy_loss(
        token_log_probabilities(model, batch.prompts, batch.completions),
        batch.old_log_probabilities,
        mask,
        batch.advantages,
        sequence_weights(lengths, denominator),
        reference_log_probabilities=batch.reference_log_probabilities,
        **options,
    )
    whole.loss.backward()
    expected = gradients(model)
    for tokens in (1, 30, 10_000):
        monkeypatch.setattr(policy_gradient_step, "TOKENS_AT_ONCE", tokens)
        model.zero_grad()
        rows = np.random.default_rng(1).permutation(len(batch))
        sums = accumulate_gradient(model, batch, rows, denominator=denominator, **options)
        assert sums["loss"] == pytest.approx(float(whole.loss.detach()), rel=1e-10)
        assert sums["units"] == whole.units
        assert sums["clip_share"] / whole.units == pytest.approx(float(whole.clip_share))
        for found, wanted in zip(gradients(model), expected, strict=True):
            torch.testing.assert_close(found, wanted, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("tokens", [1, 40, 10_000])
def test_pieces_of_shared_prompts_keep_a_prompts_completions_side_by_side(monkeypatch, tokens):
    monkeypatch.setattr(policy_gradient_step, "TOKENS_AT_ONCE", tokens)
    batch = rollouts(policy())
    found = pieces(batch, np.random.default_rng(0).permutation(len(batch)), shared=True)
    order = [row for piece in found for row in piece]
    assert sorted(order) == list(range(len(batch)))
    assert len([group for group, _ in itertools.groupby(order, key=lambda row: row // SAMPLES)]) == GROUPS
    for piece in found:
        prompts = {tuple(batch.prompts[row]) for row in piece}
        size = sum(map(len, prompts)) + sum(len(batch.completions[row]) for row in piece)
        assert size <= tokens or len(piece) == 1
    assert len(found) == {1: 12, 10_000: 1}.get(tokens, len(found))


def test_pieces_of_padded_rows_have_similar_lengths(monkeypatch):
    monkeypatch.setattr(policy_gradient_step, "TOKENS_AT_ONCE", 40)
    batch = rollouts(policy())
    found = pieces(batch, range(len(batch)), shared=False)
    assert sorted(row for piece in found for row in piece) == list(range(len(batch)))
    tokens = [len(p) + len(c) for p, c in zip(batch.prompts, batch.completions, strict=True)]
    assert all(len(piece) * max(tokens[row] for row in piece) <= 40 for piece in found)
    for shorter, longer in itertools.pairwise(found):
        assert max(tokens[row] for row in shorter) <= min(tokens[row] for row in longer)


def test_one_update_is_one_step_along_the_gradient():
    model = policy()
    batch = rollouts(model)
    before = copy.deepcopy(model)
    accumulate_gradient(before, batch, range(len(batch)), denominator="sequences", **OPTIONS)
    found = update_policy(model, sgd(model), batch, generator=np.random.default_rng(0), **OPTIONS)
    norm = float(torch.stack([gradient.norm() for gradient in gradients(before)]).norm())
    assert (found.updates, found.gradient_norm) == (1, pytest.approx(norm))
    for new, old in zip(model.parameters(), before.parameters(), strict=True):
        torch.testing.assert_close(new, old - 0.1 * old.grad, rtol=1e-9, atol=1e-12)
        assert new.grad is None


def test_before_the_first_update_ratios_are_one_and_nothing_is_clipped():
    model = policy(torch.float32)
    batch = rollouts(model)
    batch = PolicyGradientBatch(batch.prompts, batch.completions, batch.old_log_probabilities + 0.05, batch.advantages)
    found = update_policy(model, sgd(model), batch, generator=np.random.default_rng(0))
    assert found.mean_ratio == pytest.approx(1.0, abs=1e-4)
    assert found.clip_share == 0
    assert 0 <= found.approximate_kl < 1e-7


def test_later_passes_are_off_policy_and_more_updates_are_taken():
    model = policy()
    found = update_policy(
        model, sgd(model, 1.0), rollouts(model), generator=np.random.default_rng(0), epochs=3, minibatches=2
    )
    assert found.updates == 6
    assert found.clip_share > 0
    assert found.approximate_kl > 1e-4


def test_the_generator_alone_decides_the_order():
    ends = []
    for seed in (0, 0, 1):
        model = policy()
        batch = rollouts(model)
        update_policy(model, sgd(model), batch, generator=np.random.default_rng(seed), minibatches=3)
        ends.append(torch.cat([parameter.detach().flatten() for parameter in model.parameters()]))
    assert torch.equal(ends[0], ends[1])
    assert not torch.allclose(ends[0], ends[2])


def test_the_gradient_is_clipped_to_its_limit():
    model = policy()
    start = copy.deepcopy(model)
    batch = rollouts(model)
    found = update_policy(model, sgd(model), batch, generator=np.random.default_rng(0), gradient_clip=0.01, **OPTIONS)
    assert found.gradient_norm > 0.01
    moved = [new.detach() - old.detach() for new, old in zip(model.parameters(), start.parameters(), strict=True)]
    assert float(torch.stack([change.norm() for change in moved]).norm()) == pytest.approx(0.1 * 0.01)


@pytest.mark.parametrize("broken", [torch.nan, torch.inf])
def test_what_is_no_number_never_reaches_the_weights(broken):
    model = policy()
    start = copy.deepcopy(model)
    batch = rollouts(model)
    batch.advantages[5] = broken
    with pytest.raises(FloatingPointError, match="weights are those before this update"):
        update_policy(model, sgd(model), batch, generator=np.random.default_rng(0))
    for new, old in zip(model.parameters(), start.parameters(), strict=True):
        assert torch.equal(new, old)


def test_more_minibatches_than_completions_are_refused():
    model = policy()
    with pytest.raises(ValueError, match="minibatches=13 is impossible: a step has 12 completions"):
        update_policy(model, sgd(model), rollouts(model), generator=np.random.default_rng(0), minibatches=13)
