"""Log-probabilities of completions under a model, with or without gradients.

Shapes: n completions in rows, L tokens of the longest, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from experiments.models.shared_prompts import share_prompts
from experiments.models.transformer import RlExpForCausalLM
from experiments.training.device import arithmetic

ROWS_AT_ONCE = 256  # of a pass without gradients


def token_log_probabilities(
    model: nn.Module,
    prompts: Sequence[Sequence[int]],
    completions: Sequence[Sequence[int]],
    *,
    temperature: float = 1.0,
) -> Tensor:
    """log pi(token | what is before it) of every completion token, [n, L], 0 behind a completion's end.

    pi is the distribution that draws at `temperature`: the softmax of the logits divided by it.
    `model` is one of ours or any causal language model of transformers. One of ours computes equal prompts once and no
    padding. Without gradients rows go through in batches: a prompt's samples together, or rows of similar length.
    """
    if torch.is_grad_enabled():
        return _in_one_pass(model, prompts, completions, temperature)
    longest = max(map(len, completions))
    result = torch.zeros(len(prompts), longest, device=next(model.parameters()).device)
    order = list(range(len(prompts)))
    if not isinstance(model, RlExpForCausalLM):
        order.sort(key=lambda row: len(prompts[row]) + len(completions[row]))
    for start in range(0, len(order), ROWS_AT_ONCE):
        rows = order[start : start + ROWS_AT_ONCE]
        part = _in_one_pass(model, [prompts[row] for row in rows], [completions[row] for row in rows], temperature)
        result[rows, : part.shape[1]] = part.to(result.dtype)
    return result


def score_completions(
    model: nn.Module,
    prompts: Sequence[Sequence[int]],
    completions: Sequence[Sequence[int]],
    precision: str = "fp32",
    temperature: float = 1.0,
) -> Tensor:
    """`token_log_probabilities` without gradients, as fp32 on the CPU; matrix products in `precision`."""
    with torch.no_grad(), arithmetic(next(model.parameters()).device, precision):
        return token_log_probabilities(model, prompts, completions, temperature=temperature).float().cpu()


def _in_one_pass(
    model: Any, prompts: Sequence[Sequence[int]], completions: Sequence[Sequence[int]], temperature: float
) -> Tensor:
    device = next(model.parameters()).device
    lengths = torch.tensor([len(row) for row in completions])
    rows, columns = (torch.arange(int(lengths.max())) < lengths[:, None]).nonzero(as_tuple=True)
    # Only what predicts a completion token goes through the head: prompts and padding cost no logits.
    if isinstance(model, RlExpForCausalLM):
        values = model.log_probabilities(share_prompts(prompts, completions, device), temperature)
    else:
        values = _of_transformers_model(model, prompts, completions, rows, columns, temperature)
    return values.new_zeros(len(prompts), int(lengths.max())).index_put((rows.to(device), columns.to(device)), values)


def _of_transformers_model(
    model: Any,
    prompts: Sequence[Sequence[int]],
    completions: Sequence[Sequence[int]],
    rows: Tensor,
    columns: Tensor,
    temperature: float,
) -> Tensor:
    """Of the completion tokens at `rows` and `columns`, in that order."""
    device = next(model.parameters()).device
    texts = [[*prompt, *completion][:-1] for prompt, completion in zip(prompts, completions, strict=True)]
    sizes = torch.tensor([len(text) for text in texts])
    inputs = torch.zeros(len(texts), int(sizes.max()), dtype=torch.long)  # padding at the end: causal, never seen
    for row, text in enumerate(texts):
        inputs[row, : len(text)] = torch.tensor(text)
    mask = torch.arange(inputs.shape[1]) < sizes[:, None]
    positions = torch.tensor([len(prompt) - 1 for prompt in prompts])[rows] + columns  # what predicts a token
    targets = torch.tensor([token for completion in completions for token in completion], device=device)
    outputs = model(input_ids=inputs.to(device), attention_mask=mask.long().to(device))
    logits = outputs.logits[rows.to(device), positions.to(device)]
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32)) / temperature
    return -nn.functional.cross_entropy(logits, targets, reduction="none")
