"""The base model is called as transformers' base models are: peers give it what they give the complete model."""

import pytest
import torch
from model_cases import CASES, case_model, tokens
from transformers import DynamicCache
from transformers.modeling_outputs import BaseModelOutputWithPast


def cache_of(output):
    return output.cache if "cache" in output else output.past_key_values


@pytest.mark.parametrize("name", CASES)
def test_the_base_models_states_through_the_head_are_the_models_logits(name):
    model, input_ids = case_model(name, torch.float32), tokens(2, 6)
    output = model.base_model(
        input_ids=input_ids, attention_mask=torch.ones_like(input_ids), use_cache=False, num_items_in_batch=7
    )
    assert isinstance(output, BaseModelOutputWithPast)
    assert torch.equal(model.get_output_embeddings()(output.last_hidden_state), model(input_ids).logits)
    assert "cache" not in output
    assert "past_key_values" not in output


def test_a_cache_of_the_base_model_continues():
    model, input_ids = case_model("gqa", torch.float32), tokens(2, 6)
    complete = model.base_model(input_ids).last_hidden_state
    first = model.base_model(input_ids[:, :4], use_cache=True)
    assert isinstance(cache_of(first), DynamicCache)
    rest = model.base_model(input_ids[:, 4:], past_key_values=cache_of(first), use_cache=True)
    torch.testing.assert_close(rest.last_hidden_state, complete[:, 4:])


def test_embeddings_stand_in_for_ids():
    model, input_ids = case_model("gla", torch.float32), tokens(2, 6)
    given = model.base_model(inputs_embeds=model.get_input_embeddings()(input_ids))
    assert torch.equal(given.last_hidden_state, model.base_model(input_ids).last_hidden_state)


def test_hidden_states_begin_with_the_embeddings_and_end_with_what_the_head_reads():
    model, input_ids = case_model("gta", torch.float32), tokens(2, 6)
    output = model.base_model(input_ids, output_hidden_states=True)
    assert len(output.hidden_states) == model.config.num_hidden_layers + 1
    assert torch.equal(output.hidden_states[0], model.get_input_embeddings()(input_ids))
    assert torch.equal(output.hidden_states[-1], output.last_hidden_state)


def test_without_return_dict_the_states_come_first_in_a_tuple():
    model, input_ids = case_model("mla", torch.float32), tokens(2, 6)
    output = model.base_model(input_ids, use_cache=False, return_dict=False)
    assert isinstance(output, tuple)
    assert torch.equal(output[0], model.base_model(input_ids).last_hidden_state)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "either input_ids or inputs_embeds"),
        ({"input_ids": tokens(1, 3), "inputs_embeds": torch.zeros(1, 3, 8)}, "either input_ids or inputs_embeds"),
        ({"input_ids": tokens(1, 3), "output_attentions": True}, "output_attentions=True is not available"),
    ],
)
def test_what_the_base_model_cannot_do_is_refused_plainly(arguments, message):
    with pytest.raises(ValueError, match=message):
        case_model("gqa", torch.float32).base_model(**arguments)
