"""Folders that are no policy or no reward model: one line with setting and folder, exit code 2, and nothing written."""

import json
import shutil

import pytest
from rlhf_cases import tiny_rlhf
from transformers import LlamaConfig, LlamaForCausalLM, LlamaForSequenceClassification

from experiments.data.tokenizer import PlainBytes

SIZES = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "vocab_size": 258}


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A tiny policy, a reward model and a classifier of two labels, with their tokenizers."""
    folder = tmp_path_factory.mktemp("models")
    LlamaForCausalLM(LlamaConfig(**SIZES)).save_pretrained(folder / "policy")
    for name, labels in (("reward", 1), ("two_labels", 2)):
        LlamaForSequenceClassification(LlamaConfig(**SIZES, num_labels=labels)).save_pretrained(folder / name)
    for model in list(folder.iterdir()):
        PlainBytes().make(None).save_pretrained(model)
    return folder


@pytest.fixture
def refused(rl_exp, tmp_path):
    """`refused("policy.path=...")`: what the command line says."""

    def call(*changes):
        result = rl_exp("rlhf", *tiny_rlhf(tmp_path, *changes))
        assert result.exit_code == 2, result.output
        assert not (tmp_path / "outputs").exists()
        assert len(result.stderr.strip().splitlines()) == 1
        return result.stderr

    return call


def without(saved, tmp_path, *patterns):
    folder = shutil.copytree(saved / "policy", tmp_path / "spoiled")
    for pattern in patterns:
        for file in folder.glob(pattern):
            file.unlink()
    return folder


def test_a_policy_without_a_tokenizer(saved, refused, tmp_path):
    folder = without(saved, tmp_path, "tokenizer*", "special_tokens*", "vocab*")
    assert f"policy.path={folder} holds no tokenizer (none of tokenizer.json" in refused(f"policy.path={folder}")


def test_a_tokenizer_without_an_end_of_text_token(saved, refused, tmp_path):
    folder = without(saved, tmp_path)
    described = json.loads((folder / "tokenizer_config.json").read_text())
    del described["eos_token"]
    (folder / "tokenizer_config.json").write_text(json.dumps(described))
    said = refused(f"policy.path={folder}")
    assert f"policy.path={folder} has a tokenizer without an end-of-text token: name one as eos_token" in said


def test_a_sequence_classifier_as_policy(saved, refused):
    said = refused(f"policy.path={saved / 'reward'}")
    assert f"policy.path={saved / 'reward'} is a LlamaForSequenceClassification, which writes no text" in said


def test_a_policy_as_reward_model(saved, refused):
    said = refused("reward=hub", f"reward.hub.path={saved / 'policy'}")
    assert f"reward.hub.path={saved / 'policy'} is a LlamaForCausalLM, which scores no text" in said


def test_a_reward_model_with_two_labels(saved, refused):
    said = refused("reward=hub", f"reward.hub.path={saved / 'two_labels'}")
    assert "has 2 outputs (LABEL_0, LABEL_1): say which is the reward with reward.hub.label" in said


def test_a_ground_truth_with_two_labels(saved, refused, tmp_path):
    (tmp_path / "pairs.jsonl").write_text("")
    data = f"task.dataset.path={tmp_path}/pairs.jsonl"
    said = refused("task=preference", data, f"task.scorer.path={saved / 'two_labels'}")
    assert "say which is the reward with task.scorer.label" in said
