"""Whole models: reading prompts and decoding, each timed apart, beside the time that weights and cache alone cost.

All mechanisms of one batch and context take turns in rounds of random order. A visit reads the prompts into an empty
cache (prefill), then draws `new_tokens` greedy tokens for every sequence, step by step. Prompts are random tokens:
time does not depend on what is said.

On a GPU weights are held in the type of the cache, steps are CUDA graphs, and the ceilings are the device's: memory
bandwidth and matrix products. A model that stays in the L2 cache may be faster than its floor. Every step ends with its
tokens on the host, so the processor's clock is the right one.

Legend: B sequences, V vocabulary.
"""

from __future__ import annotations

import copy
import os
import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import StoppingCriteria

from ..decoding.engine import DecodeEngine, Request
from ..decoding.model_step import DecodeModel
from ..decoding.sampling import GREEDY
from ..decoding.speculative import PromptLookup, SpeculativeEngine
from ..decoding.whole_model_cost import Placement, step_cost
from ..models.shapes import ModelShape
from ..models.transformer import RlExpForCausalLM
from .ceilings import CACHE_SHARE, CeilingProbe, Ceilings, free_memory, last_level_cache_bytes, measure_ceilings
from .cells import DTYPES, failure, failure_reason, quartiles, threads_kept
from .choices import Peer
from .gpu import PEAK_NAMES, GpuCeilings, OnGpu
from .peers import LLAMA_PEERS, generate_with_peer, peer_model

OURS, SPECULATIVE = "rl-exp", "rl-exp speculative"
PEER_NAMES = {  # what tables and rows call transformers' ways to generate
    Peer.own_dynamic: "transformers",
    Peer.own_static_compiled: "transformers, compiled",
    Peer.llama_dynamic: "Llama",
    Peer.llama_static_compiled: "Llama, compiled",
}


@dataclass(frozen=True, kw_only=True)
class GenerateSetting:
    """One cell: prompts of `context` tokens for `batch` sequences, `new_tokens` more for each."""

    mechanism: str
    batch: int
    context: int
    dtype: str
    page_size: int | None
    threads: int | None  # None: on a GPU
    kernel: str
    new_tokens: int

    def labels(self) -> dict[str, Any]:
        """The columns that say which cell a row is."""
        names = ("mechanism", "batch", "context", "dtype", "page_size", "threads", "kernel", "new_tokens")
        return {name: getattr(self, name) for name in names}


@dataclass
class _Visited:
    """One system in one cell, and what its visits took."""

    setting: GenerateSetting
    system: str
    visit: Callable[[], tuple[float, list[float]]]  # seconds of the prefill, and of every step
    shape: ModelShape
    cache_bytes: int
    prefill: list[float] = field(default_factory=list)
    steps: list[float] = field(default_factory=list)
    error: str | None = None


def measure_generation(
    settings: Sequence[GenerateSetting],
    model_of: Callable[[str], RlExpForCausalLM],
    shapes: Mapping[str, ModelShape],
    *,
    rounds: int,
    cell_seconds: float,
    memory_share: float,
    peers: Sequence[Peer],
    seed: int,
    progress: Callable[[str], None] = lambda text: None,
    on_gpu: OnGpu | None = None,
) -> tuple[list[dict[str, Any]], dict[int, Ceilings]]:
    """A row for every setting and system, and the processor's ceilings by number of threads (none where on a GPU).

    `model_of` gives the model of a mechanism's name, `shapes` its
    arithmetic. A cell that cannot be measured says why.
    """
    ceilings: dict[int, Ceilings] = {}
    rows: list[dict[str, Any]] = []
    with threads_kept() as before:
        for threads in dict.fromkeys(setting.threads for setting in settings):
            probe: CeilingProbe | None = None
            limits: Ceilings | GpuCeilings
            if on_gpu is not None:
                limits = on_gpu.ceilings
            else:
                torch.set_num_threads(threads or before)
                limits = ceilings[threads or before] = measure_ceilings()
                probe = CeilingProbe()
            own = [setting for setting in settings if setting.threads == threads]
            models = _Models(model_of, shapes, memory_share, on_gpu)
            for key in dict.fromkeys((s.batch, s.context, s.dtype, s.page_size, s.kernel) for s in own):
                visited: list[_Visited | dict[str, Any]] = []
                for setting in own:
                    if (setting.batch, setting.context, setting.dtype, setting.page_size, setting.kernel) == key:
                        progress(f"{setting.mechanism} batch {setting.batch} context {setting.context}")
                        visited += _set_up(setting, models, peers, seed)
                bandwidth = _time(
                    [one for one in visited if isinstance(one, _Visited)], probe, rounds, cell_seconds, seed
                )
                rows += [one if isinstance(one, dict) else _row(one, limits, bandwidth) for one in visited]
    return rows, ceilings


