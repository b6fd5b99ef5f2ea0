"""Completions of shared prompts through the decoder, without padding: every prompt is computed once.

Samples of a prompt differ only behind it. Tokens are packed into one row, prompts first, then what follows them, so
that the matrix products see real tokens only; attention alone pads, to the longest prompt and completion of the batch,
and lets a completion look at the keys of its prompt. The result is that of separate rows, to rounding.

Legend: n completions, P prompts, N packed tokens, M predicted tokens, Q longest completion (without its last token,
which predicts nothing), S longest prompt, H heads, K key heads, D head dim, d hidden size.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from .causal_attention import causal_attention
from .decoder import Decoder
from .rotary import rotation_at


@dataclass(frozen=True)
class Ragged:
    """Rows of different lengths behind each other, and how to pad them for attention."""

    lengths: tuple[int, ...]
    padded: Tensor | None  # (rows, longest) places of the tokens, padding at any; None: equal lengths, nothing to do
    real: Tensor | None  # (tokens,) places in the padded rows

    @property
    def longest(self) -> int:
        return max(self.lengths, default=0)

    def pad(self, packed: Tensor) -> Tensor:
        """(tokens, ...) -> (rows, longest, ...)"""
        shape = (len(self.lengths), self.longest, *packed.shape[1:])
        return packed.view(shape) if self.padded is None else packed.index_select(0, self.padded.flatten()).view(shape)

    def pack(self, rows: Tensor) -> Tensor:
        """(rows, longest, ...) -> (tokens, ...)"""
        flat = rows.flatten(0, 1)
        return flat if self.real is None else flat.index_select(0, self.real)


def ragged(lengths: Sequence[int], device: torch.device) -> Ragged:
    """The layout of rows of these lengths."""
    longest = max(lengths, default=0)
    if all(length == longest for length in lengths):
        return Ragged(tuple(lengths), None, None)
    sizes = torch.tensor(lengths)
    real = torch.arange(longest) < sizes[:, None]
    starts = (sizes.cumsum(0) - sizes)[:, None]
    padded = (starts + torch.arange(longest)).where(real, 0)
    return Ragged(tuple(lengths), padded.to(device), real.flatten().nonzero()[:, 0].to(device))


@dataclass(frozen=True)
class SharedPrompts:
    """A batch of completions, laid out."""

    tokens: Tensor  # (N,) inputs: prompts, then completions without their last tokens
    positions: Tensor  # (N,) in the text
    predicting: Tensor  # (M,) the packed place whose hidden state predicts a token of a completion
    targets: Tensor  # (M,) that token
    prompts: Ragged
    completions: Ragged
    key_places: Tensor | None  # (n, S + Q) packed places of what each completion looks at
    visible_keys: Tensor | None  # (n or 1, 1, Q, S + Q) True where a completion's token may look

    def hidden_states(self, decoder: Decoder) -> Tensor:
        """The decoder's final hidden states at `predicting`, (M, d)."""
        hidden = decoder.embedding(self.tokens)[None]
        rotation = rotation_at(self.positions[None], decoder.config, hidden.dtype)
        mask = self._additive_mask(hidden.dtype)
        for block in decoder.blocks:
            hidden = block.over_shared_prompts(hidden, rotation, partial(self.attend, mask=mask))
        return decoder.norm(hidden[0].index_select(0, self.predicting))

    def attend(self, queries: Tensor, keys: Tensor, values: Tensor, scale: float, mask: Tensor | None) -> Tensor:
        """Queries (N, H, D), keys (N, K, D), values (N, K, D_v) -> (N, H, D_v)."""
        border = sum(self.prompts.lengths)
        query, key, value = (self.prompts.pad(part[:border]) for part in (queries, keys, values))
        heads = self.prompts.pack(causal_attention(query, key, value, None, scale))
        if self.key_places is None:
            return heads
        seen, rows = self.key_places.flatten(), self.key_places.shape
        behind = causal_attention(
            self.completions.pad(queries[border:]),
            keys.index_select(0, seen).view(*rows, *keys.shape[1:]),
            values.index_select(0, seen).view(*rows, *values.shape[1:]),
            mask,
            scale,
        )
        return torch.cat((heads, self.completions.pack(behind)))

    def _additive_mask(self, dtype: torch.dtype) -> Tensor | None:
        """Made once for all layers: the kernel would turn a boolean one into this for each."""
        if self.visible_keys is None:
            return None
        return torch.zeros(self.visible_keys.shape, dtype=dtype, device=self.visible_keys.device).masked_fill_(
            ~self.visible_keys, -torch.inf
        )


def share_prompts(
    prompts: Sequence[Sequence[int]], completions: Sequence[Sequence[int]], device: torch.device
) -> SharedPrompts:
    """Lay completions out; equal prompts (rows of `prompts`, one per completion) are taken once.

    Predicted tokens come in the order of the completions, row by row.
    """
    numbers: dict[tuple[int, ...], int] = {}
    owners = [numbers.setdefault(tuple(prompt), len(numbers)) for prompt in prompts]
    unique = list(numbers)
    prompt_lengths = [len(prompt) for prompt in unique]
    input_lengths = [len(completion) - 1 for completion in completions]
    if min(prompt_lengths) < 1 or min(input_lengths) < 0:
        raise ValueError("a prompt or a completion has no token: nothing predicts the first one, or nothing is there")

    owner = torch.tensor(owners)
    lengths, before = torch.tensor(input_lengths), torch.tensor(prompt_lengths)[owner]  # (n,)
    prompt_ends = torch.tensor(prompt_lengths).cumsum(0)
    starts = int(prompt_ends[-1]) + lengths.cumsum(0) - lengths  # (n,) packed places of the first inputs
    longest, longest_prompt = max(input_lengths), max(prompt_lengths)
    times = torch.arange(longest + 1)
    predicting = torch.cat(((prompt_ends[owner] - 1)[:, None], starts[:, None] + times[:-1]), dim=1)
    key_places = visible_keys = None
    if longest:
        prompt_times = torch.arange(longest_prompt)
        of_prompt = prompt_times < before[:, None]  # (n, S)
        own = times[:-1] < lengths[:, None]  # (n, Q)
        key_places = torch.cat(
            (
                ((prompt_ends[owner] - before)[:, None] + prompt_times).where(of_prompt, 0),
                (starts[:, None] + times[:-1]).where(own, 0),
            ),
            dim=1,
        ).to(device)
        # Padding at a completion's end lies in the future of its real tokens; only the prompts' needs hiding.
        causal = times[:-1, None] >= times[None, :-1]
        visible_keys = torch.cat(
            (of_prompt[:, None, :].expand(-1, longest, -1), causal.expand(len(owner), -1, -1)), dim=2
        )
        if bool(of_prompt.all()):
            visible_keys = visible_keys[:1]
        visible_keys = visible_keys[:, None].to(device)
    tokens = [token for prompt in unique for token in prompt]
    tokens += [token for completion in completions for token in completion[:-1]]
    positions = torch.cat(
        [torch.arange(length) for length in prompt_lengths]
        + [torch.arange(start, start + length) for start, length in zip(before.tolist(), input_lengths, strict=True)]
    )
    return SharedPrompts(
        tokens=torch.tensor(tokens, device=device),
        positions=positions.to(device),
        predicting=predicting[times <= lengths[:, None]].to(device),
        targets=torch.tensor([token for completion in completions for token in completion], device=device),
        prompts=ragged(prompt_lengths, device),
        completions=ragged(input_lengths, device),
        key_places=key_places,
        visible_keys=visible_keys,
    )
