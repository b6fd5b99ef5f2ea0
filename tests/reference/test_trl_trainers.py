"""trl's trainers on models of ours: SFTTrainer, GRPOTrainer, RLOOTrainer and RewardTrainer take a step as on any model.

Needs the extra `peers`.
"""

import pytest
import torch
from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

from experiments.data.tokenizer import PlainBytes
from experiments.models.configuration import RlExpConfig
from experiments.models.reward_head import RlExpForSequenceClassification
from experiments.models.transformer import build_model

trl = pytest.importorskip("trl", reason="needs the extra `peers`: pip install 'rl-exp[peers]'")
pytestmark = pytest.mark.slow

MECHANISMS = ("gqa", "gta", "gla")
COMMON = {
    "use_cpu": True,
    "report_to": "none",
    "bf16": False,
    "max_steps": 1,
    "save_strategy": "no",
    "logging_steps": 1,
}


@pytest.fixture(scope="module", params=MECHANISMS)
def exported(request, tmp_path_factory):
    """Folders of a policy and a reward model as our runs save them."""
    folder, tokenizer = tmp_path_factory.mktemp(request.param), PlainBytes().make(None)
    config = RlExpConfig(
        attention=request.param, hidden_size=32, layers=2, query_heads=4, head_dim=8, feed_forward_dim=48,
        vocab_size=len(tokenizer), eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    build_model(config, torch.Generator().manual_seed(0)).save_pretrained(folder / "policy")
    config.num_labels = 1
    RlExpForSequenceClassification(config).save_pretrained(folder / "reward")
    for name in ("policy", "reward"):
        tokenizer.save_pretrained(folder / name)
    return folder


def finite_step(trainer):
    """One step, after which the weights have moved and the loss is a number."""
    before = {name: value.detach().clone() for name, value in trainer.model.named_parameters()}
    loss = trainer.train().training_loss
    assert loss == loss
    assert any(not torch.equal(before[name], value) for name, value in trainer.model.named_parameters())


@pytest.mark.parametrize("checkpointing", [False, True])
def test_sft_trainer(exported, tmp_path, checkpointing):
    rows = [{"prompt": f"say {i} ", "completion": "gladly"} for i in range(4)]
    config = trl.SFTConfig(
        str(tmp_path), **COMMON, per_device_train_batch_size=4, gradient_checkpointing=checkpointing, max_length=32
    )
    model = AutoModelForCausalLM.from_pretrained(exported / "policy")
    finite_step(
        trl.SFTTrainer(
            model=model,
            args=config,
            train_dataset=Dataset.from_list(rows),
            processing_class=AutoTokenizer.from_pretrained(exported / "policy"),
        )
    )


@pytest.mark.parametrize("kind", ["GRPO", "RLOO"])
def test_grpo_and_rloo_trainer_generate_and_learn(exported, tmp_path, kind):
    settings = getattr(trl, f"{kind}Config")(
        str(tmp_path),
        **COMMON,
        per_device_train_batch_size=8,
        num_generations=4,
        max_completion_length=6,
        beta=0.1,
        learning_rate=1e-3,
        gradient_checkpointing=False,
    )
    trainer = getattr(trl, f"{kind}Trainer")(
        model=str(exported / "policy"),
        reward_funcs=lambda completions, **_: [float(text.count("e")) + len(set(text)) for text in completions],
        args=settings,
        train_dataset=Dataset.from_list([{"prompt": "one "}, {"prompt": "two "}]),
    )
    finite_step(trainer)


def test_grpo_trainer_with_our_reward_model(exported, tmp_path):
    settings = trl.GRPOConfig(
        str(tmp_path), **COMMON, per_device_train_batch_size=8, num_generations=4, max_completion_length=6,
        learning_rate=1e-3,
    )  # fmt: skip
    trainer = trl.GRPOTrainer(
        model=str(exported / "policy"),
        reward_funcs=str(exported / "reward"),
        args=settings,
        train_dataset=Dataset.from_list([{"prompt": "one "}, {"prompt": "two "}]),
    )
    finite_step(trainer)


def test_reward_trainer(exported, tmp_path):
    rows = [{"prompt": "say ", "chosen": f"yes {i}", "rejected": f"no {i}"} for i in range(4)]
    trainer = trl.RewardTrainer(
        model=AutoModelForSequenceClassification.from_pretrained(exported / "reward"),
        args=trl.RewardConfig(str(tmp_path), **COMMON, per_device_train_batch_size=4, max_length=32),
        train_dataset=Dataset.from_list(rows),
        processing_class=AutoTokenizer.from_pretrained(exported / "reward"),
    )
    finite_step(trainer)
