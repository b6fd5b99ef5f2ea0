"""Forward and backward pass and Muon on a device that is not the CPU: most mixed devices are found, no wrong number.

On torch's meta device sums, products by element and concatenations refuse a CPU tensor; matrix products do not.
"""

import pytest
import torch

from experiments.models.configuration import RlExpConfig
from experiments.models.transformer import RlExpForCausalLM
from experiments.training.muon import Muon
from experiments.training.optimizers import clip_gradients

META = torch.device("meta")
SIZES = {"hidden_size": 32, "layers": 2, "query_heads": 4, "head_dim": 8, "vocab_size": 61, "feed_forward_dim": 48}


@pytest.mark.parametrize("attention", ["mha", "mqa", "gqa", "gta", "mla", "gla", "tied_key_value"])
def test_passes_and_muon_make_no_tensor_on_the_cpu(attention):
    model = RlExpForCausalLM(RlExpConfig(attention=attention, **SIZES)).to(META)
    tokens = torch.zeros(2, 16, dtype=torch.long, device=META)
    # not model.loss: torch knows no autocast for this device
    model(input_ids=tokens, use_cache=False).logits.logsumexp(-1).mean().backward()
    assert {parameter.grad.device for parameter in model.parameters()} == {META}
    assert clip_gradients(model, 1.0).device == META
    Muon([parameter for parameter in model.parameters() if parameter.ndim == 2]).step()


def test_a_tensor_left_on_the_cpu_is_found():
    model = RlExpForCausalLM(RlExpConfig(attention="gqa", **SIZES)).to(META)
    norm = model.decoder.norm
    norm.weight = torch.nn.Parameter(torch.ones(32))
    with pytest.raises(RuntimeError, match="device"):
        model(input_ids=torch.zeros(2, 16, dtype=torch.long, device=META), use_cache=False)
