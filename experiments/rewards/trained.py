"""A reward model as a reward: a sequence classifier with one score that reads the policy's own tokens.

Shapes: n sequences in rows, T tokens of the longest.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from experiments.models.reward_head import RlExpForSequenceClassification
from experiments.rewards.reward import Reward
from experiments.tasks.task import Floats, Outputs

ROWS_AT_ONCE = 256  # of a pass without gradients


class TrainedReward(Reward):
    """Scores of a reward model that shares the policy's tokenizer."""

    def __init__(self, name: str, model: nn.Module, facts: dict[str, Any] | None = None) -> None:
        super().__init__(name, facts)
        self.model = model.eval()

    def score(self, outputs: Outputs) -> Floats:
        with torch.no_grad():
            scores = reward_scores(self.model, [prompt.tokens for prompt in outputs.prompts], outputs.tokens)
        return scores.double().cpu().numpy().astype(np.float64)


def reward_scores(model: Any, prompts: Sequence[Sequence[int]], completions: Sequence[Sequence[int]]) -> Tensor:
    """The score of every prompt with its completion, [n] in fp32.

    `model` is one of ours or any sequence classifier of transformers with one label that is built of a decoder and a
    linear `score`. The score is read at the last token, a stop token too, whatever the model holds for padding. One of
    ours computes equal prompts once and no padding. Without gradients rows go through in batches: a prompt's samples
    together, or rows of similar length.
    """
    if torch.is_grad_enabled():
        return _in_one_pass(model, prompts, completions)
    scores = torch.empty(len(prompts), device=next(model.parameters()).device)
    order = list(range(len(prompts)))
    if not isinstance(model, RlExpForSequenceClassification):
        order.sort(key=lambda row: len(prompts[row]) + len(completions[row]))
    for start in range(0, len(order), ROWS_AT_ONCE):
        rows = order[start : start + ROWS_AT_ONCE]
        scores[rows] = _in_one_pass(model, [prompts[row] for row in rows], [completions[row] for row in rows])
    return scores


def _in_one_pass(model: Any, prompts: Sequence[Sequence[int]], completions: Sequence[Sequence[int]]) -> Tensor:
    if isinstance(model, RlExpForSequenceClassification):
        return model.scores(prompts, completions)
    device = next(model.parameters()).device
    rows = [[*prompt, *completion] for prompt, completion in zip(prompts, completions, strict=True)]
    lengths = torch.tensor([len(row) for row in rows])
    inputs = torch.zeros(len(rows), int(lengths.max()), dtype=torch.long)  # padding at the end: nobody reads it
    for i, row in enumerate(rows):
        inputs[i, : len(row)] = torch.tensor(row)
    inputs, lengths = inputs.to(device), lengths.to(device)
    mask = torch.arange(inputs.shape[1], device=device) < lengths[:, None]
    hidden = model.base_model(input_ids=inputs, attention_mask=mask.long()).last_hidden_state
    return model.score(hidden[torch.arange(len(rows), device=device), lengths - 1]).squeeze(-1).float()
