"""A preference task with a policy, a reward model and data made on the spot, through the code that loads hub models."""

from __future__ import annotations

import json

import datasets
import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, LlamaForSequenceClassification

from experiments.data.hub_rows import HubRows
from experiments.rewards.hub_reward import SequenceClassifierScorer
from experiments.tasks.dataset_prompts import dataset_prompt_set
from experiments.tasks.preference import PreferenceTask
from experiments.tasks.prompt_set import PolicyTokenizer, PromptOptions
from experiments.training.rollouts import GenerateSampler


def tiny(tokenizer, **changes) -> LlamaConfig:
    return LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
        bos_token_id=tokenizer.bos_token_id,
        **changes,
    )


@pytest.fixture
def rows(tmp_path, monkeypatch) -> HubRows:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "hf_cache")
    file = tmp_path / "pairs.jsonl"
    pairs = [{"prompt": f"Say {word}.", "chosen": word, "rejected": "no"} for word in ("yes", "four", "seven")]
    file.write_text("\n".join(json.dumps(pair) for pair in pairs))
    return HubRows(str(file), setting="task.dataset")


def test_completions_of_a_hub_policy_are_graded_by_a_hub_reward_model(tmp_path, rows, chat_tokenizer, byte_tokenizer):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        policy = LlamaForCausalLM(tiny(chat_tokenizer)).eval()
        reward_model = LlamaForSequenceClassification(tiny(byte_tokenizer, num_labels=1)).eval()
    reward_model.save_pretrained(tmp_path / "reward")
    byte_tokenizer.save_pretrained(tmp_path / "reward")
    scorer = SequenceClassifierScorer(str(tmp_path / "reward"))
    options = PromptOptions(prompts=3, max_new_tokens=6)
    prompts = dataset_prompt_set(rows, PolicyTokenizer(chat_tokenizer, "t"), options)
    task = PreferenceTask(prompts, scorer.score, {"path": "reward"})
    sampler = GenerateSampler(policy, chat_tokenizer, max_new_tokens=6, stop_tokens=task.stop_tokens)
    rollouts = sampler.sample(task.prompts, 2, seed=0)
    outputs = rollouts.outputs(task)
    assert len(outputs) == 6
    assert np.isfinite(outputs.ground_truth).all()
    # The reward model reads texts with its own tokenizer: asked directly, it says the same.
    texts = [prompt.text + text for prompt, text in zip(outputs.prompts, outputs.texts, strict=True)]
    with torch.no_grad():
        direct = [float(reward_model(torch.tensor([list(text.encode())])).logits) for text in texts]
    np.testing.assert_allclose(outputs.ground_truth, direct, atol=1e-5)
    # And it grades the data set's own pair, for off-policy accuracy.
    chosen = [prompt.facts["chosen"] for prompt in task.prompts]
    scores, _ = task.score(task.prompts, chosen, [chat_tokenizer(text)["input_ids"] for text in chosen])
    assert scores.shape == (3,)
