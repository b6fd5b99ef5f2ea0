"""Any classifier in the layout of transformers scores texts; models are made on the spot."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from made_up_outputs import made_up_outputs
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForSequenceClassification, PreTrainedTokenizerFast

from experiments.rewards.hub_reward import HubReward, SequenceClassifierScorer

WORDS = ["<s>", "</s>", "<pad>", "user", "assistant", "good", "bad", "day", "night", "and", "a", "peace"]
TEMPLATE = "<s>{% for m in messages %} {{ m['role'] }} {{ m['content'] }} </s>{% endfor %}"


def save_classifier(folder, *, labels=1, template=TEMPLATE, padding: bool = True, pad_token="<pad>", positions=2048):
    vocabulary = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="a"))
    vocabulary.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    special = {"bos_token": "<s>", "eos_token": "</s>"} | ({"pad_token": pad_token} if padding else {})
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=vocabulary, **special)
    tokenizer.chat_template = template
    config = LlamaConfig(
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=2,
        intermediate_size=32,
        vocab_size=len(WORDS),
        num_labels=labels,
        pad_token_id=WORDS.index(pad_token) if padding else None,
        initializer_range=1.0,
        max_position_embeddings=positions,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = LlamaForSequenceClassification(config)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return model.eval()


PROMPTS = ["good day", "bad", "a a a a"]
RESPONSES = ["and good night", "peace", "and bad and bad and bad day"]


@torch.no_grad()
def by_hand(model, text: str, label: int = 0) -> float:
    tokens = torch.tensor([[WORDS.index(word) for word in text.split()]])
    model.config.pad_token_id = None
    return model(tokens).logits[0, label].item()


@pytest.mark.parametrize("padding", [True, False])
def test_scores_are_those_of_the_model_on_its_own_template(padding, tmp_path):
    model = save_classifier(tmp_path, padding=padding)
    scorer = SequenceClassifierScorer(str(tmp_path), batch_size=2)
    scores = scorer.score(PROMPTS, RESPONSES)
    expected = [
        by_hand(model, f"<s> user {p} </s> assistant {r} </s>") for p, r in zip(PROMPTS, RESPONSES, strict=True)
    ]
    np.testing.assert_allclose(scores, expected, rtol=1e-5)
    assert scores.std() > 0.01


def test_without_a_template_prompt_and_response_are_joined(tmp_path):
    model = save_classifier(tmp_path, template=None)
    scorer = SequenceClassifierScorer(str(tmp_path))
    score = scorer.score(["good day "], ["and peace"])
    assert score[0] == pytest.approx(by_hand(model, "good day and peace"), rel=1e-5)
    with pytest.raises(ValueError, match="no chat template"):
        SequenceClassifierScorer(str(tmp_path), chat=True)


def test_the_template_can_be_left_out(tmp_path):
    model = save_classifier(tmp_path)
    score = SequenceClassifierScorer(str(tmp_path), chat=False).score(["good day "], ["and peace"])
    assert score[0] == pytest.approx(by_hand(model, "good day and peace"), rel=1e-5)


def test_of_several_outputs_the_reward_is_named(tmp_path):
    model = save_classifier(tmp_path, labels=3)
    with pytest.raises(ValueError, match=r"3 outputs .*reward\.hub\.label"):
        SequenceClassifierScorer(str(tmp_path))
    with pytest.raises(ValueError, match="0 to 2"):
        SequenceClassifierScorer(str(tmp_path), label=3)
    score = SequenceClassifierScorer(str(tmp_path), label=2).score(["bad"], ["day"])
    assert score[0] == pytest.approx(by_hand(model, "<s> user bad </s> assistant day </s>", label=2), rel=1e-5)


def test_long_texts_keep_their_end(tmp_path, caplog):
    model = save_classifier(tmp_path, template=None)
    scorer = SequenceClassifierScorer(str(tmp_path), most_tokens=3)
    score = scorer.score(["good day and night "], ["bad and peace"])
    assert score[0] == pytest.approx(by_hand(model, "bad and peace"), rel=1e-5)
    assert "1 of 1 texts" in caplog.text


def test_a_model_that_is_not_there_is_a_mistake_of_one_line(tmp_path):
    with pytest.raises(ValueError, match=r"reward\.hub\.path=.*cannot be loaded") as caught:
        SequenceClassifierScorer(str(tmp_path / "nothing"))
    assert "\n" not in str(caught.value)


def test_as_a_reward_it_reads_the_texts_of_outputs(tmp_path):
    save_classifier(tmp_path)
    reward = HubReward("hub", SequenceClassifierScorer(str(tmp_path)))
    outputs = made_up_outputs(prompts=2, samples=3)
    order = [4, 0, 2]
    np.testing.assert_allclose(reward(outputs.take(order)), reward(outputs)[order], rtol=1e-5)
    assert reward.facts["path"] == str(tmp_path)


def test_a_text_that_ends_with_its_padding_token_is_scored_at_its_end(tmp_path):
    model = save_classifier(tmp_path, pad_token="</s>")
    scores = SequenceClassifierScorer(str(tmp_path), batch_size=3).score(PROMPTS, RESPONSES)
    texts = [f"<s> user {p} </s> assistant {r} </s>" for p, r in zip(PROMPTS, RESPONSES, strict=True)]
    np.testing.assert_allclose(scores, [by_hand(model, text) for text in texts], rtol=1e-5)


def test_a_text_longer_than_the_model_has_positions_loses_its_beginning(tmp_path, caplog):
    model = save_classifier(tmp_path, template=None, positions=3)
    score = SequenceClassifierScorer(str(tmp_path)).score(["good day and night "], ["bad and peace"])
    assert score[0] == pytest.approx(by_hand(model, "bad and peace"), rel=1e-5)
    assert "1 of 1 texts are cut to 3 tokens" in caplog.text


def test_a_doubled_beginning_of_text_is_warned_of_once(tmp_path, caplog):
    save_classifier(tmp_path, template=None)
    scorer = SequenceClassifierScorer(str(tmp_path))
    scorer.tokenizer.add_bos_token = True
    if scorer.tokenizer("day")["input_ids"][:1] != [0]:
        rows = [[0, 0, 6]]
        scorer._warn_of_doubled_bos(rows)
        scorer._warn_of_doubled_bos(rows)
    else:
        scorer.score(["<s> good "] * 2, ["day"] * 2)
        scorer.score(["<s> good "], ["day"])
    assert caplog.text.count("two beginning-of-text tokens") == 1
