"""The decode form against the training form: same logits, whatever is cached and however tokens arrive."""

import pytest
import torch
from model_cases import CASES, case_model, tokens
from transformers import DynamicCache, StaticCache

TOLERANCE = {torch.float64: 1e-12, torch.float32: 2e-5}
LENGTH = 12


def dynamic(config):
    return DynamicCache(config=config)


def static(config):
    return StaticCache(config=config, max_cache_len=LENGTH + 3)


def decode(model, cache, input_ids, prompt, step, **masks):
    """Logits of all tokens: a prompt, then `step` tokens at a time."""
    logits, start = [], 0
    while start < input_ids.shape[1]:
        end = min(start + (step if start else prompt), input_ids.shape[1])
        seen = {name: mask[:, :end] for name, mask in masks.items()}
        logits.append(model(input_ids[:, start:end], past_key_values=cache, **seen).logits)
        start = end
    return torch.cat(logits, dim=1)


@pytest.mark.parametrize("make_cache", [dynamic, static])
@pytest.mark.parametrize("name", CASES)
@torch.no_grad()
def test_cached_decoding_equals_the_full_forward_for_one_to_four_tokens_at_a_time(name, make_cache):
    model, input_ids = case_model(name), tokens(2, LENGTH)
    full = model(input_ids, use_cache=False).logits
    for step in (1, 2, 3, 4):
        decoded = decode(model, make_cache(model.config), input_ids, prompt=3, step=step)
        assert torch.allclose(decoded, full, rtol=0, atol=TOLERANCE[torch.float64])


@pytest.mark.parametrize("name", CASES)
@torch.no_grad()
def test_cached_decoding_equals_the_full_forward_in_single_precision(name):
    model, input_ids = case_model(name, torch.float32), tokens(2, LENGTH)
    full = model(input_ids, use_cache=False).logits
    decoded = decode(model, dynamic(model.config), input_ids, prompt=1, step=1)
    assert torch.allclose(decoded, full, rtol=0, atol=TOLERANCE[torch.float32])


@pytest.mark.parametrize("make_cache", [dynamic, static])
@pytest.mark.parametrize("name", CASES)
@torch.no_grad()
def test_left_padded_rows_of_mixed_length_decode_as_if_they_were_alone(name, make_cache):
    model, lengths = case_model(name), (12, 9, 7)
    alone = [model(tokens(1, length, seed=length), use_cache=False).logits[0] for length in lengths]
    input_ids = torch.zeros(len(lengths), LENGTH, dtype=torch.long)
    real = torch.zeros(len(lengths), LENGTH, dtype=torch.long)
    for row, length in enumerate(lengths):
        input_ids[row, LENGTH - length :] = tokens(1, length, seed=length)[0]
        real[row, LENGTH - length :] = 1

    full = model(input_ids, attention_mask=real, use_cache=False).logits
    decoded = decode(model, make_cache(model.config), input_ids, prompt=7, step=2, attention_mask=real)
    for row, length in enumerate(lengths):
        for padded in (full, decoded):
            assert padded.isfinite().all()
            assert torch.allclose(padded[row, LENGTH - length :], alone[row], rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", ["gqa", "gta", "gla", "tied"])
@torch.no_grad()
def test_right_padded_prompts_continue_as_if_they_were_alone(name):
    """Padding between prompt and continuation does not count, and positions count real tokens."""
    model = case_model(name)
    prompt, continuation = tokens(1, 5, seed=3), tokens(1, 3, seed=4)
    alone = model(torch.cat((prompt, continuation), dim=1), use_cache=False).logits[:, 5:]
    padding = torch.zeros(1, 4, dtype=torch.long)
    real = torch.tensor([[1] * 5 + [0] * 4])
    cache = dynamic(model.config)
    model(torch.cat((prompt, padding), dim=1), attention_mask=real, past_key_values=cache)
    real = torch.cat((real, torch.ones(1, 3, dtype=torch.long)), dim=1)
    decoded = model(continuation, attention_mask=real, past_key_values=cache).logits
    assert torch.allclose(decoded, alone, rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", CASES)
@torch.no_grad()
def test_the_cache_holds_exactly_the_counted_elements(name):
    model = case_model(name)
    shape, rows = model.config.model_shape().attention, 3
    grown, preallocated = dynamic(model.config), static(model.config)
    for cache, slots in ((grown, 5), (preallocated, LENGTH + 3)):
        model(tokens(rows, 5), past_key_values=cache)
        assert len(cache.layers) == model.config.layers
        for layer in cache.layers:
            held = layer.keys.numel() + layer.values.numel()
            assert held == rows * slots * shape.cached_elements()
            widths = [state.elements for state in shape.cached_states()]
            assert [layer.keys.shape[-1], layer.values.shape[-1]] == [*widths, 0][:2]


@torch.no_grad()
def test_latents_are_cached_after_their_norm_and_rope_keys_after_rotation():
    model, cache = case_model("mla", layers=1), DynamicCache()
    attention = model.decoder.blocks[0].attention
    attention.latent_norm.weight.fill_(1.0)
    model(tokens(1, 4), past_key_values=cache)
    latent, rope_key = cache.layers[0].keys[0, 0], cache.layers[0].values[0, 0]
    assert torch.allclose(latent.pow(2).mean(-1), torch.ones(4, dtype=torch.float64), atol=0.05)
    hidden = model.decoder.blocks[0].attention_norm(model.decoder.embedding(tokens(1, 4)))
    unrotated = attention.input(hidden)[0, :, -attention.shape.rope_dim :]
    assert torch.equal(rope_key[0], unrotated[0])
    assert not torch.allclose(rope_key[1:], unrotated[1:], atol=1e-3)


@pytest.mark.parametrize("name", CASES)
def test_the_positions_of_a_sequence_may_start_anywhere(name):
    """Rotation is relative: shifted positions give the same logits in both forms."""
    model, input_ids = case_model(name), tokens(1, 8)
    with torch.no_grad():
        plain = model(input_ids, use_cache=False).logits
        positions = torch.arange(8)[None] + 5
        cache = dynamic(model.config)
        first = model(input_ids[:, :5], position_ids=positions[:, :5], past_key_values=cache).logits
        second = model(input_ids[:, 5:], position_ids=positions[:, 5:], past_key_values=cache).logits
    assert torch.allclose(torch.cat((first, second), dim=1), plain, rtol=0, atol=1e-12)


def test_a_mask_that_already_has_the_causal_part_is_refused():
    with pytest.raises(ValueError, match=r"attention_mask has the shape \(1, 1, 4, 4\)"):
        case_model("gqa")(tokens(1, 4), attention_mask=torch.ones(1, 1, 4, 4))


def test_documents_are_refused_once_tokens_are_cached():
    model, cache = case_model("gqa"), DynamicCache()
    model(tokens(1, 4), past_key_values=cache)
    with pytest.raises(ValueError, match="document_ids"):
        model(tokens(1, 1), past_key_values=cache, document_ids=torch.zeros(1, 1))
