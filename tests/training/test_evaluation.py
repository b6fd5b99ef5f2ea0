"""Held-out loss is the mean over the predicted tokens, however the rows are shared among ranks."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from experiments.runs.ranks import Ranks
from experiments.training.evaluation import held_out_loss

IGNORED = -100


class Bigram(nn.Module):
    """The loss of a table of logits: NaN, as cross-entropy is, for no targets."""

    def __init__(self) -> None:
        super().__init__()
        self.logits = nn.Embedding.from_pretrained(torch.randn(16, 16, generator=torch.Generator().manual_seed(0)))

    def loss(self, inputs, targets, document_ids=None):
        return nn.functional.cross_entropy(self.logits(inputs).flatten(0, 1), targets.flatten(), ignore_index=IGNORED)


class OneOf(Ranks):
    """A rank whose own sums are read instead of those of all."""

    def __init__(self, rank: int, size: int) -> None:
        self.rank, self.size, self.sums = rank, size, []

    def total(self, values):
        self.sums = values
        return [1.0, 1.0]


def batches(rows_with_targets: list[int], width: int = 4) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Batches of `width` rows, of which the first few have targets: a last batch is filled up."""
    generator, made = torch.Generator().manual_seed(1), []
    for rows in rows_with_targets:
        inputs, targets = torch.randint(16, (2, width, 8), generator=generator)
        targets[rows:] = IGNORED
        made.append((inputs, targets))
    return made


@pytest.mark.parametrize("size", [1, 2, 3, 4, 6])
@pytest.mark.parametrize("rows", [[4, 1], [4, 3], [1]])
def test_ranks_together_have_the_loss_of_one_process(size, rows):
    options = {"device": torch.device("cpu"), "precision": "fp32"}
    expected = held_out_loss(Bigram(), batches(rows), **options)
    parts = [OneOf(rank, size) for rank in range(size)]
    for part in parts:
        held_out_loss(Bigram(), batches(rows), ranks=part, **options)
    total, tokens = (sum(part.sums[place] for part in parts) for place in (0, 1))
    assert tokens == expected.tokens == 8 * sum(rows)
    assert total / tokens == pytest.approx(expected.nats_per_token, rel=1e-6)


def test_a_held_out_set_without_targets_is_refused():
    with pytest.raises(ValueError, match="nothing to evaluate"):
        held_out_loss(Bigram(), batches([0]), device=torch.device("cpu"), precision="fp32")


class WithinDocuments(Bigram):
    """A loss that needs the ids of documents."""

    def loss(self, inputs, targets, document_ids):
        return super().loss(inputs, targets.masked_fill(document_ids == 1, IGNORED))


def test_document_ids_reach_the_model_with_their_rows():
    (inputs, targets), options = batches([4])[0], {"device": torch.device("cpu"), "precision": "fp32"}
    ids = torch.zeros_like(targets)
    ids[1:] = 1
    found = held_out_loss(WithinDocuments(), [(inputs, targets, ids)], **options)
    expected = held_out_loss(Bigram(), [(inputs[:1], targets[:1])], **options)
    assert found.nats_per_token == pytest.approx(expected.nats_per_token, rel=1e-6)
