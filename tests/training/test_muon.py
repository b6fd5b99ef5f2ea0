"""Muon in fp32 is torch's Muon, up to the bf16 in which that one multiplies."""

from __future__ import annotations

import pytest
import torch

from experiments.training.muon import Muon, orthogonalised


@pytest.mark.parametrize("shape", [(24, 40), (40, 24)])
@pytest.mark.parametrize("adjustment", ["match_rms_adamw", "original"])
def test_updates_are_torchs_up_to_bf16(shape, adjustment):
    generator = torch.Generator().manual_seed(1)
    start = torch.randn(shape, generator=generator)
    ours, theirs = torch.nn.Parameter(start.clone()), torch.nn.Parameter(start.clone())
    settings = {"lr": 0.02, "momentum": 0.9, "weight_decay": 0.1, "adjust_lr_fn": adjustment}
    first, second = Muon([ours], **settings), torch.optim.Muon([theirs], **settings)
    for _ in range(3):
        gradient = torch.randn(shape, generator=generator)
        ours.grad, theirs.grad = gradient.clone(), gradient.clone()
        first.step()
        second.step()
    moved = (theirs - start).norm()
    assert float((ours - theirs).norm()) < 0.02 * float(moved)
    assert float(moved) > 0.1


def test_singular_values_end_near_one_in_fp32():
    matrix = torch.randn(16, 48, generator=torch.Generator().manual_seed(2))
    update = orthogonalised(matrix, (3.4445, -4.7750, 2.0315), 5, 1e-7)
    values = torch.linalg.svdvals(update)
    assert update.dtype is torch.float32
    assert float(values.min()) > 0.3
    assert float(values.max()) < 1.3
