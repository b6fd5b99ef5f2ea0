"""Log-probabilities of completions under a model, with or without gradients.

Shapes: n completions in rows, L tokens of the longest, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from experiments.models.transformer import RlExpForCausalLM

ROWS_AT_ONCE = 256  # of a pass without gradients


def token_log_probabilities(
    model: nn.Module, prompts: Sequence[Sequence[int]], completions: Sequence[Sequence[int]]
) -> Tensor:
    """log pi(token | what is before it) of every completion token, [n, L], 0 behind a completion's end.

    `model` is one of ours or any causal language model of transformers. Without gradients rows go through in batches
    of similar length, so that little padding is computed.
    """
    if torch.is_grad_enabled():
        return _in_one_pass(model, prompts, completions)
    longest = max(map(len, completions))
    result = torch.zeros(len(prompts), longest, device=next(model.parameters()).device)
    order = sorted(range(len(prompts)), key=lambda row: len(prompts[row]) + len(completions[row]))
    for start in range(0, len(order), ROWS_AT_ONCE):
        rows = order[start : start + ROWS_AT_ONCE]
        part = _in_one_pass(model, [prompts[row] for row in rows], [completions[row] for row in rows])
        result[rows, : part.shape[1]] = part.to(result.dtype)
    return result


def _in_one_pass(model: Any, prompts: Sequence[Sequence[int]], completions: Sequence[Sequence[int]]) -> Tensor:
    device = next(model.parameters()).device
    lengths = torch.tensor([len(row) for row in completions])
    starts = torch.tensor([len(row) - 1 for row in prompts])  # the input position that predicts a first token
    width = int((starts + lengths).max())
    inputs = torch.zeros(len(prompts), width, dtype=torch.long)  # padding at the end: a causal model never sees it
    for row, (prompt, completion) in enumerate(zip(prompts, completions, strict=True)):
        text = [*prompt, *completion][:-1]
        inputs[row, : len(text)] = torch.tensor(text)
    offsets = torch.arange(int(lengths.max()))
    real = offsets < lengths[:, None]  # [n, L]
    rows, columns = real.nonzero(as_tuple=True)
    positions = starts[rows] + columns
    targets = torch.tensor([token for completion in completions for token in completion], device=device)
    inputs, rows, columns, positions = (part.to(device) for part in (inputs, rows, columns, positions))
    # Only what predicts a completion token goes through the head: prompts and padding cost no logits.
    if isinstance(model, RlExpForCausalLM):
        logits = model.head(model.decoder(inputs)[rows, positions])
    else:
        mask = torch.arange(width, device=device) < (starts + lengths)[:, None].to(device)
        logits = model(input_ids=inputs, attention_mask=mask.long()).logits[rows, positions]
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    values = -nn.functional.cross_entropy(logits, targets, reduction="none")
    return values.new_zeros(len(prompts), int(lengths.max())).index_put((rows, columns), values)
