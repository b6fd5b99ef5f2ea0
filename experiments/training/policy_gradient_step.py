"""One step of policy gradient: several passes over a batch of completions, a minibatch per update of the weights.

Shapes: n completions in rows, a prompt's samples beside each other; L tokens of the longest.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass

import numpy as np
import torch
from torch import Tensor, nn

from experiments.models.transformer import RlExpForCausalLM
from experiments.runs.ranks import Ranks
from experiments.training.device import arithmetic
from experiments.training.distribution import is_sharded, sum_gradients
from experiments.training.log_probabilities import token_log_probabilities
from experiments.training.optimizers import clip_gradients
from experiments.training.policy_losses import policy_loss, sequence_weights

TOKENS_AT_ONCE = 1024  # of one piece of a minibatch, prompts included: its activations stay near the processor


@dataclass(frozen=True)
class PolicyGradientBatch:
    """Completions, and what the loss needs of them."""

    prompts: Sequence[Sequence[int]]  # [n] tokens
    completions: Sequence[Sequence[int]]  # [n] tokens, the stop token included
    old_log_probabilities: Tensor  # [n, L] of the completions' tokens under the policy that drew them
    advantages: Tensor  # [n]
    reference_log_probabilities: Tensor | None = None  # [n, L] under the reference policy: for a KL in the loss

    def __len__(self) -> int:
        return len(self.completions)

    @property
    def lengths(self) -> Tensor:
        """Tokens of each completion, [n]."""
        return torch.tensor([len(row) for row in self.completions])


@dataclass(frozen=True)
class UpdateStatistics:
    """What a step's updates were like; means over its updates, and within them over tokens or sequences."""

    loss: float
    gradient_norm: float  # before clipping
    clip_share: float  # of units (tokens, or sequences) whose gradient PPO's clipping cut off
    approximate_kl: float  # KL(old || policy) per unit, of the policy while it was updated
    mean_ratio: float
    updates: int

    def as_dict(self) -> dict[str, float]:
        """By name, for the log."""
        return asdict(self)


def update_policy(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    batch: PolicyGradientBatch,
    *,
    generator: np.random.Generator,
    epochs: int = 1,
    minibatches: int = 1,
    clip: float = 0.2,
    sequence_ratio: bool = False,
    denominator: str = "sequences",
    kl_estimator: str = "k3",
    kl_coefficient: float = 0.0,
    importance_weighted_kl: bool = False,
    gradient_clip: float | None = None,
    temperature: float = 1.0,
    ranks: Ranks | None = None,
    precision: str = "fp32",
) -> UpdateStatistics:
    """`epochs` passes of `minibatches` updates each, over completions in an order that `generator` shuffles.

    Of several ranks, which all have the whole batch, each computes the gradient of its part of every minibatch, and all
    take the same update. `model` may be sharded over them.

    `kl_coefficient` is that of a KL in the loss; the other settings are those of `policy_loss`. `temperature` is
    that at which the completions were drawn. With `precision` bf16
    the policy's matrix products are in that type; weights, losses and optimizer stay fp32. Raises FloatingPointError
    before a gradient that is no finite number reaches the weights.
    """
    if not 1 <= minibatches <= len(batch):
        raise ValueError(f"minibatches={minibatches} is impossible: a step has {len(batch)} completions")
    updates: list[UpdateStatistics] = []
    for _ in range(epochs):
        for rows in np.array_split(generator.permutation(len(batch)), minibatches):
            optimizer.zero_grad(set_to_none=True)
            sums = accumulate_gradient(
                model,
                batch,
                rows,
                clip=clip,
                sequence_ratio=sequence_ratio,
                denominator=denominator,
                kl_estimator=kl_estimator,
                kl_coefficient=kl_coefficient,
                importance_weighted_kl=importance_weighted_kl,
                temperature=temperature,
                ranks=ranks,
                precision=precision,
            )
            norm = finite_gradient_norm(model, sums["loss"], gradient_clip)
            optimizer.step()
            units = max(sums["units"], 1.0)
            updates.append(
                UpdateStatistics(
                    loss=sums["loss"],
                    gradient_norm=norm,
                    clip_share=sums["clip_share"] / units,
                    approximate_kl=sums["approximate_kl"] / units,
                    mean_ratio=sums["mean_ratio"] / units,
                    updates=1,
                )
            )
    optimizer.zero_grad(set_to_none=True)
    return UpdateStatistics(
        loss=_mean(update.loss for update in updates),
        gradient_norm=_mean(update.gradient_norm for update in updates),
        clip_share=_mean(update.clip_share for update in updates),
        approximate_kl=_mean(update.approximate_kl for update in updates),
        mean_ratio=_mean(update.mean_ratio for update in updates),
        updates=len(updates),
    )


