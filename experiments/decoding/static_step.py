"""Decode steps over buffers that stay where they are: what a CUDA graph can capture once and replay.

A step's tokens, positions, places in the cache, lengths, page table, noise and temperatures are written into one buffer
of the device, in place and in one copy, and `DecodeModel.step` and the drawing of tokens read nothing else. So a step
of a bucket of sequences is one function without arguments: captured at its first use, replayed from then on. Rows of a
bucket beyond the running sequences have length 0 and write, again, what the first row writes.

Legend: B sequences of a bucket, T new tokens of each, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from .cache import CacheStep, DecodeCache
from .model_step import DecodeModel, StepInputs
from .sampling import BatchSampling, SampledTokens, draw_plainly, uniforms

Step = Callable[[], Tensor]


class Capture(Protocol):
    """Makes of a function without arguments one that does the same work on the same memory, only faster."""

    def __call__(self, function: Step) -> Step: ...


class CudaGraphs:
    """Captures on the current CUDA device. Graphs share memory: an output lasts until another one is replayed."""

    def __init__(self) -> None:
        self._pool: Any = None

    def __call__(self, function: Step) -> Step:
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):  # compiles kernels and makes tables outside of the capture
            for _ in range(2):
                function()
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._pool):
            output = function()
        self._pool = self._pool or graph.pool()

        def replay() -> Tensor:
            graph.replay()
            return output

        return replay


class StepBuffers:
    """The inputs of steps of `query_length` new tokens for up to `batch` sequences, in one piece of memory."""

    def __init__(self, batch: int, query_length: int, pages: int, device: torch.device) -> None:
        fields: dict[str, tuple[type[np.generic], tuple[int, ...]]] = {  # the widest types first: all stay aligned
            "tokens": (np.int64, (batch, query_length)),
            "positions": (np.int64, (batch, query_length)),
            "slots": (np.int64, (batch, query_length)),
            "written": (np.int64, (batch, query_length)),
            "noise": (np.float64, (batch,)),
            "lengths": (np.int32, (batch,)),
            "page_table": (np.int32, (batch, pages)),
            "temperatures": (np.float32, (batch,)),
        }
        sizes = {name: int(np.prod(shape)) * np.dtype(kind).itemsize for name, (kind, shape) in fields.items()}
        total = sum(sizes.values())
        self.memory = torch.zeros(total, dtype=torch.uint8, device=device)
        self._host = torch.zeros(total, dtype=torch.uint8, pin_memory=device.type == "cuda")
        self._copied = torch.cuda.Event() if device.type == "cuda" else None
        self.query_length = query_length
        self.on_device: dict[str, Tensor] = {}
        self._on_host: dict[str, np.ndarray] = {}
        start = 0
        for name, (kind, shape) in fields.items():
            piece = slice(start, start + sizes[name])
            host = self._host[piece].numpy().view(kind).reshape(shape)
            self._on_host[name] = host
            self.on_device[name] = self.memory[piece].view(torch.from_numpy(host).dtype).view(shape)
            start = piece.stop

    def fill(
        self,
        step: CacheStep,
        tokens: np.ndarray,
        noise: np.ndarray | None = None,
        temperatures: np.ndarray | None = None,
    ) -> None:
        """Take a step's inputs, `tokens` [b, T] with their noise and temperatures [b], with one copy to the device."""
        if self._copied is not None:
            self._copied.synchronize()  # the last copy has read what is now overwritten
        host, batch = self._on_host, len(tokens)
        new = np.arange(tokens.size) if step.host_new is None else step.host_new
        for name in ("slots", "written"):
            # Whatever is no new token, in a ragged row or beyond the batch, writes the first new token once more.
            host[name].fill((step.host_slots if name == "slots" else new)[0])
            host[name].reshape(-1)[new] = step.host_slots if name == "slots" else new
        host["tokens"][:batch] = tokens
        host["tokens"][batch:] = 0
        np.maximum(step.host_positions, 0, out=host["positions"][:batch], casting="unsafe")
        host["positions"][batch:] = 0
        host["lengths"][:batch] = step.host_lengths
        host["lengths"][batch:] = 0
        host["page_table"][:batch] = step.host_page_table
        host["page_table"][batch:] = 0
        if noise is not None and temperatures is not None:
            host["noise"][:batch], host["temperatures"][:batch] = noise, temperatures
        self.memory.copy_(self._host, non_blocking=True)
        if self._copied is not None:
            self._copied.record()

    def inputs(self, batch: int, longest: int) -> StepInputs:
        """The first `batch` rows, as a step reads them."""
        part = {name: tensor[:batch] for name, tensor in self.on_device.items()}
        return StepInputs(
            tokens=part["tokens"],
            positions=part["positions"].flatten(),
            slots=part["slots"].flatten(),
            written=part["written"].flatten(),
            lengths=part["lengths"],
            page_table=part["page_table"],
            longest=longest,
        )


