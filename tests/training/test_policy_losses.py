"""Policy losses: hand-made numbers, gradients, and what they must not depend on."""

import math

import pytest
import torch

from experiments.training.policy_losses import DENOMINATORS, kl_estimates, policy_loss, sequence_weights

MASK = torch.tensor([[True, True, True], [True, True, False]])
LENGTHS = MASK.sum(dim=1)
ADVANTAGES = torch.tensor([2.0, -1.0], dtype=torch.float64)
ONE = torch.ones(1, dtype=torch.float64)


def tensor(*rows):
    return torch.tensor(rows, dtype=torch.float64)


def case(seed=0, spread=0.5):
    """Log-probabilities of the policy (with gradient), the old policy and the reference, [2, 3]."""
    generator = torch.Generator().manual_seed(seed)
    policy, old, reference = (-torch.rand(2, 3, generator=generator, dtype=torch.float64) * spread for _ in range(3))
    return policy.requires_grad_(), old, reference


def one_token(ratio, advantage, **options):
    """The loss of one token at this ratio, and its gradient with respect to the token's log-probability."""
    log_probability = tensor([math.log(ratio)]).requires_grad_()
    result = policy_loss(
        log_probability, tensor([0.0]), tensor([1.0]).bool(), ONE * advantage, ONE, clip=0.2, **options
    )
    (gradient,) = torch.autograd.grad(result.loss, log_probability)
    return float(result.loss.detach()), float(gradient), float(result.clip_share)


@pytest.mark.parametrize("sequence_ratio", [False, True])
@pytest.mark.parametrize(
    ("ratio", "advantage", "loss", "gradient", "clipped"),
    [
        (1.1, 2.0, -2.2, -2.2, 0.0),  # inside
        (1.5, 2.0, -2.4, 0.0, 1.0),  # pushed far enough up
        (0.5, 2.0, -1.0, -1.0, 0.0),  # went down though it is good: not clipped
        (0.5, -2.0, 1.6, 0.0, 1.0),  # pushed far enough down
        (1.5, -2.0, 3.0, 3.0, 0.0),  # went up though it is bad: not clipped
    ],
)
def test_clipping_cuts_the_gradient_only_where_it_would_go_further(
    ratio, advantage, loss, gradient, clipped, sequence_ratio
):
    found = one_token(ratio, advantage, sequence_ratio=sequence_ratio)
    assert found == pytest.approx((loss, gradient, clipped), abs=1e-12)


def test_the_ratio_of_a_sequence_is_the_product_of_its_tokens():
    policy, old = tensor([0.1, 0.2, -0.1]), tensor([0.0, 0.0, 0.0])
    result = policy_loss(policy, old, torch.ones(1, 3).bool(), ONE, ONE, clip=0.5, sequence_ratio=True)
    assert float(result.loss) == pytest.approx(-math.exp(0.2))
    assert (result.units, float(result.mean_ratio)) == (1, pytest.approx(math.exp(0.2)))
    assert float(result.approximate_kl) == pytest.approx(math.exp(0.2) - 1 - 0.2)


def test_statistics_are_means_over_real_tokens():
    policy = tensor([math.log(1.5), 0.0, 0.0], [math.log(0.5), 0.0, 99.0])
    result = policy_loss(policy, torch.zeros_like(policy), MASK, ADVANTAGES, ADVANTAGES, clip=0.2)
    assert result.units == 5
    assert float(result.clip_share) == pytest.approx(2 / 5)
    assert float(result.mean_ratio) == pytest.approx(1.0)
    assert float(result.approximate_kl) == pytest.approx((0.5 - math.log(1.5) - 0.5 - math.log(0.5)) / 5)


@pytest.mark.parametrize(
    ("denominator", "weights"),
    [("sequences", [1 / 2, 1 / 2]), ("tokens", [1 / 5, 1 / 5]), ("each_sequence", [1 / 6, 1 / 4])],
)
@pytest.mark.parametrize("sequence_ratio", [False, True])
def test_on_policy_the_gradient_is_that_of_reinforce(denominator, weights, sequence_ratio):
    """d loss / d log pi(token) = - weight * advantage, whatever the unit of the ratio; nothing behind the end."""
    policy = case()[0]
    result = policy_loss(
        policy,
        policy.detach(),
        MASK,
        ADVANTAGES,
        sequence_weights(LENGTHS, denominator),
        clip=0.2,
        sequence_ratio=sequence_ratio,
    )
    (gradient,) = torch.autograd.grad(result.loss, policy)
    expected = -(torch.tensor(weights, dtype=torch.float64) * ADVANTAGES)[:, None] * MASK
    torch.testing.assert_close(gradient, expected, rtol=1e-13, atol=0)


