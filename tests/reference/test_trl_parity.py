"""Advantages, losses and gradients of trl's trainers on their own batches, against ours on the same.

The trainers are real, with a tiny Llama, a Qwen3 and a GPT-2 that has dropout in its configuration, in fp64: they
generate, score and shape a batch, and compute its loss. Old and reference log-probabilities are then moved, so that
clipping and KL act. The policy of our side is loaded by itself, as `rl-exp rlhf` loads it. trl pads prompts in front,
which shifts the positions of tokens, and rotations are in fp32: hence tolerances of 1e-5; GPT-2, whose positions are
learned, has prompts of one length. Needs the extra `peers`.
"""

import pytest
import torch
from datasets import Dataset
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from transformers import (
    AutoModelForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from experiments.training.advantages import advantages, reward_with_kl
from experiments.training.dropout import disable_dropout
from experiments.training.policy_gradient_step import PolicyGradientBatch, accumulate_gradient

trl = pytest.importorskip("trl", reason="needs the extra `peers`: pip install 'rl-exp[peers]'")

WORDS = ["<pad>", "<end>", "<unknown>", *(f"w{i}" for i in range(20))]
PROMPTS, SAMPLES, NEW_TOKENS = 3, 4, 7


FAMILIES = ("llama", "qwen3", "gpt2")
ROTARY_SIZES = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}


def tiny_model(family):
    ids = {"pad_token_id": 0, "eos_token_id": 1, "bos_token_id": None}
    common = {"vocab_size": len(WORDS), "initializer_range": 0.3, **ids}
    if family == "llama":
        return LlamaForCausalLM(LlamaConfig(**common, **ROTARY_SIZES))
    if family == "qwen3":
        return Qwen3ForCausalLM(Qwen3Config(**common, **ROTARY_SIZES, head_dim=8, tie_word_embeddings=True))
    config = GPT2Config(**common, n_positions=32, n_embd=32, n_layer=2, n_head=4)
    assert config.resid_pdrop == config.attn_pdrop == config.embd_pdrop == 0.1
    return GPT2LMHeadModel(config)


@pytest.fixture(scope="module", params=FAMILIES)
def policy(request, tmp_path_factory):
    """The folder of a tiny policy and its tokenizer, as trl loads the reference by name, and prompts that suit it."""
    folder = tmp_path_factory.mktemp(request.param)
    words = Tokenizer(WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="<unknown>"))
    words.pre_tokenizer = Whitespace()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=words, pad_token="<pad>", eos_token="<end>", unk_token="<unknown>"
    )
    tokenizer.save_pretrained(folder)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        tiny_model(request.param).save_pretrained(folder)
    one_length = ("w3 w4 w5", "w6 w7 w8", "w9 w10 w11")
    prompts = one_length if request.param == "gpt2" else ("w3 w4 w5", "w6", "w7 w8 w9 w10")
    return str(folder), prompts


def our_policy(folder):
    """As experiments/preparation/policy.py loads it, in fp64."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float64)
    disable_dropout(model)
    return model


def reward_of(completion_ids, **_):
    """Some groups have equal rewards: the lengths of completions and their share of even tokens, coarsened."""
    return [round(0.3 * len(row) + 2 * sum(token % 2 == 0 for token in row) / len(row)) / 2 for row in completion_ids]


def trainer_of(policy, tmp_path, kind, **settings):
    """A trl trainer that is ready to make a batch, with its policy in fp64."""
    trainer_class, config_class = {
        "rloo": (trl.RLOOTrainer, trl.RLOOConfig),
        "grpo": (trl.GRPOTrainer, trl.GRPOConfig),
    }[kind]
    config = config_class(
        output_dir=str(tmp_path),
        use_cpu=True,
        report_to="none",
        bf16=False,
        gradient_checkpointing=False,
        per_device_train_batch_size=PROMPTS * SAMPLES,
        num_generations=SAMPLES,
        max_completion_length=NEW_TOKENS,
        temperature=1.0,
        disable_dropout=True,
        **settings,
    )
    folder, texts = policy
    prompts = Dataset.from_list([{"prompt": text} for text in texts])
    trainer = trainer_class(model=folder, reward_funcs=reward_of, args=config, train_dataset=prompts)
    trainer.model.double().train()
    if trainer.ref_model is not None:
        trainer.ref_model.double()
    return trainer


def batch_of(trainer, policy):
    """What trl makes of a step's prompts: completions, masks, log-probabilities and advantages."""
    inputs = [{"prompt": text} for text in policy[1] for _ in range(SAMPLES)]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return trainer._generate_and_score_completions(inputs)


def rows_of(ids, mask):
    return [row[kept.bool()].tolist() for row, kept in zip(ids, mask, strict=True)]


def moved(values, seed, size=0.15):
    """As after some updates: log-probabilities a little elsewhere."""
    generator = torch.Generator().manual_seed(seed)
    return values + size * torch.randn(values.shape, generator=generator, dtype=values.dtype)


def gradient_of(model):
    return torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])


def trl_loss_and_gradient(trainer, batch):
    trainer.model.zero_grad()
    trainer.current_gradient_accumulation_steps = 1
    loss = trainer._compute_loss(trainer.model, batch)
    loss.backward()
    return float(loss.detach()), gradient_of(trainer.model)


