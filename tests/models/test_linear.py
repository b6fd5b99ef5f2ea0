"""The linear layer gives what torch's own gives, whichever library multiplies."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from experiments.models import linear as linear_module
from experiments.models.linear import Linear, times_transposed

HAS_ONEDNN = torch.backends.mkldnn.is_available()


@pytest.fixture(params=[False, True] if HAS_ONEDNN else [False], ids=lambda chosen: "onednn" if chosen else "default")
def either_library(request, monkeypatch):
    monkeypatch.setattr(linear_module, "onednn_is_faster", lambda: request.param)


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("rows", [(4, 16), (1, 7), (64,)])
def test_outputs_and_gradients_equal_torchs_linear(either_library, bias, rows):
    generator = torch.Generator().manual_seed(0)
    layer = Linear(24, 40, bias=bias)
    inputs = torch.randn(*rows, 24, generator=generator, requires_grad=True)
    weights = torch.randn(*rows, 40, generator=generator)
    ours = torch.autograd.grad((layer(inputs) * weights).sum(), [inputs, *layer.parameters()])
    plain = F.linear(inputs, layer.weight, layer.bias)
    theirs = torch.autograd.grad((plain * weights).sum(), [inputs, *layer.parameters()])
    torch.testing.assert_close(layer(inputs), plain, atol=1e-5, rtol=1e-5)
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, atol=2e-5, rtol=1e-5)


def test_other_dtypes_and_autocast_take_torchs_own_path(either_library):
    inputs = torch.randn(64, 24)
    layer = Linear(24, 40)
    assert layer.double()(inputs.double()).dtype == torch.float64
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert layer.float()(inputs).dtype == torch.bfloat16


def test_a_product_takes_transposed_views(either_library):
    left, right = torch.randn(48, 64), torch.randn(64, 40)
    torch.testing.assert_close(times_transposed(left, right.T), left @ right, atol=1e-4, rtol=1e-5)
    torch.testing.assert_close(
        times_transposed(left.T, right.T[:, :48].contiguous()), left.T @ right[:48], atol=1e-4, rtol=1e-5
    )