@pytest.mark.parametrize(
    ("estimator", "weighted"), [("k1", False), ("k2", False), ("k3", False), ("k1", True), ("k3", True)]
)
@pytest.mark.parametrize("sequence_ratio", [False, True])
def test_the_gradient_is_that_of_the_value(estimator, sequence_ratio, weighted):
    """By finite differences. (Weighted k2 treats its weight as a constant, on purpose.)"""
    policy, old, reference = case(spread=0.1)

    def loss(values):
        return policy_loss(
            values,
            old,
            MASK,
            ADVANTAGES,
            sequence_weights(LENGTHS, "tokens"),
            clip=0.9,
            sequence_ratio=sequence_ratio,
            reference_log_probabilities=reference,
            kl_estimator=estimator,
            kl_coefficient=0.7,
            importance_weighted_kl=weighted,
        ).loss

    assert torch.autograd.gradcheck(loss, (policy,))


@pytest.mark.parametrize(
    ("estimator", "value", "slope"),
    [("k1", 0.5, 1.0), ("k2", 0.125, 0.5), ("k3", math.exp(-0.5) - 0.5, 1 - math.exp(-0.5))],
)
def test_kl_estimates_and_their_slopes(estimator, value, slope):
    log_ratio = tensor([0.5]).requires_grad_()
    estimate = kl_estimates(log_ratio, estimator)
    assert float(estimate.detach()) == pytest.approx(value)
    assert float(torch.autograd.grad(estimate.sum(), log_ratio)[0]) == pytest.approx(slope)


def test_on_policy_a_weighted_estimate_has_the_gradient_of_the_kl():
    """k1 gains the score it lacked, k3 becomes d * grad log policy, as k2 is."""
    for estimator, expected in (("k1", math.log(2) + 1), ("k2", math.log(2)), ("k3", math.log(2))):
        policy, old, reference = tensor([0.0]).requires_grad_(), tensor([0.0]), tensor([-math.log(2)])
        result = policy_loss(
            policy,
            old,
            torch.ones(1, 1).bool(),
            ONE * 0,
            ONE,
            clip=0.2,
            reference_log_probabilities=reference,
            kl_estimator=estimator,
            kl_coefficient=1.0,
            importance_weighted_kl=True,
        )
        assert float(torch.autograd.grad(result.loss, policy)[0]) == pytest.approx(expected)


def test_k3_is_never_negative_and_precise_near_zero():
    tiny = tensor([1e-9, -1e-9, 3.0, -3.0])
    assert (kl_estimates(tiny, "k3") >= 0).all()
    assert float(kl_estimates(tiny, "k3")[0, 0]) < 1e-16


@pytest.mark.parametrize("sequence_ratio", [False, True])
@pytest.mark.parametrize("denominator", DENOMINATORS)
def test_the_loss_of_a_minibatch_is_the_sum_of_its_pieces(sequence_ratio, denominator):
    policy, old, reference = case()
    weights = sequence_weights(LENGTHS, denominator)
    options = {"clip": 0.2, "sequence_ratio": sequence_ratio, "kl_coefficient": 0.3}

    def loss(rows):
        return policy_loss(
            policy[rows],
            old[rows],
            MASK[rows],
            ADVANTAGES[rows],
            weights[rows],
            reference_log_probabilities=reference[rows],
            **options,
        ).loss

    torch.testing.assert_close(loss([0, 1]), loss([0]) + loss([1]), rtol=1e-14, atol=0)
    torch.testing.assert_close(loss([0, 1]), loss([1, 0]), rtol=1e-14, atol=0)


def test_what_stands_behind_an_end_is_never_read():
    policy, old, reference = case()
    results = []
    for rubbish in (0.0, torch.nan, torch.inf):
        values = policy.detach().clone()
        values[1, 2] = rubbish
        values.requires_grad_()
        result = policy_loss(
            values,
            old,
            MASK,
            ADVANTAGES,
            sequence_weights(LENGTHS, "tokens"),
            clip=0.2,
            reference_log_probabilities=reference,
            kl_coefficient=0.1,
        )
        results.append((result.loss.detach(), torch.autograd.grad(result.loss, values)[0]))
    for loss, gradient in results:
        assert loss == results[0][0]
        assert (gradient == results[0][1]).all()
        assert gradient[1, 2] == 0


def test_single_precision_stays_single_precision():
    policy, old, _ = (part.detach().float() for part in case())
    result = policy_loss(policy, old, MASK, ADVANTAGES, sequence_weights(LENGTHS, "tokens"), clip=0.2)
    assert result.loss.dtype == torch.float32


def test_wrong_settings_are_refused():
    policy, old, _ = case()
    weights = sequence_weights(LENGTHS, "tokens")
    with pytest.raises(ValueError, match="kl_estimator='k4' is unknown: use one of k1, k2, k3"):
        policy_loss(policy, old, MASK, ADVANTAGES, weights, clip=0.2, kl_estimator="k4")
    with pytest.raises(ValueError, match=r"kl_coefficient=0.1 needs the log-probabilities of the reference policy"):
        policy_loss(policy, old, MASK, ADVANTAGES, weights, clip=0.2, kl_coefficient=0.1)
    with pytest.raises(ValueError, match="loss_denominator='words' is unknown"):
        sequence_weights(LENGTHS, "words")
