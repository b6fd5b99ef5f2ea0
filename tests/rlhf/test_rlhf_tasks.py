"""Every kind of task through the command line, with models and data made on the spot where the hub would have them."""

from __future__ import annotations

import json

import datasets
import pyarrow.parquet as pq
import pytest
import torch
from rlhf_cases import metric_rows, only_run, tiny_rlhf
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM, LlamaForSequenceClassification

from experiments.data.tokenizer import PlainBytes

WORDS = (
    "yes",
    "four",
    "seven",
    "blue",
    "never",
    "north",
    "water",
    "often",
    "glass",
    "seldom",
    "spring",
    "almost",
    "river",
    "under",
    "third",
    "little",
)


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A folder with a policy, two reward models, and preference pairs."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "hf_cache")
    folder = tmp_path / "hub"
    folder.mkdir()
    tokenizer = PlainBytes().make(None)
    for number, (name, kind) in enumerate(
        [
            ("policy", LlamaForCausalLM),
            ("ground_truth", LlamaForSequenceClassification),
            ("proxy", LlamaForSequenceClassification),
        ]
    ):
        with torch.random.fork_rng():
            torch.manual_seed(number)
            model = kind(
                LlamaConfig(
                    vocab_size=len(tokenizer),
                    hidden_size=16,
                    intermediate_size=32,
                    num_hidden_layers=2,
                    num_attention_heads=2,
                    num_labels=1,
                    pad_token_id=tokenizer.pad_token_id,
                    eos_token_id=tokenizer.eos_token_id,
                    bos_token_id=tokenizer.bos_token_id,
                )
            )
        model.save_pretrained(folder / name)
        tokenizer.save_pretrained(folder / name)
    pairs = [{"prompt": f"Say {word}.", "chosen": word, "rejected": "no"} for word in WORDS]
    (folder / "pairs.jsonl").write_text("\n".join(json.dumps(pair) for pair in pairs))
    return folder


def steps_of(run) -> list[int]:
    """The steps whose loss was recorded."""
    return [row["step"] for row in metric_rows(run) if "policy_gradient/loss" in row]


@pytest.mark.parametrize(
    "reward",
    [
        ("reward=hub", "reward.name=proxy", "reward.hub.path={hub}/proxy"),
        (
            "reward=on_policy_50",
            "reward.trained.off_policy=dataset",
            "reward.trained.prompts=shared",  # the data set has no others
            "reward.trained.pairs=12",
            "reward.trained.batch_size=4",
        ),
    ],
    ids=["hub reward model", "reward model trained on the data set's pairs"],
)
def test_a_hub_policy_learns_from_a_hub_data_set(rl_exp, tmp_path, hub, reward):
    words = tiny_rlhf(
        tmp_path,
        "task=preference",
        f"policy.path={hub}/policy",
        f"task.dataset.path={hub}/pairs.jsonl",
        f"task.scorer.path={hub}/ground_truth",
        "task.prompts=16",
        "task.max_new_tokens=6",
        "policy_gradient.steps=2",
        *(word.format(hub=hub) for word in reward),
    )
    result = rl_exp("rlhf", *words)
    assert result.exit_code == 0, result.output
    run = only_run(tmp_path)
    assert steps_of(run) == [1, 2]
    assert not (tmp_path / "outputs" / "train").exists()
    first = next(row for row in metric_rows(run) if row["step"] == 0)
    assert first["probe/kl"] == pytest.approx(0, abs=1e-4)
    assert "uses generate" not in result.output
    trained, initial = (AutoModelForCausalLM.from_pretrained(folder) for folder in (run / "model", hub / "policy"))
    assert type(trained) is LlamaForCausalLM
    assert not torch.equal(trained.lm_head.weight, initial.lm_head.weight)


def test_a_reward_model_that_is_not_there_is_named(rl_exp, tmp_path, hub):
    words = tiny_rlhf(
        tmp_path,
        "task=preference",
        f"policy.path={hub}/policy",
        f"task.dataset.path={hub}/pairs.jsonl",
        f"task.scorer.path={hub}/nowhere",
    )
    result = rl_exp("rlhf", *words)
    assert result.exit_code in (1, 2), result.output
    assert "nowhere" in "".join(result.output.split())
    assert "Traceback" not in result.output


def test_a_policy_can_start_on_reasoning(rl_exp, tmp_path, prepared):
    pytest.importorskip("reasoning_gym")
    words = tiny_rlhf(prepared, "task=reasoning", "task.prompts=12", "policy_gradient.steps=2")
    result = rl_exp("rlhf", *words)
    assert result.exit_code == 0, result.output
    assert steps_of(only_run(tmp_path)) == [1, 2]


@pytest.mark.parametrize("credit", ["partial_credit", "binary_credit"])
def test_constraints_give_partial_and_binary_credit(rl_exp, tmp_path, credit, prepared):
    words = tiny_rlhf(prepared, "task=constraints", f"reward={credit}", "policy_gradient.steps=2")
    result = rl_exp("rlhf", *words)
    assert result.exit_code == 0, result.output
    assert steps_of(only_run(tmp_path)) == [1, 2]


def test_instructions_of_a_benchmark_are_followed_by_a_hub_policy(rl_exp, tmp_path, hub):
    pytest.importorskip("if_verifiable")
    words = tiny_rlhf(
        tmp_path,
        "task=ifbench",
        "task.constraints.names=[ifbench/words:alphabet,ifeval/punctuation:no_comma]",
        f"policy.path={hub}/policy",
        f"task.dataset.path={hub}/pairs.jsonl",
        "task.dataset.split=train",
        "task.prompts=12",
        "task.max_new_tokens=6",
        "reward=partial_credit",
        "policy_gradient.steps=2",
    )
    result = rl_exp("rlhf", *words)
    assert result.exit_code == 0, result.output
    assert steps_of(only_run(tmp_path)) == [1, 2]


def test_a_reward_model_is_trained_on_prompts_that_the_policy_does_not_see(rl_exp, tmp_path, prepared):
    words = tiny_rlhf(
        prepared,
        "reward=on_policy_100",
        "reward.trained.pairs=12",
        "reward.trained.epochs=1",
        "task.prompts=16",
        "task.fluency_weight=1",
        "policy_gradient.steps=1",
    )
    result = rl_exp("rlhf", *words)
    assert result.exit_code == 0, result.output
    (pairs,) = (tmp_path / "outputs" / "artifacts" / "preference_pairs").glob("*/pairs.parquet")
    assert set(pq.read_table(pairs).column("prompt").to_pylist()) <= set(range(16, 32))
    manifest = json.loads((only_run(tmp_path) / "manifest.json").read_text())
    assert manifest["reward"]["prompt_split"] == "disjoint"


def test_a_data_set_without_prompts_for_the_reward_model_says_how_to_share_them(rl_exp, tmp_path, hub):
    words = tiny_rlhf(
        tmp_path,
        "task=preference",
        f"policy.path={hub}/policy",
        f"task.dataset.path={hub}/pairs.jsonl",
        f"task.scorer.path={hub}/ground_truth",
        "task.prompts=16",
        "task.max_new_tokens=6",
        "reward=on_policy_100",
    )
    result = rl_exp("rlhf", *words)
    assert result.exit_code != 0
    assert "set reward.trained.prompts=shared" in " ".join(result.output.split())