class _Models:
    """The models of a grid, each made once; refused before anything is allocated where they do not fit."""

    def __init__(
        self,
        model_of: Callable[[str], RlExpForCausalLM],
        shapes: Mapping[str, ModelShape],
        memory_share: float,
        on_gpu: OnGpu | None,
    ) -> None:
        self.model_of, self.shapes, self.memory_share, self.on_gpu = model_of, shapes, memory_share, on_gpu
        self._made: dict[tuple[str, ...], tuple[RlExpForCausalLM, DecodeModel]] = {}
        self._llamas: dict[tuple[str, ...], Any] = {}

    @property
    def device(self) -> torch.device:
        """Where they are."""
        return torch.device("cpu") if self.on_gpu is None else self.on_gpu.gpu.device

    def get(self, mechanism: str, kernel: str, dtype: str) -> tuple[RlExpForCausalLM, DecodeModel]:
        """The model, and its weights prepared for decoding (a second copy of them)."""
        weights = weight_dtype(self.on_gpu, dtype)
        key = (mechanism, kernel, str(weights))
        if key not in self._made:
            self.refuse(2 * weights.itemsize * self.shapes[mechanism].parameters(), "the model's weights, held twice,")
            model = model_on(self.on_gpu, self.model_of(mechanism), weights)
            self._made[key] = (model, DecodeModel(model, kernel=kernel, dtype=weights))
        return self._made[key]

    def peer(self, mechanism: str, kernel: str, dtype: str, peer: Peer) -> Any:
        """What generates for this peer; a Llama is made once, so that its compiled forward pass is kept."""
        model, _ = self.get(mechanism, kernel, dtype)
        if peer not in LLAMA_PEERS:
            return model
        key = (mechanism, str(model.dtype))
        if key not in self._llamas:
            self._llamas[key] = peer_model(model, peer)
        return self._llamas[key]

    def refuse(self, needed: int, what: str) -> None:
        """ValueError where `needed` bytes are more than the share of the free memory."""
        refuse_beyond_memory(needed, self.memory_share, what, self.on_gpu)


def weight_dtype(on_gpu: OnGpu | None, dtype: str) -> torch.dtype:
    """The type of the weights of a model whose cache stores `dtype`: on a processor fp32 always."""
    return torch.float32 if on_gpu is None else DTYPES[dtype]


def model_on(on_gpu: OnGpu | None, model: RlExpForCausalLM, dtype: torch.dtype) -> RlExpForCausalLM:
    """The model itself on a processor, else a copy of it on the GPU, its weights in `dtype`."""
    return model if on_gpu is None else copy.deepcopy(model).to(device=on_gpu.gpu.device, dtype=dtype)


def refuse_beyond_memory(needed: int, memory_share: float, what: str, on_gpu: OnGpu | None = None) -> None:
    """ValueError where `needed` bytes are more than that share of the free memory, the GPU's where it is one."""
    free = free_memory() if on_gpu is None else on_gpu.gpu.free_memory()
    if needed > memory_share * free:
        raise ValueError(
            f"{what} need {needed / 1e9:,.2f} GB, bench.memory_share of the free memory is "
            f"{memory_share * free / 1e9:,.2f} GB: use a smaller model, batch or context"
        )


def _set_up(
    setting: GenerateSetting, models: _Models, peers: Sequence[Peer], seed: int
) -> list[_Visited | dict[str, Any]]:
    visited: list[_Visited | dict[str, Any]] = []
    for peer in (None, *peers):
        try:
            visited.append(_visited(setting, peer, models, seed))
        except Exception as error:  # one cell's failure is its row
            visited.append(setting.labels() | {"system": _system(peer)} | failure(error))
    return visited


def _system(peer: Peer | None) -> str:
    return OURS if peer is None else PEER_NAMES[peer]


