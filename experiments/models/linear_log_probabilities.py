"""The head and the log-probabilities of given tokens in one, with one copy of the logits.

Losses of policy gradient are functions of the tokens' log-probabilities, so the gradient with respect to each of these
is known only after all of them. What is kept for it are the exponentials, in the memory where the logits were; torch's
own log-softmax keeps another copy. Without gradients logits exist for a few rows at a time.

Legend: N tokens, d hidden size, V vocabulary.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from .linear import times_transposed
from .linear_cross_entropy import rows_at_once


def linear_log_probabilities(hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    """log softmax(hidden (N, d) @ weight (V, d)^T) at `targets` (N,), in fp32 or better."""
    return _LinearLogProbabilities.apply(hidden, weight, targets, torch.is_grad_enabled())


class _LinearLogProbabilities(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, targets: Tensor, with_gradient: bool) -> Tensor:
        precise = torch.promote_types(hidden.dtype, torch.float32)
        chosen = torch.empty(len(hidden), dtype=precise, device=hidden.device)
        rows = len(hidden) if with_gradient else rows_at_once(len(weight), hidden.device.type)
        for start in range(0, len(hidden), rows):
            logits = times_transposed(hidden[start : start + rows], weight).to(precise)
            target = targets[start : start + rows, None]
            picked, largest = logits.gather(1, target), logits.amax(dim=-1, keepdim=True)
            exponentials = logits.sub_(largest).exp_()
            total = exponentials.sum(dim=-1, keepdim=True)
            chosen[start : start + rows] = (picked - largest - total.log())[:, 0]
        if with_gradient and len(hidden):
            ctx.save_for_backward(hidden, weight, target, exponentials, total)
        return chosen

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None, None]:
        hidden, weight, target, exponentials, total = ctx.saved_tensors
        gradient = gradient[:, None].to(exponentials)
        # onehot - softmax; not in place: somebody may go back through the graph twice
        of_logits = (exponentials * (-gradient / total)).scatter_add_(1, target, gradient).to(hidden.dtype)
        return times_transposed(of_logits, weight.T), times_transposed(of_logits.T, hidden.T), None, None
