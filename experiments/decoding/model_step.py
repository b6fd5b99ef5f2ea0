"""A whole model over the decode cache: prompts in training form, then a few new tokens at a time in decode form.

Legend: b sequences, T new tokens of each, N tokens in all, V vocabulary, H query heads, D head dim.

Prompts are packed: every matrix product runs over the real tokens of all prompts and attention over runs of prompts of
equal length, so no padding is computed. Samples of one prompt share its computation, and each gets its own rows.
"""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Callable, Sequence
from functools import partial
from itertools import groupby, pairwise
from typing import NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor

from ..models.causal_attention import causal_attention
from ..models.rotary import rotation_at
from ..models.transformer import RlExpForCausalLM
from .attention import DecodeKernel, attend
from .cache import CacheLayer, DecodeCache
from .cpu_linear import PanelLinear, entry_points
from .prepared_layer import ModuleLayer, Rotations, TorchLinear, keep_memory, prepared_layer, weights_of


class StepInputs(NamedTuple):
    """All that a step reads besides weights and cached rows; tensors on the model's device."""

    tokens: Tensor  # [b, T] int64
    positions: Tensor  # [b * T], at least 0
    slots: Tensor  # [n] rows of a layer's storage that are written
    written: Tensor | None  # [n] which of the b * T columns is written there; None: all, in order
    lengths: Tensor  # [b] int32, the new tokens included
    page_table: Tensor  # [b, pages per sequence] int32
    longest: int  # no length is greater


