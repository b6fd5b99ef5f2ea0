"""Who may look at whom. True means: this query may look at this key.

Legend: B batch, T query time, S key time (slots of the cache). Every query may look at itself, padding
included: a row without any key would turn into NaN and reach other tokens through its value.
"""

from __future__ import annotations

import torch
from torch import Tensor


def training_mask(
    length: int, attention_mask: Tensor | None, document_ids: Tensor | None, device: torch.device
) -> Tensor | None:
    """(B, 1, T, T) for a full sequence of T = `length`, or None for plain causal attention (the fast path).

    `attention_mask` (B, at least T) marks real tokens, `document_ids` (B, T) numbers the documents packed
    into a row.
    """
    if attention_mask is not None:
        attention_mask = attention_mask[:, :length].bool()
        if _nothing_hidden(attention_mask):
            attention_mask = None
    if attention_mask is None and document_ids is None:
        return None
    times = torch.arange(length, device=device)
    mask = times[:, None] >= times[None, :]
    if attention_mask is not None:
        mask = mask & attention_mask[:, None, None, :]
    if document_ids is not None:
        mask = mask & (document_ids[:, None, :, None] == document_ids[:, None, None, :])
    return mask | torch.eye(length, dtype=torch.bool, device=device)


def decoding_mask(slots: Tensor, cached_length: int, attention_mask: Tensor | None) -> Tensor | None:
    """(B or 1, 1, T, S) for T new tokens that sit at `slots` (T,) of a cache of S = `cached_length` slots.

    Bottom-right causal: a token looks at the slots up to its own. Later slots, which a preallocated cache
    has, are hidden. `attention_mask` (B, S) marks the slots with real tokens. None when every slot may be
    seen.
    """
    cached = torch.arange(cached_length, device=slots.device)
    mask = (cached[None, :] <= slots[:, None])[None, None]
    if attention_mask is not None:
        itself = cached[None, :] == slots[:, None]
        mask = (mask & attention_mask[:, None, None, :]) | itself
    return None if _nothing_hidden(mask) else mask


def padded_to(attention_mask: Tensor | None, length: int) -> Tensor | None:
    """The (B, any) mask of real tokens as bool of width `length`; slots not filled yet count as real."""
    if attention_mask is None:
        return None
    missing = max(0, length - attention_mask.shape[1])
    return torch.nn.functional.pad(attention_mask.bool(), (0, missing), value=True)[:, :length]


def _nothing_hidden(mask: Tensor) -> bool:
    """Whether the mask may be dropped. A compiled graph cannot ask its data, and keeps the mask."""
    return not torch.compiler.is_compiling() and mask.device.type != "meta" and bool(mask.all())
