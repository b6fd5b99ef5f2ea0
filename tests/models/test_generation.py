"""transformers' `generate` with these models: every way of decoding agrees with decoding without a cache."""

import pytest
import torch
from model_cases import CASES, case_model, tokens
from transformers import DynamicCache, StaticCache

NEW = 6


@torch.no_grad()
def greedy_without_cache(model, input_ids, new=NEW):
    for _ in range(new):
        best = model(input_ids, use_cache=False).logits[:, -1].argmax(dim=-1)
        input_ids = torch.cat((input_ids, best[:, None]), dim=1)
    return input_ids


def generate(model, input_ids, **options):
    return model.generate(input_ids, **{"max_new_tokens": NEW, "do_sample": False, "pad_token_id": 0, **options})


@pytest.mark.parametrize("options", [{}, {"cache_implementation": "static"}, {"use_cache": False}])
@pytest.mark.parametrize("name", CASES)
def test_greedy_generation_equals_greedy_choice_without_a_cache(name, options):
    model, input_ids = case_model(name), tokens(2, 5)
    assert torch.equal(generate(model, input_ids, **options), greedy_without_cache(model, input_ids))


@pytest.mark.parametrize("options", [{}, {"cache_implementation": "static"}])
@pytest.mark.parametrize("name", CASES)
def test_left_padded_prompts_generate_what_they_would_alone(name, options):
    model = case_model(name)
    short, long = tokens(1, 3, seed=3), tokens(1, 6, seed=6)
    together = torch.cat((torch.cat((torch.zeros(1, 3, dtype=torch.long), short), dim=1), long))
    real = torch.tensor([[0, 0, 0, 1, 1, 1], [1] * 6])
    generated = generate(model, together, attention_mask=real, **options)[:, 6:]
    assert torch.equal(generated[0], greedy_without_cache(model, short)[0, 3:])
    assert torch.equal(generated[1], greedy_without_cache(model, long)[0, 6:])


@pytest.mark.parametrize("name", CASES)
def test_beams_with_a_cache_are_the_beams_without_one(name):
    model, input_ids = case_model(name), tokens(2, 5)
    searches = [
        generate(model, input_ids, num_beams=3, return_dict_in_generate=True, output_scores=True, **options)
        for options in ({"use_cache": True}, {"use_cache": False}, {"cache_implementation": "static"})
    ]
    for search in searches[1:]:
        assert torch.equal(search.sequences, searches[0].sequences)
        assert torch.allclose(search.sequences_scores, searches[0].sequences_scores, atol=1e-10)
    assert not torch.equal(searches[0].sequences, greedy_without_cache(model, input_ids)) or name != "gqa"


@pytest.mark.parametrize("name", ["gqa", "gta", "mla", "gla", "tied"])
def test_sampled_tokens_are_the_same_with_and_without_a_cache(name):
    model, input_ids = case_model(name), tokens(2, 5)
    samples = []
    for use_cache in (True, False):
        torch.manual_seed(3)  # generate draws from the global stream and takes no generator
        samples.append(generate(model, input_ids, do_sample=True, temperature=0.8, top_k=20, use_cache=use_cache))
    assert torch.equal(samples[0], samples[1])
    assert not torch.equal(samples[0], greedy_without_cache(model, input_ids))


@pytest.mark.parametrize("make_cache", [DynamicCache, lambda config: StaticCache(config, max_cache_len=24)])
@pytest.mark.parametrize("name", ["gqa", "gta", "gla", "tied"])
def test_a_conversation_goes_on_in_the_same_cache(name, make_cache):
    """A second call of generate with the first one's cache reads only the new tokens."""
    model = case_model(name)
    cache = make_cache(config=model.config)
    first = generate(model, tokens(1, 5), past_key_values=cache)
    longer = torch.cat((first, tokens(1, 4, seed=9)), dim=1)
    assert torch.equal(generate(model, longer, past_key_values=cache), greedy_without_cache(model, longer))


@pytest.mark.parametrize("name", ["gqa", "gta", "gla", "tied"])
def test_a_decode_step_with_a_preallocated_cache_compiles_into_one_graph(name):
    model, input_ids = case_model(name, torch.float32), tokens(2, 7)
    full = model(input_ids, use_cache=False).logits
    cache = StaticCache(config=model.config, max_cache_len=9)
    step = torch.compile(model, fullgraph=True, backend="eager")
    with torch.no_grad():
        model(input_ids[:, :4], past_key_values=cache)
        for time in range(4, 7):
            positions = torch.full((2, 1), time)
            logits = step(input_ids[:, time : time + 1], position_ids=positions, past_key_values=cache).logits
            assert torch.allclose(logits[:, 0], full[:, time], atol=2e-5)


def test_hidden_states_come_with_the_embedding_and_every_layer():
    model, input_ids = case_model("gqa"), tokens(1, 4)
    output = model(input_ids, output_hidden_states=True)
    assert len(output.hidden_states) == model.config.layers + 1
    assert torch.equal(output.hidden_states[0], model.decoder.embedding(input_ids))
    assert torch.equal(model.head(output.hidden_states[-1]), output.logits)


def test_logits_to_keep_gives_the_last_positions_alone():
    model, input_ids = case_model("gqa"), tokens(1, 6)
    full = model(input_ids).logits
    assert torch.allclose(model(input_ids, logits_to_keep=2).logits, full[:, -2:], rtol=0, atol=1e-12)
    chosen = torch.tensor([0, 3])
    assert torch.allclose(model(input_ids, logits_to_keep=chosen).logits, full[:, chosen], rtol=0, atol=1e-12)


def test_attention_weights_are_refused_with_the_reason():
    with pytest.raises(ValueError, match="output_attentions=True"):
        case_model("gqa")(tokens(1, 4), output_attentions=True)


def test_the_cache_goes_by_its_old_and_its_new_name():
    model = case_model("gta")
    prompt, continuation = tokens(1, 4), tokens(1, 2)
    texts = []
    for name in ("past_key_values", "cache"):
        cache = DynamicCache(config=model.config)
        model(prompt, **{name: cache})
        assert cache.get_seq_length() == 4
        texts.append(model(continuation, **{name: cache}).logits)
    assert torch.equal(*texts)
    with pytest.raises(ValueError, match="two names of the same argument"):
        model(prompt, cache=cache, past_key_values=cache)
