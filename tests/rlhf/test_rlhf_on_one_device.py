"""A whole run of `rl-exp rlhf` on a device that is none: nothing strays between devices, and it learns the same."""

from __future__ import annotations

import pytest
import torch
from pretend_device import PretendDevice, pretend_attend
from rlhf_cases import metric_rows, only_run, tiny_rlhf

import experiments.rlhf as rlhf_module
from experiments.decoding import model_step
from experiments.preparation import setup as preparation
from experiments.training.policy_state import PolicyState

# Untied: parameters of a wrapped kind are moved one by one, and would no longer be shared.
WORDS = ("model.tie_embeddings=false", "policy_gradient.steps=3", "policy_gradient=grpo")


@pytest.fixture
def pretended(monkeypatch):
    """The command finds a device; what only knows real ones is replaced: a kernel, fused steps, files of tensors."""

    adam = torch.optim.Adam
    monkeypatch.setattr(torch.optim, "Adam", lambda parameters, lr, fused: adam(parameters, lr=lr, foreach=False))
    monkeypatch.setattr(model_step, "attend", pretend_attend)
    monkeypatch.setattr(preparation, "prepare_device", lambda name, threads: torch.device(PretendDevice.name))
    monkeypatch.setattr(PolicyState, "save", lambda *ignored: None)
    monkeypatch.setattr(rlhf_module, "save_policy", lambda *ignored: None)


def test_a_run_keeps_to_its_device_and_learns_as_on_the_cpu(rl_exp, tmp_path, pretended, monkeypatch):
    words = tiny_rlhf(tmp_path, *WORDS)
    with PretendDevice() as device:
        result = rl_exp("rlhf", *words)
    assert result.exit_code == 0, result.output
    assert len(device.operations) > 1000
    found = metric_rows(only_run(tmp_path))
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path)
    assert rl_exp("rlhf", *words, "force=true").exit_code == 0
    expected = metric_rows(only_run(tmp_path))
    assert [row["step"] for row in found] == [row["step"] for row in expected]
    for mine, theirs in zip(found, expected, strict=True):
        for name, value in theirs.items():
            if isinstance(value, float):
                assert mine[name] == pytest.approx(value, rel=0.01, abs=1e-3), (name, mine["step"])
