"""The comparison with transformers compares like with like, and its rows hold together."""

import pytest
import torch
from engine_cases import case_model, prompts_of

from experiments.decoding.generation_benchmark import (
    compare_generation,
    compare_speculation,
    nine_million_model,
)
from experiments.decoding.peers import Peer, llama_with_weights_of


@pytest.mark.parametrize("name", ["mha", "mqa", "gqa"])
@torch.no_grad()
def test_llama_with_the_same_weights_gives_the_same_logits(name):
    model = case_model(name)
    prompt = torch.tensor(prompts_of(12))
    torch.testing.assert_close(llama_with_weights_of(model)(prompt).logits, model(prompt).logits, rtol=0, atol=1e-5)


def test_mechanisms_without_a_llama_counterpart_are_refused():
    for name in ("gta", "gqa-gated"):
        with pytest.raises(ValueError, match="no Llama counterpart"):
            llama_with_weights_of(case_model(name))


@pytest.mark.parametrize("mechanism", ["gqa", "gta", "gla", "mla"])
def test_the_models_have_nine_million_parameters(mechanism):
    assert nine_million_model(mechanism).num_parameters() == pytest.approx(9.45e6, rel=0.003)


def test_rows_hold_together():
    peers = (Peer.own_dynamic, Peer.llama_dynamic)
    rows = list(compare_generation("gqa", batch=2, context=8, peers=peers, new_tokens=4, block=2))
    assert [row.peer for row in rows] == list(peers)
    for row in rows:
        assert row.decode_ratio == pytest.approx(row.peer_step_ms / row.engine_step_ms)
        assert row.engine_decode_tokens_per_second == pytest.approx(2e3 / row.engine_step_ms)
        assert row.step_bytes == 4 * (9_457_920 + 2 * 8 * 256 * (8 + 2))  # weights, 2 sequences x 8 layers x 256 x rows
        assert row.engine_of_floor == pytest.approx(row.floor_ms / row.engine_step_ms)


def test_speculation_says_the_same():
    row = compare_speculation(
        "gla", model=case_model("gla"), prompts=[[1, 2, 3] * 4, [4, 5] * 4], new_tokens=40, rounds=1
    )
    assert row.same_text
    assert 1.0 <= row.tokens_per_step <= 5.0
