"""The reward model scores the last real token, wherever padding stands, and survives being saved."""

from __future__ import annotations

import pytest
import torch
from transformers import AutoModelForSequenceClassification

from experiments.models.configuration import RlExpConfig
from experiments.models.reward_head import RlExpForSequenceClassification, reward_model_from
from experiments.models.transformer import build_model


def nano_policy(attention: str = "gqa", **settings):
    config = RlExpConfig(
        attention=attention, hidden_size=32, layers=2, query_heads=4, head_dim=8, vocab_size=50, **settings
    )
    return build_model(config, torch.Generator().manual_seed(0))


def nano_reward_model(attention: str = "gqa", **settings) -> RlExpForSequenceClassification:
    model = reward_model_from(nano_policy(attention, **settings), torch.Generator().manual_seed(1))
    with torch.no_grad():
        model.score.weight.mul_(50)  # so that rounding does not hide differences
    return model.eval()


ROWS = [[3, 1, 4, 1, 5], [9, 2, 6], [5, 3, 5, 8, 9, 7, 9]]


def padded(rows, side: str, padding: int = 0):
    width = max(map(len, rows))
    filled = [
        row + [padding] * (width - len(row)) if side == "right" else [padding] * (width - len(row)) + row
        for row in rows
    ]
    masks = [
        [1] * len(row) + [0] * (width - len(row)) if side == "right" else [0] * (width - len(row)) + [1] * len(row)
        for row in rows
    ]
    return torch.tensor(filled), torch.tensor(masks)


@torch.no_grad()
@pytest.mark.parametrize("attention", ["mha", "gqa", "gta", "mla", "gla"])
@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_on_either_side_changes_no_score(attention, side):
    model = nano_reward_model(attention)
    alone = torch.stack([model(torch.tensor([row])).logits[0] for row in ROWS])
    tokens, mask = padded(ROWS, side)
    together = model(tokens, attention_mask=mask).logits
    assert alone.std() > 0.1
    torch.testing.assert_close(together, alone)


@torch.no_grad()
@pytest.mark.parametrize("attention", ["mha", "gqa", "gta", "mla", "gla"])
def test_scores_of_completions_with_shared_prompts_are_the_logits(attention):
    model = nano_reward_model(attention)
    prompts = [[3, 1], [3, 1], [9, 2, 6], [3, 1]]
    completions = [[4], [1, 5, 9], [2, 6], [5, 3, 5, 8, 9]]
    rows = [prompt + completion for prompt, completion in zip(prompts, completions, strict=True)]
    expected = torch.stack([model(torch.tensor([row])).logits[0, 0] for row in rows])
    torch.testing.assert_close(model.scores(prompts, completions), expected)


@torch.no_grad()
def test_without_a_mask_padding_tokens_are_left_out():
    model = nano_reward_model(pad_token_id=0)
    tokens, mask = padded(ROWS, "right")
    torch.testing.assert_close(model(tokens).logits, model(tokens, attention_mask=mask).logits)


def test_the_decoder_is_a_copy_of_the_policys():
    policy = nano_policy()
    before = {name: value.clone() for name, value in policy.state_dict().items()}
    model = reward_model_from(policy, torch.Generator().manual_seed(1))
    for name, value in model.decoder.state_dict().items():
        assert torch.equal(value, policy.decoder.state_dict()[name])
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(1.0)
    assert all(torch.equal(value, before[name]) for name, value in policy.state_dict().items())
    assert policy.config.num_labels != 1


@torch.no_grad()
def test_a_smaller_reward_model_has_the_leading_blocks():
    policy = nano_policy()
    small = reward_model_from(policy, torch.Generator().manual_seed(1), layers=1)
    assert len(small.decoder.blocks) == small.config.layers == 1
    inputs = torch.tensor([ROWS[0]])
    states = []
    policy.decoder.hidden_states(inputs, all_hidden_states=states)
    expected = small.score(policy.decoder.norm(states[1])[:, -1])
    torch.testing.assert_close(small(inputs).logits, expected)
    with pytest.raises(ValueError, match="3 layers"):
        reward_model_from(policy, torch.Generator(), layers=3)


def test_equal_generators_make_equal_heads():
    a, b, c = (reward_model_from(nano_policy(), torch.Generator().manual_seed(seed)) for seed in (1, 1, 2))
    assert torch.equal(a.score.weight, b.score.weight)
    assert not torch.equal(a.score.weight, c.score.weight)


@torch.no_grad()
def test_it_is_saved_and_loaded_through_the_auto_class(tmp_path):
    model = nano_reward_model("gla")
    model.save_pretrained(tmp_path)
    loaded = AutoModelForSequenceClassification.from_pretrained(tmp_path)
    assert type(loaded) is RlExpForSequenceClassification
    assert loaded.config.num_labels == 1
    tokens, mask = padded(ROWS, "right")
    assert torch.equal(loaded(tokens, attention_mask=mask).logits, model(tokens, attention_mask=mask).logits)


def test_it_can_be_trained_through_labels():
    model = nano_reward_model()
    tokens, mask = padded(ROWS, "right")
    output = model(tokens, attention_mask=mask, labels=torch.tensor([1.0, 0.0, -1.0]))
    expected = ((output.logits.squeeze(1) - torch.tensor([1.0, 0.0, -1.0])) ** 2).mean()
    torch.testing.assert_close(output.loss, expected)
    output.loss.backward()
    assert model.score.weight.grad.abs().sum() > 0