class DecodeModel:
    """Prefill and decode of an `RlExpForCausalLM`, whatever the dtype of its parameters: matrix products in `dtype`.

    It holds a copy of the weights in the form that small steps want: call `refresh` when the model has changed.
    `kernel` None or `cpu` runs attention and linear layers in C++ on a CPU, in fp32; None on a GPU is `triton` where
    that is installed, else `reference`, plain torch. A mechanism without a prepared form (see `prepared_layer`) runs
    the arithmetic of its own module in any case. Raises RuntimeError where the logits are not those of `model`.
    """

    def __init__(
        self,
        model: RlExpForCausalLM,
        *,
        kernel: DecodeKernel | str | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self.shape = model.config.model_shape().attention
        if self.shape.head_dim % 2:
            raise ValueError(
                f"head_dim={self.shape.head_dim} is odd: the decode engine holds rotated dimensions in pairs and needs "
                "an even head_dim (the model's own generate has no such limit)"
            )
        self.decoder, self.config = model.decoder, model.config
        self._head = model.head
        self.vocabulary: int = self.config.vocab_size
        self.device: torch.device = model.head.weight.device
        if kernel is None:
            kernel = usual_kernel(self.device, dtype)
        self.kernel = DecodeKernel(kernel)
        # Without a compiler, which the kernel's own warning tells, everything is torch.
        self._compiled = self.kernel is DecodeKernel.cpu and entry_points() is not None
        if self._compiled and dtype != torch.float32:
            raise ValueError(f"kernel=cpu computes in torch.float32, not {dtype}: use kernel=reference")
        self.dtype = dtype
        self.layers = [prepared_layer(block, compiled=self._compiled, dtype=dtype) for block in self.decoder.blocks]
        self._turns = torch.empty(0, 0, dtype=torch.complex64)
        self._prepare_ends()
        self._compare_with(model)

    def refresh(self) -> None:
        """Take the model's present weights, in milliseconds: after every update of a policy.

        Torch's matrices stay where they are in memory, so that a captured graph reads the new weights.
        """
        before = [] if self._compiled else self._tensors()
        for layer in self.layers:
            layer.refresh()
        self._prepare_ends()
        keep_memory(before, [] if self._compiled else self._tensors())

    def _tensors(self) -> list[Tensor]:
        """Everything that `refresh` makes, without the compiled library, in a fixed order."""
        ends = [self.embedding, *cast(TorchLinear, self.head).tensors()]
        return [*ends, *(tensor for layer in self.layers for tensor in layer.tensors())]

    def new_cache(
        self,
        *,
        batch_size: int,
        max_length: int,
        page_size: int | None = None,
        pages: int | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> DecodeCache:
        """An empty cache for this model; see `DecodeCache`."""
        return DecodeCache(
            self.shape,
            layers=len(self.layers),
            batch_size=batch_size,
            max_length=max_length,
            page_size=page_size,
            pages=pages,
            dtype=dtype,
            device=self.device,
        )

    @torch.inference_mode()
    def prefill(
        self,
        cache: DecodeCache,
        prompts: Sequence[Sequence[int]],
        sequences: Sequence[Sequence[int]],
        *,
        chunk_tokens: int = 8192,
    ) -> Tensor:
        """Read `prompts` into the cache and return the logits after each, [prompts, V].

        Prompt i is computed once and written to every empty sequence in `sequences[i]`. At most `chunk_tokens` are in
        work at a time, but always one whole prompt.
        """
        if not prompts or min(map(len, prompts)) == 0:
            raise ValueError("a prompt needs at least 1 token: give it a beginning-of-text token")
        order = sorted(range(len(prompts)), key=lambda index: len(prompts[index]))
        logits = torch.empty(len(prompts), self.vocabulary, device=self.device)
        while order:
            taken, tokens = 1, len(prompts[order[0]])
            while taken < len(order) and tokens + len(prompts[order[taken]]) <= chunk_tokens:
                tokens += len(prompts[order[taken]])
                taken += 1
            chunk, order = order[:taken], order[taken:]
            places = [sequences[index] for index in chunk]
            logits[chunk] = self._prefill_chunk(cache, [prompts[index] for index in chunk], places)
        return logits

    @torch.inference_mode()
    def decode(
        self, cache: DecodeCache, tokens: Tensor, sequences: Sequence[int], counts: Sequence[int] | None = None
    ) -> Tensor:
        """Append the new `tokens` [b, T] of `sequences` and return the logits after each of them, [b, T, V].

        With `counts` the last counts[i] columns of row i are tokens; logits of the others have no meaning.
        """
        step = cache.reserve(tokens.shape[1] if counts is None else counts, sequences)
        positions = step.positions.flatten().clamp(min=0)
        inputs = StepInputs(tokens, positions, step.slots, step.new, step.lengths, step.page_table, step.longest)
        return self.step(cache, inputs)

    def step(self, cache: DecodeCache, inputs: StepInputs) -> Tensor:
        """`decode` as a function of `inputs` alone, for which `cache` has made room: logits [b, T, V].

        With the triton kernel, and for layers that run their own module, no shape depends on the inputs' numbers and
        nothing waits for the device: it can be captured as a CUDA graph. To be called in inference mode.
        """
        batch, query_length = inputs.tokens.shape
        hidden = self._embed(inputs.tokens.flatten())  # (N, d) with N = b * T
        rotation = self._rotation(inputs.positions, cache.max_length)
        for index, layer in enumerate(self.layers):
            queries, rows, gate = layer.project(hidden, rotation)
            written = rows if inputs.written is None else rows.index_select(0, inputs.written)
            cache.write_rows(index, inputs.slots, written)
            queries = layer.absorb(queries).unflatten(0, (batch, query_length))
            heads = self._attend(queries, cache, index, inputs).flatten(0, 1)
            hidden = layer.finish(hidden, layer.release(heads), gate)
        return self._logits(hidden).unflatten(0, (batch, query_length))

    @property
    def capturable(self) -> bool:
        """Whether `step` can be a CUDA graph on this model's device."""
        static = self.kernel is DecodeKernel.triton or all(isinstance(layer, ModuleLayer) for layer in self.layers)
        return self.device.type == "cuda" and static

    def _prefill_chunk(
        self, cache: DecodeCache, prompts: Sequence[Sequence[int]], places: Sequence[Sequence[int]]
    ) -> Tensor:
        lengths = [len(prompt) for prompt in prompts]
        starts = [0]
        for length in lengths:
            starts.append(starts[-1] + length)
        step = cache.reserve(
            [length for length, place in zip(lengths, places, strict=True) for _ in place],
            [sequence for place in places for sequence in place],
        )
        copies = None  # where the rows of the step's sequences come from, when prompts are shared
        if any(len(place) != 1 for place in places):
            spans = [torch.arange(start, end) for start, end in pairwise(starts)]
            copies = torch.cat([span for span, place in zip(spans, places, strict=True) for _ in place])
            copies = copies.to(self.device)
        runs = [(length, len(list(run))) for length, run in groupby(lengths)]
        positions = torch.cat([torch.arange(length).repeat(count) for length, count in runs]).to(self.device)
        rotation = self._rotation(positions, cache.max_length)
        last = torch.tensor(starts[1:], device=self.device) - 1

        hidden = self._embed(torch.tensor([token for prompt in prompts for token in prompt], device=self.device))
        for index, layer in enumerate(self.layers):
            queries, rows, gate = layer.project(hidden, rotation)
            step.append_rows(index, rows if copies is None else rows.index_select(0, copies))
            keys, values = layer.expand(rows, rotation)
            heads = hidden.new_empty(len(hidden), self.shape.query_heads * self.shape.head_dim, dtype=self.dtype)
            start = 0
            for length, count in runs:  # right padding would need no mask either, but would be computed
                run = slice(start, start + length * count)
                query, key, value = (part[run].view(count, length, *part.shape[1:]) for part in (queries, keys, values))
                heads[run] = (
                    causal_attention(query, key, value, None, self.shape.softmax_scale).flatten(2).flatten(0, 1)
                )
                start = run.stop
            hidden = layer.finish(hidden, heads, gate)
        return self._logits(hidden.index_select(0, last))

    def _attend(self, queries: Tensor, cache: DecodeCache, index: int, inputs: StepInputs) -> Tensor:
        layer = CacheLayer(cache.storage[index], inputs.page_table)
        prepared = self.layers[index]
        if isinstance(prepared, ModuleLayer):
            rotation = Rotations(self.rotation_table(cache.max_length)[: inputs.longest])
            rows = self._rows(layer, inputs.lengths, inputs.longest)
            return prepared.attend(queries, rows, inputs.lengths, rotation)
        if queries.dtype != layer.storage.dtype:
            queries = queries.float()
        return attend(self.shape, queries, layer, inputs.lengths, kernel=self.kernel)

    def _rows(self, layer: CacheLayer, lengths: Tensor, longest: int) -> Tensor:
        """The cached rows of every sequence in token order, (b, longest, E), and 0 beyond its length."""
        page_size = layer.storage.shape[1]
        pages = layer.page_table[:, : -(-longest // page_size)].clamp(0, len(layer.storage) - 1).long()
        rows = layer.storage[:, :longest][pages].flatten(1, 2)[:, :longest]
        times = torch.arange(longest, device=self.device)
        return rows.masked_fill((times >= lengths[:, None])[..., None], 0.0)  # what lies there may be NaN

    def _embed(self, tokens: Tensor) -> Tensor:
        return F.embedding(tokens, self.embedding).float()

    def _logits(self, hidden: Tensor) -> Tensor:
        return self.head(hidden).float()

    def _prepare_ends(self) -> None:
        self.embedding = weights_of(self.decoder.embedding.weight).to(self.dtype, copy=True)
        head = weights_of(self._head.weight) * weights_of(self.decoder.norm.weight)
        linear: Callable[..., Callable[..., Tensor]] = PanelLinear
        if not self._compiled:
            linear = partial(TorchLinear, dtype=self.dtype)
        self.head = linear(head, epsilon=self.decoder.norm.eps)

    @torch.inference_mode()
    def _compare_with(self, model: RlExpForCausalLM) -> None:
        """Raise RuntimeError where two short prompts and a cached step give other logits than the model itself."""
        tokens = (torch.arange(10, device=self.device) * 7919 % self.vocabulary).view(2, 5)
        expected = model.head(model.decoder.hidden_states(tokens))[:, 3:].float()
        cache = self.new_cache(batch_size=2, max_length=5)
        prefilled = self.prefill(cache, tokens[:, :4].tolist(), [[0], [1]])
        logits = torch.stack((prefilled, self.decode(cache, tokens[:, 4:], [0, 1])[:, 0]), dim=1)
        size = float((expected - expected.mean(dim=-1, keepdim=True)).norm())
        difference = float((logits - expected).norm()) / max(size, 1e-30)
        coarser = max(torch.finfo(dtype).eps for dtype in (self.dtype, model.head.weight.dtype))
        tolerance = max(1e-3, 16 * coarser)  # rounding stays far below, another mechanism far above
        # A model whose own logits are not finite has nothing to be compared with.
        if math.isfinite(size) and not difference <= tolerance:
            raise RuntimeError(
                f"the decode engine's logits differ from the model's by {difference:.1%} (rounding explains "
                f"{tolerance:.1%}): its form of {self.config.attention} with kernel={self.kernel} does not compute "
                "what the module computes, so nothing was generated. Correct the prepared form (see "
                "docs/adding_a_mechanism.md), or remove it from PREPARED_FORMS to decode with the module itself"
            )

    def _rotation(self, positions: Tensor, max_length: int) -> Rotations:
        return Rotations(self.rotation_table(max_length).index_select(0, positions))

    def rotation_table(self, max_length: int) -> Tensor:
        """The rotation of every position, (at least max_length, R/2) complex64."""
        if len(self._turns) < max_length:
            positions = torch.arange(max_length, device=self.device)[None]
            rotation = rotation_at(positions, self.config, torch.float32)
            empty = torch.empty(max_length, 0, device=self.device)
            cosine, sine = (empty, empty) if rotation is None else (part[0, :, 0] for part in rotation)
            self._turns = torch.complex(cosine, sine)
        return self._turns


def usual_kernel(device: torch.device, dtype: torch.dtype) -> DecodeKernel:
    """The fastest of ours that can run on `device` beside weights in `dtype`."""
    if device.type == "cpu" and dtype == torch.float32:
        return DecodeKernel.cpu
    has_triton = device.type == "cuda" and importlib.util.find_spec("triton") is not None
    return DecodeKernel.triton if has_triton else DecodeKernel.reference
