"""The chunked cross entropy against torch's, over several chunks, with targets left out."""

import pytest
import torch
import torch.nn.functional as F
from model_cases import CASES, case_model, tokens

from experiments.models.linear_cross_entropy import linear_cross_entropy

ROWS, WIDTH, VOCABULARY = 300, 6, 20_000  # three chunks of at most 128 rows


def problem(dtype):
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(ROWS, WIDTH, generator=generator, dtype=dtype).requires_grad_()
    weight = torch.randn(VOCABULARY, WIDTH, generator=generator, dtype=dtype).requires_grad_()
    targets = torch.randint(0, VOCABULARY, (ROWS,), generator=generator)
    targets[::7] = -100
    return hidden, weight, targets


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-5)])
@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_loss_and_gradients_are_those_of_torch(reduction, dtype, tolerance):
    hidden, weight, targets = problem(dtype)
    loss = linear_cross_entropy(hidden, weight, targets, reduction)
    gradients = torch.autograd.grad(0.25 * loss, (hidden, weight))
    expected = F.cross_entropy(F.linear(hidden, weight), targets, reduction=reduction)
    expected_gradients = torch.autograd.grad(0.25 * expected, (hidden, weight))
    assert torch.allclose(loss, expected, rtol=tolerance, atol=tolerance)
    for gradient, other in zip(gradients, expected_gradients, strict=True):
        assert torch.allclose(gradient, other, rtol=tolerance, atol=10 * tolerance)


def test_each_loss_is_that_of_torch_and_without_gradients_nothing_changes():
    hidden, weight, targets = problem(torch.float64)
    each = linear_cross_entropy(hidden, weight, targets, "none")
    assert torch.allclose(each, F.cross_entropy(F.linear(hidden, weight), targets, reduction="none"))
    with torch.no_grad():
        assert torch.allclose(linear_cross_entropy(hidden, weight, targets, "sum"), each.sum())


def test_huge_scores_do_not_overflow():
    hidden, weight, targets = torch.full((2, 1), 1e3), torch.tensor([[1.0], [-1.0]]), torch.tensor([0, 1])
    hidden.requires_grad_()
    loss = linear_cross_entropy(hidden, weight, targets, "sum")
    loss.backward()
    assert loss.item() == 2000.0
    assert hidden.grad.tolist() == [[0.0], [2.0]]


def test_an_unknown_reduction_is_refused():
    with pytest.raises(ValueError, match="reduction='median' is unknown: use one of mean, sum, none"):
        linear_cross_entropy(*problem(torch.float32), "median")


@pytest.mark.parametrize("name", CASES)
def test_training_in_mixed_precision_stays_near_single_precision(name):
    model = case_model(name, torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        loss = model.loss(tokens(2, 9), tokens(2, 9, seed=5))
    loss.backward()
    assert loss.dtype is torch.float32
    assert loss.item() == pytest.approx(model.loss(tokens(2, 9), tokens(2, 9, seed=5)).item(), rel=0.02)
    assert all(p.grad.dtype is torch.float32 and p.grad.isfinite().all() for p in model.parameters())


def test_a_forward_with_targets_is_the_loss_alone():
    model, input_ids, targets = case_model("gla"), tokens(2, 9), tokens(2, 9, seed=5)
    output = model(input_ids, targets=targets)
    assert torch.equal(output.loss, model.loss(input_ids, targets))
    assert output.logits is None
    assert output.past_key_values is None
