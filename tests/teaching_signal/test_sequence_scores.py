"""Scores formed block by block, against autograd one completion after the other."""

import pytest
import torch
from signal_cases import autograd_scores, gpt2, llama, our_policy, probe

from experiments.teaching_signal import sequence_scores
from experiments.teaching_signal.sequence_scores import SequenceScores

POLICIES = {
    **{name: lambda name=name: our_policy(name) for name in ("mha", "gqa", "gta", "mla", "gla", "tied_key_value")},
    "gla_q with biases": lambda: our_policy("gla", split_query_latent=True, low_rank_bias=True),
    "gated": lambda: our_policy("gqa", output_gate=True),
    "llama with tied embeddings": llama,
    "gpt2, with positions, biases and layer norms": gpt2,
}


def scores_of(model, prompts, completions, **settings):
    """[n, D] and the parameters in that order, from a second pass, which does not check."""
    scores = SequenceScores(model, **settings)
    for _ in range(2):
        values = torch.zeros(len(prompts), scores.size)
        for place, block in scores.blocks(prompts, completions):
            values[:, place] += block
    return values, list(scores._parameters.values()), scores


@pytest.mark.parametrize("name", POLICIES)
def test_scores_of_all_parameters_are_autograds(name, monkeypatch):
    monkeypatch.setattr(sequence_scores, "BLOCK_NUMBERS", 1000)  # many blocks, of parts of a parameter
    model, (prompts, completions, *_) = POLICIES[name](), probe()
    values, parameters, scores = scores_of(model, prompts, completions)
    assert not scores.left_out
    assert {id(parameter) for parameter in parameters} == {id(parameter) for parameter in model.parameters()}
    wanted = autograd_scores(model.eval(), prompts, completions, parameters)
    torch.testing.assert_close(values, wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("make", [lambda: our_policy("gqa"), llama], ids=["ours", "llama"])
def test_the_last_layer_alone_has_its_own_scores_and_those_of_norm_and_head(make):
    model, (prompts, completions, *_) = make(), probe()
    values, parameters, _ = scores_of(model, prompts, completions, last_layers=1)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    kept = [names[id(parameter)] for parameter in parameters]
    assert any(".1." in name for name in kept)
    assert not any(".0." in name for name in kept)
    untied = [place for place, name in enumerate(kept) if "embed" not in name]
    wanted = autograd_scores(model.eval(), prompts, completions, [parameters[place] for place in untied])
    sizes = [parameter.numel() for parameter in parameters]
    found = torch.cat([values.split(sizes, dim=1)[place] for place in untied], dim=1)
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)


def test_frozen_parameters_have_no_scores():
    model, (prompts, completions, *_) = our_policy("gqa"), probe()
    model.requires_grad_(False)
    trained = model.decoder.blocks[1].feed_forward.output.weight.requires_grad_()
    values, parameters, _ = scores_of(model, prompts, completions)
    assert parameters == [trained]
    torch.testing.assert_close(values, autograd_scores(model, prompts, completions, [trained]), rtol=1e-4, atol=1e-4)


def test_a_parameter_used_in_an_unknown_way_is_left_out_by_name(caplog):
    model, (prompts, completions, *_) = our_policy("gta", low_rank_bias=True), probe()
    _, _, scores = scores_of(model, prompts, completions)
    assert scores.left_out == [f"decoder.blocks.{layer}.attention.rope_key_bias" for layer in (0, 1)]
    assert "rope_key_bias" in caplog.text


def test_measuring_leaves_the_model_as_it_was():
    model, (prompts, completions, *_) = our_policy("gqa"), probe()
    model.train()
    model.decoder.norm.weight.requires_grad_(False)
    before = [parameter.clone() for parameter in model.parameters()]
    scores_of(model, prompts, completions)
    assert model.training
    assert [parameter.requires_grad for parameter in model.parameters()].count(False) == 1
    assert all(parameter.grad is None for parameter in model.parameters())
    assert all(torch.equal(*pair) for pair in zip(before, model.parameters(), strict=True))
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_bf16_products_change_scores_by_its_rounding_only():
    model, (prompts, completions, *_) = our_policy("gqa"), probe()
    exact, *_ = scores_of(model, prompts, completions)
    rounded, _, scores = scores_of(model, prompts, completions, precision="bf16")
    assert not scores.left_out
    assert rounded.dtype == torch.float32
    assert 0 < float((rounded - exact).norm() / exact.norm()) < 0.15


def test_a_number_of_layers_that_the_policy_does_not_have_is_refused():
    with pytest.raises(ValueError, match="last_layers=3 is impossible: the policy has 2 layers"):
        SequenceScores(our_policy("gqa"), last_layers=3)
