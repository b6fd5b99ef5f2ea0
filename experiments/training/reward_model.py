"""Training a reward model on preference pairs: Bradley-Terry with centred rewards.

Source: What Makes a Reward Model a Good Teacher? (arXiv 2503.15477), section 4.1 and appendix F.1: initialised from the
policy, loss -log sigmoid(r_chosen - r_rejected) + 0.01 (r_chosen + r_rejected)^2, Adam with a constant learning rate.

Shapes: B pairs of a batch.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor
from transformers import (
    MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING,
    AutoModelForSequenceClassification,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils.logging import disable_progress_bar

from experiments.models.configuration import RlExpConfig
from experiments.models.reward_head import reward_model_from
from experiments.models.shapes import AttentionMechanism, AttentionShape
from experiments.models.transformer import RlExpForCausalLM, build_model
from experiments.rewards.trained import reward_scores
from experiments.runs.artifacts import Artifact, ArtifactStore
from experiments.runs.seeds import SeedStreams
from experiments.training.preference_pairs import PreferencePairs

FORMAT = 2  # raise it whenever equal recipes would give another reward model
HISTORY = "training.jsonl"
CONFIDENCE_BINS = 10
BATCHES_SORTED = 8


def bradley_terry_loss(chosen: Tensor, rejected: Tensor, centre_coefficient: float) -> Tensor:
    """Mean over pairs of -log sigmoid(r_c - r_r) + centre_coefficient (r_c + r_r)^2, of scores [B] each."""
    return (-F.logsigmoid(chosen - rejected) + centre_coefficient * (chosen + rejected).square()).mean()


def train_reward_model(
    model: PreTrainedModel,
    pairs: PreferencePairs,
    *,
    epochs: int,
    batch_size: int,
    learning_rate: float,
    centre_coefficient: float,
    seed: int,
) -> list[dict[str, float]]:
    """Train `model` in place; returns a row per batch and, at the ends of epochs, what held-out pairs say.

    ValueError where the loss is no finite number.
    """
    training = pairs.training
    optimizer = torch.optim.Adam(model.parameters(), lr=learning_rate, fused=True)
    order = SeedStreams(seed).numpy("reward_model/order")
    history: list[dict[str, float]] = [{"step": 0, **evaluate_reward_model(model, pairs)}]
    model.train()
    step = 0
    for epoch in range(epochs):
        for rows in batches_of_similar_length(training, batch_size, order):
            batch = training.take(rows)
            prompts = [prompt.tokens for prompt in batch.prompts]
            scores = reward_scores(model, prompts * 2, batch.chosen + batch.rejected)
            chosen, rejected = scores.chunk(2)
            loss = bradley_terry_loss(chosen, rejected, centre_coefficient)
            if not torch.isfinite(loss):
                raise ValueError(
                    f"the reward model's loss became {loss.item()} at step {step}: lower reward.trained.learning_rate "
                    f"(now {learning_rate})"
                )
            loss.backward()
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            step += 1
            accuracy = (chosen > rejected).double().mean()
            history.append({"step": step, "train/loss": loss.item(), "train/accuracy": accuracy.item()})
        history[-1] |= {"epoch": epoch + 1, **evaluate_reward_model(model, pairs)}
        model.train()
    model.eval()
    return history


def batches_of_similar_length(
    pairs: PreferencePairs, batch_size: int, generator: np.random.Generator
) -> list[NDArray[np.int64]]:
    """The rows of every batch of an epoch: random, but within each `BATCHES_SORTED` batches sorted by length.

    So little padding is computed, and batches still come in random order.
    """
    lengths = np.array([max(len(a), len(b)) for a, b in zip(pairs.chosen, pairs.rejected, strict=True)])
    order = generator.permutation(len(pairs))
    batches = []
    for start in range(0, len(order), BATCHES_SORTED * batch_size):
        rows = order[start : start + BATCHES_SORTED * batch_size]
        rows = rows[np.argsort(lengths[rows], kind="stable")]
        batches += [rows[first : first + batch_size] for first in range(0, len(rows), batch_size)]
    return [batches[i] for i in generator.permutation(len(batches))]


@torch.no_grad()
def evaluate_reward_model(model: PreTrainedModel, pairs: PreferencePairs) -> dict[str, float]:
    """Loss, accuracy, margin and calibration error on the held-out pairs, on-policy and off-policy apart."""
    model.eval()
    values: dict[str, float] = {}
    for kind in ("on_policy", "off_policy"):
        held_out = pairs.test(on_policy=kind == "on_policy")
        if len(held_out) == 0:
            continue
        prompts = [prompt.tokens for prompt in held_out.prompts]
        scores = reward_scores(model, prompts * 2, held_out.chosen + held_out.rejected).double().cpu()
        chosen, rejected = scores.chunk(2)
        margin = (chosen - rejected).numpy()
        values |= {
            f"{kind}/loss": bradley_terry_loss(chosen, rejected, 0.0).item(),
            f"{kind}/accuracy": float((margin > 0).mean()),
            f"{kind}/margin": float(margin.mean()),
            f"{kind}/calibration_error": calibration_error(margin),
        }
    return values


def calibration_error(margin: NDArray[np.float64], bins: int = CONFIDENCE_BINS) -> float:
    """Expected calibration error of sigmoid(|margin|) as the probability that the better output was scored higher.

    `margin` [B] are scores of the better output minus the worse. Confidences lie in [1/2, 1], in `bins` equal bins; the
    error is the mean over pairs of |share of right orders - mean confidence| of their bin (Guo et al., 2017).
    """
    confidence = 1 / (1 + np.exp(-np.abs(margin)))
    right = (margin > 0).astype(np.float64)
    place = np.minimum(((confidence - 0.5) * 2 * bins).astype(int), bins - 1)
    gaps = [abs(right[place == i].mean() - confidence[place == i].mean()) * (place == i).sum() for i in set(place)]
    return float(sum(gaps) / len(margin))


def initial_reward_model(
    policy: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    *,
    layers: int | None,
    seed: int,
    attention: AttentionMechanism | None = None,
) -> PreTrainedModel:
    """A copy of the policy's decoder with a new scalar head, for any causal language model of transformers.

    `layers` keeps only the leading blocks, a smaller reward model. `attention` makes it a model of another mechanism
    with the policy's shape otherwise, from random weights. ValueError where transformers has no classifier of the
    policy's architecture, and for `layers` or `attention` of a model that is not ours.
    """
    streams = SeedStreams(seed)
    generator = streams.torch("reward_model/head")
    if isinstance(policy, RlExpForCausalLM):
        if attention is not None:
            policy = _untrained(policy, attention, streams.torch("reward_model/weights"))
        return reward_model_from(policy, generator, layers=layers)
    if attention is not None:
        raise ValueError(
            f"reward.trained.attention={attention} needs a policy that `rl-exp train` made, not a "
            f"{type(policy).__name__}: leave it out"
        )
    classifier = MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING.get(type(policy.config), None)
    if classifier is None or layers is not None:
        raise ValueError(
            f"a reward model cannot be made of {type(policy).__name__}"
            + (f" with reward.trained.layers={layers}: leave layers out" if classifier else ": it has no classifier")
        )
    config = copy.deepcopy(policy.config)
    config.num_labels = 1
    if config.pad_token_id is None:
        config.pad_token_id = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
    model = cast(Any, classifier)._from_config(config, dtype=policy.dtype)
    model.base_model.load_state_dict(policy.base_model.state_dict())
    with torch.no_grad():
        head = torch.empty(model.score.weight.shape).normal_(0.0, 0.02, generator=generator)
        model.score.weight.copy_(head)
    return model.to(policy.device)


def _untrained(policy: RlExpForCausalLM, attention: AttentionMechanism, generator: torch.Generator) -> RlExpForCausalLM:
    """A model of the policy's shape, but for its mechanism (with that one's defaults), with random weights."""
    shape = policy.config.model_shape()
    layer = AttentionShape(
        mechanism=attention,
        hidden_size=shape.attention.hidden_size,
        query_heads=shape.attention.query_heads,
        head_dim=shape.attention.head_dim,
    )
    config = RlExpConfig.from_shape(
        replace(shape, attention=layer),
        max_position_embeddings=policy.config.max_position_embeddings,
        pad_token_id=policy.config.pad_token_id,
        bos_token_id=policy.config.bos_token_id,
        eos_token_id=policy.config.eos_token_id,
    )
    return build_model(config, generator, policy.dtype).to(policy.device)


def stored_reward_model(
    store: ArtifactStore,
    policy: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    pairs: PreferencePairs,
    *,
    pairs_address: str,
    policy_address: str,
    layers: int | None,
    epochs: int,
    batch_size: int,
    learning_rate: float,
    centre_coefficient: float,
    seed: int,
    attention: AttentionMechanism | None = None,
) -> tuple[PreTrainedModel, Artifact]:
    """The reward model of these pairs, trained once, as an artifact of kind reward_model.

    `policy` is copied and must have its initial weights; `pairs_address` and `policy_address` name what it is made of.
    The folder is a sequence-classification model of transformers with its tokenizer. The model comes back on the
    policy's device, without gradients.
    """
    settings: dict[str, Any] = {
        "epochs": epochs,
        "batch_size": batch_size,
        "learning_rate": learning_rate,
        "centre_coefficient": centre_coefficient,
        "seed": seed,
    }
    recipe = {"format": FORMAT, "policy": policy_address, "pairs": pairs_address, "layers": layers, **settings}
    if attention is not None:  # reward models made before the setting existed keep their addresses
        recipe["attention"] = str(attention)

    def make(folder: Path) -> Mapping[str, Any]:
        model = initial_reward_model(policy, tokenizer, layers=layers, seed=seed, attention=attention)
        history = train_reward_model(model, pairs, **settings)
        disable_progress_bar()
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        with (folder / HISTORY).open("w", encoding="utf-8") as file:
            file.writelines(json.dumps(row) + "\n" for row in history)
        return {"parameters": model.num_parameters(), **history[-1]}

    artifact = store.get_or_make("reward_model", recipe, make)
    model = AutoModelForSequenceClassification.from_pretrained(artifact.path, dtype=policy.dtype)
    return model.to(policy.device).eval().requires_grad_(False), artifact
