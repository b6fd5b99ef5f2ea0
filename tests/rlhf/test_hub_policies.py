"""A policy of transformers with dropout in its configuration, trained at a temperature other than 1; its identity."""

from __future__ import annotations

import json
import os

import huggingface_hub.constants
import pytest
import torch
from rlhf_cases import metric_rows, only_run, tiny_rlhf
from transformers import AutoModelForCausalLM, GPT2Config, GPT2LMHeadModel
from typer.testing import CliRunner

from cli.main import app
from experiments.data.tokenizer import PlainBytes
from experiments.runs.external_inputs import identity_of_input, local_files
from experiments.training.dropout import disable_dropout


def save_gpt2(folder):
    tokenizer = PlainBytes().make(None)
    ids = {"eos_token_id": tokenizer.eos_token_id, "bos_token_id": tokenizer.bos_token_id}
    config = GPT2Config(vocab_size=len(tokenizer), n_positions=64, n_embd=16, n_layer=1, n_head=2, **ids)
    assert config.resid_pdrop == config.attn_pdrop == config.embd_pdrop == 0.1
    with torch.random.fork_rng():
        torch.manual_seed(0)
        GPT2LMHeadModel(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Two steps that leave the policy where it is, at a temperature of .6."""
    folder = tmp_path_factory.mktemp("hub")
    changes = (
        "task.prompt_tokens=14",
        "task.prompts=4",
        "probe.prompts=4",
        "policy_gradient.steps=2",
        "policy_gradient.learning_rate=1e-9",
        "policy_gradient.temperature=0.6",
    )
    words = tiny_rlhf(folder, f"policy.path={save_gpt2(folder / 'gpt2')}", *changes)
    words.append(f"output_dir={folder}/outputs")
    result = CliRunner().invoke(app, ["rlhf", *words])
    assert result.exit_code == 0, result.output
    assert "its dropout of 0.1 is off" in result.output
    assert "uses generate, not the decode engine: GPT2LMHeadModel is not shaped" in " ".join(result.output.split())
    return only_run(folder)


def test_a_policy_that_is_not_moved_has_ratio_one_and_no_kl_in_spite_of_dropout_and_temperature(run):
    rows = [row for row in metric_rows(run) if "policy_gradient/loss" in row]
    assert len(rows) == 2
    for row in rows:
        assert row["policy_gradient/mean_ratio"] == pytest.approx(1, abs=1e-5)
        assert row["policy_gradient/kl"] == pytest.approx(0, abs=1e-4)
        assert row["policy_gradient/clip_share"] == 0


def test_the_trained_policy_keeps_the_dropout_of_its_configuration(run):
    assert AutoModelForCausalLM.from_pretrained(run / "model").config.resid_pdrop == 0.1


def test_the_manifest_names_the_contents_of_the_policy(run):
    identity = json.loads((run / "manifest.json").read_text())["policy_identity"]
    assert identity == identity_of_input(str(run.parents[2] / "gpt2"))


def test_dropout_is_off_in_training_mode_too(tmp_path):
    model = AutoModelForCausalLM.from_pretrained(save_gpt2(tmp_path / "gpt2"))
    assert disable_dropout(model) == 0.1
    model.train()
    tokens = torch.arange(20)[None]
    assert torch.equal(model(tokens).logits, model(tokens).logits)
    assert disable_dropout(model) == 0


def test_a_local_model_is_its_contents_not_its_times_or_place(tmp_path):
    first, copy = save_gpt2(tmp_path / "a"), save_gpt2(tmp_path / "b")
    os.utime(copy / "model.safetensors", (0, 0))
    assert identity_of_input(str(first)) == identity_of_input(str(copy))
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps(config | {"resid_pdrop": 0.2}))
    assert identity_of_input(str(first)) != identity_of_input(str(copy))


def test_a_hub_model_is_its_commit(tmp_path, monkeypatch):
    cache = tmp_path / "models--someone--gpt2"
    save_gpt2(cache / "snapshots" / ("c" * 40))
    (cache / "refs").mkdir()
    (cache / "refs" / "main").write_text("c" * 40)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    assert identity_of_input("someone/gpt2") == {"hub": "someone/gpt2", "commit": "c" * 40}


@pytest.mark.parametrize("setting", ["reward.hub.path", "policy.path", "task.scorer.path"])
def test_a_model_folder_that_changes_makes_another_run(rl_exp, tmp_path, setting):
    model = save_gpt2(tmp_path / "model")
    (tmp_path / "pairs.jsonl").write_text("")
    words = ["rlhf", "--dry-run", f"{setting}={model}", "tracking.mode=disabled"]
    words += {"reward.hub.path": ["reward=hub"], "policy.path": []}.get(
        setting, ["task=preference", f"task.dataset.path={tmp_path}/pairs.jsonl"]
    )
    before = run_id_of(rl_exp(*words))
    assert run_id_of(rl_exp(*words)) == before
    (local_files(str(model))[0]).write_text("{}")
    assert run_id_of(rl_exp(*words)) != before


def run_id_of(result) -> str:
    assert result.exit_code == 0, result.output
    (line,) = [line for line in result.output.splitlines() if line.startswith("# run ")]
    return line.split()[2]
