"""What decoding is compared with has the same weights and says the same."""

import pytest
import torch

from experiments.benchmarks.generate import compare_speculation
from experiments.benchmarks.peers import llama_with_weights_of
from experiments.models.configuration import RlExpConfig
from experiments.models.transformer import build_model

SIZES = {"hidden_size": 32, "layers": 2, "query_heads": 4, "head_dim": 8, "vocab_size": 61, "feed_forward_dim": 48}


def model(attention: str, **fields):
    return build_model(RlExpConfig(attention=attention, **SIZES, **fields), torch.Generator().manual_seed(0)).eval()


@pytest.mark.parametrize("name", ["mha", "mqa", "gqa"])
@torch.no_grad()
def test_llama_with_the_same_weights_gives_the_same_logits(name):
    ours = model(name)
    prompt = torch.randint(0, 61, (1, 12), generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(llama_with_weights_of(ours)(prompt).logits, ours(prompt).logits, rtol=0, atol=1e-5)


@pytest.mark.parametrize("fields", [{"attention": "gta"}, {"attention": "gqa", "output_gate": True}])
def test_mechanisms_without_a_llama_counterpart_are_refused(fields):
    with pytest.raises(ValueError, match="no Llama counterpart"):
        llama_with_weights_of(model(**fields))


def test_speculation_says_the_same():
    prompts = [[1, 2, 3] * 4, [4, 5] * 4]
    row = compare_speculation(model("gla"), prompts, new_tokens=40, draft_tokens=4, rounds=1)
    assert row["same_text"]
    assert 0.0 <= row["accepted_length"] <= 4.0