class StaticSteps:
    """The decode steps of one model over one cache, each kind captured at its first use.

    `capture` None captures nothing: every step runs as it stands (for tests, and for what cannot be captured).
    """

    def __init__(self, model: DecodeModel, cache: DecodeCache, capture: Capture | None) -> None:
        self.model, self.cache, self.capture = model, cache, capture
        self._buffers: dict[int, StepBuffers] = {}
        self._steps: dict[tuple[str, int, int], Step] = {}
        self._keeps: list[Tensor] = []  # what captured graphs read and nobody else may still hold

    def draw(
        self, tokens: Sequence[int], sequences: Sequence[int], batch: BatchSampling, positions: np.ndarray
    ) -> SampledTokens:
        """Append each sequence's token and draw the next one, on the CPU; for batches that are `plain_at` these."""
        step = self.cache.reserve(1, sequences)
        buffers = self._buffers_of(1)
        noise = uniforms(batch.hashed_seeds, positions)
        buffers.fill(step, np.array(tokens)[:, None], noise, batch.given_temperatures)
        drawn = self._run("draw", buffers, len(tokens))[:, : len(tokens)].cpu()  # one wait for everything
        return SampledTokens(drawn[0].long(), drawn[1].float(), drawn[2].float())

    def logits(self, tokens: np.ndarray, sequences: Sequence[int], counts: Sequence[int] | None = None) -> Tensor:
        """As `DecodeModel.decode`: [b, T, V], good until the next step."""
        batch, query_length = tokens.shape
        step = self.cache.reserve(query_length if counts is None else counts, sequences)
        buffers = self._buffers_of(query_length)
        buffers.fill(step, tokens)
        return self._run("logits", buffers, batch)[:batch]

    def _buffers_of(self, query_length: int) -> StepBuffers:
        if query_length not in self._buffers:
            cache = self.cache
            pages = -(-cache.max_length // cache.page_size)
            self._buffers[query_length] = StepBuffers(cache.batch_size, query_length, pages, self.model.device)
        return self._buffers[query_length]

    def _run(self, kind: str, buffers: StepBuffers, batch: int) -> Tensor:
        size = bucket(batch, self.cache.batch_size)
        key = (kind, size, buffers.query_length)
        with torch.inference_mode():
            if key not in self._steps:
                step = self._function(kind, buffers, size)
                self._steps[key] = step if self.capture is None else self.capture(step)
                self._keeps.append(self.model.rotation_table(self.cache.max_length))
            return self._steps[key]()

    def _function(self, kind: str, buffers: StepBuffers, size: int) -> Step:
        inputs = buffers.inputs(size, self.cache.max_length)
        noise, temperatures = (buffers.on_device[name][:size] for name in ("noise", "temperatures"))

        def logits() -> Tensor:
            return self.model.step(self.cache, inputs)

        def draw() -> Tensor:
            """[3, B] fp64: token, its log-probability under the policy, and under what it was drawn from."""
            drawn = draw_plainly(logits()[:, 0], noise, temperatures)
            return torch.stack([part.double() for part in drawn])

        return draw if kind == "draw" else logits


def bucket(batch: int, largest: int) -> int:
    """The rows that a step of `batch` sequences computes: 1, 2, 4, then multiples of 8, 32 and 128."""
    size = next((power for power in (1, 2, 4) if batch <= power), 0)
    if not size:
        multiple = 8 if batch <= 64 else 32 if batch <= 256 else 128
        size = -(-batch // multiple) * multiple
    return min(size, largest)