def our_loss_and_gradient(policy, batch, old, values, reference=None, **options):
    model = our_policy(policy[0])
    ours = PolicyGradientBatch(
        rows_of(batch["prompt_ids"], batch["prompt_mask"]),
        rows_of(batch["completion_ids"], batch["completion_mask"]),
        old,
        values,
        reference,
    )
    settings = {"clip": 0.2, "kl_estimator": "k3", "kl_coefficient": 0.0, "sequence_ratio": False, **options}
    sums = accumulate_gradient(model, ours, range(len(ours)), **settings)
    return sums, gradient_of(model)


def rewards_of(batch):
    rows = rows_of(batch["completion_ids"], batch["completion_mask"])
    return torch.tensor(reward_of(rows), dtype=torch.float64).view(PROMPTS, SAMPLES)


def test_rloo_with_kl_in_the_reward(policy, tmp_path):
    trainer = trainer_of(policy, tmp_path, "rloo", beta=0.3)
    trainer.ref_model.lm_head.weight.data *= 1.05  # another policy than the trained one
    batch = batch_of(trainer, policy)

    # Advantages: the KL of a completion needs log-probabilities per token, which trl keeps to itself; ours are used.
    from experiments.training.log_probabilities import token_log_probabilities

    prompts = rows_of(batch["prompt_ids"], batch["prompt_mask"])
    completions = rows_of(batch["completion_ids"], batch["completion_mask"])
    with torch.no_grad():
        old, reference = (
            token_log_probabilities(model, prompts, completions).double()
            for model in (our_policy(policy[0]), trainer.ref_model)
        )
    log_ratios = (old - reference).sum(dim=1).view(PROMPTS, SAMPLES)
    assert float(log_ratios.abs().max()) > 0.05
    values = advantages(reward_with_kl(rewards_of(batch), log_ratios, 0.3), "rloo").flatten()
    torch.testing.assert_close(values, batch["advantages"].double(), rtol=1e-4, atol=1e-5)

    # The loss off-policy, with ratios of whole sequences.
    batch["old_logps"] = moved(batch["old_logps"].double(), seed=1)
    spread = torch.zeros(PROMPTS * SAMPLES, batch["completion_ids"].shape[1], dtype=torch.float64)
    spread[:, 0] = batch["old_logps"]  # only the sum over tokens matters to a ratio of sequences
    batch["advantages"] = batch["advantages"].double()
    wanted, gradient = trl_loss_and_gradient(trainer, batch)
    sums, found = our_loss_and_gradient(
        policy, batch, spread, batch["advantages"], denominator="sequences", sequence_ratio=True
    )
    assert sums["loss"] == pytest.approx(wanted, rel=1e-5)
    torch.testing.assert_close(found, gradient, rtol=1e-4, atol=1e-6)
    assert 0 < sums["clip_share"] < sums["units"]
    metrics = trainer._metrics["train"]
    assert sums["clip_share"] / sums["units"] == pytest.approx(metrics["clip_ratio/region_mean"][-1])


@pytest.mark.parametrize(
    ("loss_type", "denominator", "scale_rewards", "kind", "beta", "weighted"),
    [
        ("grpo", "each_sequence", "group", "grpo", 0.0, False),
        ("grpo", "each_sequence", "group", "grpo", 0.2, False),
        ("grpo", "each_sequence", "none", "grpo_without_std", 0.2, True),
        ("dapo", "tokens", "none", "grpo_without_std", 0.2, False),
        ("dr_grpo", "sequences", "none", "grpo_without_std", 0.0, False),
    ],
)
def test_grpo_with_kl_in_the_loss(policy, tmp_path, loss_type, denominator, scale_rewards, kind, beta, weighted):
    trainer = trainer_of(
        policy,
        tmp_path,
        "grpo",
        beta=beta,
        loss_type=loss_type,
        scale_rewards=scale_rewards,
        use_bias_correction_kl=weighted,
    )
    batch = batch_of(trainer, policy)
    values = advantages(rewards_of(batch), kind).flatten()
    torch.testing.assert_close(values, batch["advantages"].double(), rtol=1e-5, atol=1e-5)

    mask = batch["completion_mask"]
    with torch.no_grad():
        present = trainer._get_per_token_logps_and_entropies(
            trainer.model,
            torch.cat([batch["prompt_ids"], batch["completion_ids"]], dim=1),
            torch.cat([batch["prompt_mask"], mask], dim=1),
            mask.shape[1],
        )[0]
    batch["old_per_token_logps"], reference = moved(present, seed=1), moved(present, seed=2, size=0.5)
    if beta:
        batch["ref_per_token_logps"] = reference
    batch["num_items_in_batch"] = mask.sum()
    batch["advantages"] = batch["advantages"].double()
    wanted, gradient = trl_loss_and_gradient(trainer, batch)
    sums, found = our_loss_and_gradient(
        policy,
        batch,
        batch["old_per_token_logps"],
        batch["advantages"],
        reference,
        denominator=denominator,
        kl_coefficient=beta,
        importance_weighted_kl=weighted,
    )
    factor = NEW_TOKENS if loss_type == "dr_grpo" else 1  # Dr. GRPO divides by the longest allowed length besides
    assert sums["loss"] == pytest.approx(wanted * factor, rel=1e-5)
    torch.testing.assert_close(found, gradient * factor, rtol=1e-4, atol=1e-6)
    assert 0 < sums["clip_share"] < sums["units"]
    assert sums["clip_share"] / sums["units"] == pytest.approx(
        trainer._metrics["train"]["clip_ratio/region_mean"][-1], rel=1e-5
    )
