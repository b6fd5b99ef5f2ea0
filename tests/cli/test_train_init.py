"""`rl-exp train init.path=...` continues from a model: its weights, shape and tokenizer, a new optimizer."""

import json
import shutil

import pytest
import torch
from train_cases import metric_rows, only_run, tiny_training
from transformers import GPT2Config, GPT2LMHeadModel

from experiments.data.tokenizer import PlainBytes
from experiments.models.transformer import RlExpForCausalLM


@pytest.fixture
def first(rl_exp, tmp_path):
    """A finished run, moved aside."""
    result = rl_exp("train", *tiny_training(tmp_path, "attention=gta"))
    assert result.exit_code == 0, result.output
    return shutil.move(only_run(tmp_path), tmp_path / "first")


def test_training_continues_where_the_model_ended_whatever_the_settings_of_the_shape(rl_exp, tmp_path, first):
    ended = json.loads((first / "summary.json").read_text())
    changes = ("attention=gla", "model=tiny", "tokenizer=bpe", "training.evaluation_tokens=512", f"init.path={first}")
    result = rl_exp("train", *tiny_training(tmp_path, *changes))
    assert result.exit_code == 0, result.output
    run = only_run(tmp_path)
    begins = next(row for row in metric_rows(run) if "eval/local/loss" in row)
    assert begins["eval/local/loss"] == pytest.approx(ended["eval/local/loss"], rel=1e-6)
    summary = json.loads((run / "summary.json").read_text())
    assert (summary["mechanism"], summary["parameters"]) == ("gta", ended["parameters"])
    assert summary["eval/local/loss"] < ended["eval/local/loss"]
    before, after = (RlExpForCausalLM.from_pretrained(folder / "model") for folder in (first, run))
    assert after.config.model_shape() == before.config.model_shape()
    assert not torch.equal(after.head.weight, before.head.weight)
    assert "content" in json.loads((run / "manifest.json").read_text())["init"]


def test_the_content_of_the_model_is_part_of_the_run(rl_exp, tmp_path, first):
    def run_id():
        result = rl_exp("train", "--dry-run", *tiny_training(tmp_path, f"init.path={first}"))
        return result.output.splitlines()[-1].split()[2]

    before = run_id()
    assert run_id() == before
    (first / "model" / "generation_config.json").write_text("{}")
    assert run_id() != before


def test_a_path_without_a_model_is_one_line(rl_exp, tmp_path):
    (tmp_path / "empty").mkdir()
    result = rl_exp("train", *tiny_training(tmp_path, f"init.path={tmp_path}/empty"))
    assert result.exit_code == 2
    assert f"init.path={tmp_path}/empty holds no model (no config.json)" in result.stderr


def test_a_model_that_our_decoder_does_not_have_is_one_line(rl_exp, tmp_path):
    tokenizer = PlainBytes().make(None)
    sizes = {"vocab_size": len(tokenizer), "n_positions": 32, "n_embd": 8, "n_layer": 1, "n_head": 1}
    GPT2LMHeadModel(GPT2Config(**sizes)).save_pretrained(tmp_path / "gpt2")
    tokenizer.save_pretrained(tmp_path / "gpt2")
    result = rl_exp("train", *tiny_training(tmp_path, f"init.path={tmp_path}/gpt2"))
    assert result.exit_code != 0
    assert "training continues from models that our decoder has (" in " ".join(result.output.split())