def _visited(setting: GenerateSetting, peer: Peer | None, models: _Models, seed: int) -> _Visited:
    shape = models.shapes[setting.mechanism]
    element = DTYPES[setting.dtype].itemsize
    length = setting.context + setting.new_tokens + 1
    cache_bytes = setting.batch * length * shape.layers * shape.attention.cached_elements() * element
    models.refuse(cache_bytes, "the cache")
    model, prepared = models.get(setting.mechanism, setting.kernel, setting.dtype)
    generator = torch.Generator().manual_seed(seed)
    prompts = torch.randint(0, model.config.vocab_size, (setting.batch, setting.context), generator=generator)
    if peer is not None:
        other = models.peer(setting.mechanism, setting.kernel, setting.dtype, peer)
        there = prompts.to(models.device)
        return _Visited(
            setting, _system(peer), lambda: _visit_peer(other, peer, there, setting.new_tokens), shape, cache_bytes=0
        )
    engine = DecodeEngine(
        prepared,
        batch_size=setting.batch,
        max_length=length,
        page_size=setting.page_size,
        cache_dtype=DTYPES[setting.dtype],
        prefill_tokens=prompts.numel(),
    )
    return _Visited(
        setting,
        OURS,
        lambda: _visit_engine(engine, prompts, setting.new_tokens),
        shape,
        engine.cache.allocated_bytes(),
    )


def _visit_engine(engine: DecodeEngine, prompts: Tensor, new_tokens: int) -> tuple[float, list[float]]:
    for prompt in prompts.tolist():
        engine.submit(Request(prompt, max_new_tokens=new_tokens + 1, sampling=GREEDY))
    prefill = _seconds(engine.step)  # reads the prompts and draws the first token of each
    steps = []
    while not engine.finished:
        steps.append(_seconds(engine.step))
    return prefill, steps


def _visit_peer(model: Any, peer: Peer, prompts: Tensor, new_tokens: int) -> tuple[float, list[float]]:
    watch = _Watch()
    generate_with_peer(model, peer, prompts, new_tokens + 1, watch)
    return watch.seconds[0], watch.seconds[1:]


class _Watch(StoppingCriteria):
    """The time since the last step, noted after each."""

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self.since = time.perf_counter()

    def __call__(self, input_ids: Tensor, scores: Any, **_: Any) -> Tensor:
        if input_ids.is_cuda:
            torch.cuda.synchronize(input_ids.device)
        now = time.perf_counter()
        self.seconds.append(now - self.since)
        self.since = now
        return torch.zeros(len(input_ids), dtype=torch.bool, device=input_ids.device)


def _time(
    visited: Sequence[_Visited], probe: CeilingProbe | None, rounds: int, cell_seconds: float, seed: int
) -> float | None:
    """Fill in the seconds of all systems of one cell; returns the bandwidth measured in between."""
    order, bandwidths = random.Random(seed), []
    turns = list(visited)
    for number in range(rounds + 1):  # the first round warms up
        order.shuffle(turns)
        for one in turns:
            # A slow system gets one round after its warm-up; its steps are many measurements all the same.
            spent = sum(one.prefill) + sum(one.steps)
            if one.error or (number > 1 and spent > cell_seconds):
                continue
            try:
                if probe is not None:
                    bandwidths.append(probe.memory_read())
                prefill, steps = one.visit()
            except Exception as error:
                one.error = failure_reason(error)
                continue
            if number:
                one.prefill.append(prefill)
                one.steps += steps
    return float(np.median(bandwidths)) if bandwidths else None