def accumulate_gradient(
    model: nn.Module,
    batch: PolicyGradientBatch,
    rows: Sequence[int] | np.ndarray,
    *,
    clip: float,
    sequence_ratio: bool,
    denominator: str,
    kl_estimator: str,
    kl_coefficient: float,
    importance_weighted_kl: bool = False,
    temperature: float = 1.0,
    ranks: Ranks | None = None,
    precision: str = "fp32",
) -> dict[str, float]:
    """Add the gradient of the loss of a minibatch, the rows `rows`, piece by piece; returns sums over the pieces.

    `loss` is the minibatch's; `clip_share`, `approximate_kl` and `mean_ratio` are sums over `units`. Of several ranks
    each takes its share of the pieces; gradients and sums are those of all.
    """
    ranks = ranks or Ranks()
    sharded = ranks.size > 1 and is_sharded(model)
    device = next(model.parameters()).device
    weights = torch.zeros(len(batch), dtype=torch.float64)
    weights[rows] = sequence_weights(batch.lengths[rows], denominator)
    sums = dict.fromkeys(("loss", "units", "clip_share", "approximate_kl", "mean_ratio"), 0.0)
    every_piece = pieces(batch, rows, shared=isinstance(model, RlExpForCausalLM), parts=ranks.size)
    for place in range(ranks.rank, -(-len(every_piece) // ranks.size) * ranks.size, ranks.size):
        counts = place < len(every_piece)
        if not counts and not sharded:
            break
        # All ranks must pass through a sharded model equally often: where pieces run out, one counts for nothing.
        piece = every_piece[place] if counts else every_piece[0]
        lengths = batch.lengths[piece]
        longest = int(lengths.max())
        reference = batch.reference_log_probabilities
        with arithmetic(device, precision):
            log_probabilities = token_log_probabilities(
                model,
                [batch.prompts[row] for row in piece],
                [batch.completions[row] for row in piece],
                temperature=temperature,
            )
        result = policy_loss(
            log_probabilities,
            batch.old_log_probabilities[piece, :longest].to(device),
            (torch.arange(longest) < lengths[:, None]).to(device),
            batch.advantages[piece].to(device),
            weights[piece].to(device) * counts,
            clip=clip,
            sequence_ratio=sequence_ratio,
            reference_log_probabilities=None if reference is None else reference[piece, :longest].to(device),
            kl_estimator=kl_estimator,
            kl_coefficient=kl_coefficient,
            importance_weighted_kl=importance_weighted_kl,
        )
        (result.loss * ranks.size if sharded else result.loss).backward()  # FSDP takes means over the ranks
        if not counts:
            continue
        sums["loss"] += float(result.loss.detach())
        sums["units"] += result.units
        for name in ("clip_share", "approximate_kl", "mean_ratio"):
            sums[name] += float(getattr(result, name)) * result.units
    if not sharded:
        sum_gradients(model, ranks)
    return dict(zip(sums, ranks.total([float(value) for value in sums.values()]), strict=True))


def pieces(
    batch: PolicyGradientBatch, rows: Sequence[int] | np.ndarray, *, shared: bool, parts: int = 1
) -> list[list[int]]:
    """The rows in pieces of at most TOKENS_AT_ONCE tokens, or one row; smaller ones where that makes `parts` of them.

    `shared`: for a model that computes a prompt once and pads nothing, a prompt's completions are side by side and the
    prompt counts once in a piece. Otherwise rows of similar length are, and padding counts.
    """
    prompt_of, lengths = batch.prompts, [len(completion) for completion in batch.completions]
    if shared:
        order = sorted(map(int, rows), key=lambda row: (len(prompt_of[row]), tuple(prompt_of[row]), lengths[row], row))
    else:
        order = sorted(map(int, rows), key=lambda row: (len(prompt_of[row]) + lengths[row], row))
    most = TOKENS_AT_ONCE
    if parts > 1:
        most = min(most, sum(len(prompt_of[row]) + lengths[row] for row in order) // parts)
    result: list[list[int]] = []
    for row in order:
        piece = [*result[-1], row] if result else [row]
        if shared:
            prompts = {tuple(prompt_of[member]) for member in piece}
            tokens = sum(map(len, prompts)) + sum(lengths[member] for member in piece)
        else:
            tokens = len(piece) * (len(prompt_of[row]) + lengths[row])
        if result and tokens <= most:
            result[-1].append(row)
        else:
            result.append([row])
    return result


def finite_gradient_norm(model: nn.Module, loss: float, limit: float | None) -> float:
    """The norm of the gradient, which is scaled down to `limit` where it is longer.

    FloatingPointError where it or the loss is no finite number.
    """
    norm = float(clip_gradients(model, limit))
    if not np.isfinite(norm) or not np.isfinite(loss):
        raise FloatingPointError(
            f"the policy's loss is {loss} and the norm of its gradient {norm}; the weights are those before this "
            "update: lower the learning rate or the scale of the reward, or set gradient_clip"
        )
    return norm


def _mean(values: Iterable[float]) -> float:
    return float(np.mean(list(values)))
