"""Held-out loss of a language model."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import torch

from experiments.data.packing import Batch
from experiments.models.transformer import RlExpForCausalLM
from experiments.runs.ranks import Ranks
from experiments.training.device import arithmetic


@dataclass(frozen=True)
class HeldOutLoss:
    """Mean negative log-likelihood over `tokens` predicted tokens, in nats per token."""

    nats_per_token: float
    tokens: int

    @property
    def perplexity(self) -> float:
        """exp of the loss: comparable between models with one tokenizer only."""
        return math.exp(self.nats_per_token)

    def bits_per_byte(self, tokens_per_byte: float) -> float:
        """The loss on a scale that does not depend on the tokenizer."""
        return self.nats_per_token * tokens_per_byte / math.log(2)


@torch.no_grad()
def held_out_loss(
    model: RlExpForCausalLM,
    batches: Iterable[Batch | tuple[torch.Tensor, torch.Tensor]],
    *,
    device: torch.device,
    precision: str,
    ranks: Ranks | None = None,
) -> HeldOutLoss:
    """Mean loss of `model.loss` over batches of (inputs, targets) [B, T]; sums are kept in fp64.

    Batches with a third part, document ids [B, T], are evaluated with attention within documents. Of several ranks each
    takes its rows of every batch, and all get the mean of all.
    """
    ranks = ranks or Ranks()
    was_training = model.training
    model.eval()
    total, tokens = 0.0, 0.0
    for batch in batches:
        rows = ranks.share(len(batch[0]))
        # All ranks must pass through a sharded model equally often: a rank without rows drops the loss of one.
        mine = slice(rows.start, max(rows.stop, rows.start + 1))
        inputs, targets, *documents = (part[mine].to(device) for part in batch if part is not None)
        with arithmetic(device, precision):
            loss = model.loss(inputs, targets, document_ids=documents[0] if documents else None)
        count = int((targets >= 0).sum()) if rows else 0
        if count:  # the mean loss of no targets is NaN
            total += float(loss) * count
            tokens += count
    model.train(was_training)
    total, tokens = ranks.total([total, tokens])
    if tokens == 0:
        raise ValueError("a held-out set is empty: there is nothing to evaluate")
    return HeldOutLoss(total / tokens, int(tokens))