def _row(one: _Visited, limits: Ceilings | GpuCeilings, bandwidth: float | None) -> dict[str, Any]:
    setting, shape = one.setting, one.shape
    row = setting.labels() | {"system": one.system, "parameters": shape.parameters()}
    if one.error or not one.steps:
        return row | {"status": "failed", "reason": one.error or "no step was timed"}
    dtype, resident = DTYPES[setting.dtype], "memory"
    weights = torch.float32 if isinstance(limits, Ceilings) else dtype
    placement = Placement(weight_bytes=weights.itemsize, cache_bytes=dtype.itemsize)
    cost = step_cost(shape, setting.batch, setting.context + setting.new_tokens // 2, placement)
    if isinstance(limits, Ceilings):
        # A model that is a small part of the last-level cache stays there from step to step.
        resident = "cache" if cost.bytes <= CACHE_SHARE * last_level_cache_bytes() else "memory"
        bandwidth = limits.cache_read_bytes if resident == "cache" else bandwidth or limits.memory_read_bytes
        peak = limits.fp32_flops
    else:
        bandwidth, peak = limits.memory_bytes, limits.matmul_flops(dtype)
        row |= {"peak_name": PEAK_NAMES[setting.dtype]}
    times = cost.seconds(bandwidth, peak, peak)
    floor = max(times.values())
    step, prefill = quartiles(one.steps), quartiles(one.prefill)
    return row | {
        "status": "measured",
        "residence": resident,
        "cache_bytes": one.cache_bytes or None,
        "bytes": cost.bytes,
        "flops": cost.flops,
        "intensity": cost.flops / cost.bytes,
        "bandwidth": bandwidth,
        "peak_flops": peak,
        "floor_seconds": floor,
        "bound": max(times, key=lambda name: times[name]),
        "runs": len(one.prefill),
        "prefill_seconds": prefill[1],
        "prefill_seconds_q1": prefill[0],
        "prefill_seconds_q3": prefill[2],
        "prefill_tokens_per_second": setting.batch * setting.context / prefill[1],
        "step_seconds": step[1],
        "step_seconds_q1": step[0],
        "step_seconds_q3": step[2],
        "tokens_per_second": setting.batch / step[1],
        "gigabytes_per_second": cost.bytes / step[1] / 1e9,
        "fraction_of_limit": floor / step[1],
        "load_average": os.getloadavg()[0],
    }


def measure_speculation(
    settings: Sequence[GenerateSetting],
    model_of: Callable[[str], RlExpForCausalLM],
    *,
    draft_tokens: int,
    repeated_tokens: int,
    rounds: int,
    seed: int,
    progress: Callable[[str], None] = lambda text: None,
    on_gpu: OnGpu | None = None,
) -> list[dict[str, Any]]:
    """Prompt lookup beside plain decoding on prompts that repeat a phrase: same text, accepted tokens, speed-up."""
    rows = []
    with threads_kept() as before:
        for setting in settings:
            progress(f"speculation {setting.mechanism} batch {setting.batch} context {setting.context}")
            torch.set_num_threads(setting.threads or before)
            row = setting.labels() | {"system": SPECULATIVE}
            try:
                weights = weight_dtype(on_gpu, setting.dtype)
                model = model_on(on_gpu, model_of(setting.mechanism), weights)
                generator = torch.Generator().manual_seed(seed)
                size = (setting.batch, repeated_tokens)
                phrase = torch.randint(0, model.config.vocab_size, size, generator=generator)
                prompts = phrase.repeat(1, -(-setting.context // repeated_tokens))[:, : setting.context].tolist()
                row |= compare_speculation(
                    model,
                    prompts,
                    new_tokens=setting.new_tokens,
                    draft_tokens=draft_tokens,
                    rounds=rounds,
                    kernel=setting.kernel,
                    dtype=weights,
                )
            except Exception as error:  # one cell's failure is its row
                row |= failure(error)
            rows.append(row)
    return rows


def compare_speculation(
    model: RlExpForCausalLM,
    prompts: Sequence[Sequence[int]],
    *,
    new_tokens: int,
    draft_tokens: int,
    rounds: int,
    kernel: str | None = None,
    dtype: torch.dtype = torch.float32,
) -> dict[str, Any]:
    """The columns of one cell: greedy decoding with and without prompt lookup; rounds of both alternate.

    Times are of decoding alone, without reading the prompts; `dtype` is that of weights and cache. With random weights
    texts soon repeat themselves, so that the acceptance says little about language.
    """
    size: dict[str, Any] = {"batch_size": len(prompts), "max_length": max(map(len, prompts)) + new_tokens}
    size |= {"weight_dtype": dtype, "cache_dtype": dtype, "kernel": kernel}
    plain = DecodeEngine(model, **size)
    speculative = SpeculativeEngine(model, proposer=PromptLookup(), draft_length=draft_tokens, **size)
    seconds: dict[DecodeEngine, list[float]] = {plain: [], speculative: []}
    texts: dict[DecodeEngine, list[tuple[int, ...]]] = {}
    for _ in range(rounds + 1):  # the first round warms up
        for engine, times in seconds.items():
            for prompt in prompts:
                engine.submit(Request(prompt, max_new_tokens=new_tokens, sampling=GREEDY))
            completions = list(engine.step().completions)  # the prompts
            started = time.perf_counter()
            while not engine.finished:
                completions.extend(engine.step().completions)
            times.append(time.perf_counter() - started)
            texts[engine] = [completion.tokens for completion in sorted(completions, key=lambda c: c.request_id)]
    tokens = len(prompts) * (new_tokens - 1)
    plain_seconds, speculative_seconds = (float(np.median(times[1:])) for times in seconds.values())
    return {
        "status": "measured",
        "tokens_per_second": tokens / speculative_seconds,
        "plain_tokens_per_second": tokens / plain_seconds,
        "accepted_length": speculative.tokens_per_step - 1,
        "acceptance_rate": speculative.acceptance_rate,
        "speed_up": plain_seconds / speculative_seconds,
        "same_text": texts[plain] == texts[speculative],
        "load_average": os.getloadavg()[0],
    }


def _seconds(work: Callable[[], Any]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started
