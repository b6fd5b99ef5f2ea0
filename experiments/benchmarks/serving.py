"""Requests that arrive while others are served, at one cache budget in bytes: what a smaller cache buys a server.

Requests arrive as a Poisson stream with drawn prompt and output lengths; all mechanisms see the same ones. The clock
is the sum of the measured times of the engine's steps, and jumps to the next arrival when nothing is left to do: no
time is spent waiting. A smaller cache per token lets more sequences in at once, and the queue is shorter.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from ..decoding.engine import DecodeEngine, Request
from ..decoding.sampling import SamplingOptions
from ..decoding.static_step import bucket
from ..models.shapes import ModelShape
from ..models.transformer import RlExpForCausalLM
from .cells import DTYPES, failure, threads_kept
from .generate import model_on, refuse_beyond_memory, weight_dtype
from .gpu import OnGpu


@dataclass(frozen=True)
class Lengths:
    """A distribution of token counts: `fixed`, `uniform` or `lognormal` of that mean; spread = deviation / mean."""

    distribution: str
    mean: int
    spread: float
    longest: int

    def draw(self, count: int, generator: np.random.Generator) -> np.ndarray:
        """Whole numbers in 1..longest."""
        deviation = self.spread * self.mean
        if self.distribution == "fixed" or deviation == 0:
            drawn = np.full(count, float(self.mean))
        elif self.distribution == "uniform":
            drawn = generator.uniform(self.mean - deviation * 3**0.5, self.mean + deviation * 3**0.5, count)
        else:
            variance = np.log1p(self.spread**2)
            drawn = generator.lognormal(np.log(self.mean) - variance / 2, variance**0.5, count)
        return np.clip(np.rint(drawn), 1, self.longest).astype(int)


@dataclass(frozen=True)
class Arrival:
    """A request and when it comes, in seconds from the start."""

    seconds: float
    prompt: tuple[int, ...]
    new_tokens: int


@dataclass(frozen=True, kw_only=True)
class ServingSetting:
    """One server: a mechanism, its storage, a budget."""

    mechanism: str
    dtype: str
    threads: int | None  # None: on a GPU
    kernel: str
    cache_bytes: int
    largest_batch: int
    page_size: int

    def labels(self) -> dict[str, Any]:
        """The columns that say which cell a row is."""
        names = ("mechanism", "dtype", "threads", "kernel", "page_size", "largest_batch")
        return {name: getattr(self, name) for name in names} | {"budget_bytes": self.cache_bytes}


def draw_arrivals(
    requests: int,
    per_second: float,
    prompt: Lengths,
    output: Lengths,
    vocabulary_size: int,
    generator: np.random.Generator,
) -> list[Arrival]:
    """The requests that every mechanism is given."""
    times = np.cumsum(generator.exponential(1 / per_second, requests))
    prompts, outputs = prompt.draw(requests, generator), output.draw(requests, generator)
    return [
        Arrival(float(seconds), tuple(generator.integers(0, vocabulary_size, length).tolist()), int(new_tokens))
        for seconds, length, new_tokens in zip(times, prompts, outputs, strict=True)
    ]


def measure_serving(
    settings: Sequence[ServingSetting],
    model_of: Callable[[str], RlExpForCausalLM],
    shapes: Mapping[str, ModelShape],
    arrivals: Sequence[Arrival],
    *,
    rounds: int,
    memory_share: float,
    seed: int,
    progress: Callable[[str], None] = lambda text: None,
    on_gpu: OnGpu | None = None,
) -> list[dict[str, Any]]:
    """A row for every setting: of `rounds` servings in random order, the one of median throughput.

    A setting that cannot be served says why. `progress` is called once per serving.
    """
    found: list[list[dict[str, Any]]] = [[] for _ in settings]
    failed: dict[int, dict[str, Any]] = {}
    order = np.random.default_rng(seed)
    with threads_kept() as before:
        for _ in range(rounds):
            for number in order.permutation(len(settings)).tolist():
                setting = settings[number]
                progress(f"{setting.mechanism} {setting.dtype}")
                if number in failed:
                    continue
                torch.set_num_threads(setting.threads or before)
                weights = weight_dtype(on_gpu, setting.dtype)
                twice = 2 * weights.itemsize * shapes[setting.mechanism].parameters()
                try:
                    refuse_beyond_memory(setting.cache_bytes, memory_share, "the cache's budget", on_gpu)
                    refuse_beyond_memory(twice, memory_share, "the model's weights, held twice,", on_gpu)
                    model = model_on(on_gpu, model_of(setting.mechanism), weights)
                    found[number].append(serve(setting, model, arrivals, dtype=weights))
                except Exception as error:  # one setting's failure is its row
                    failed[number] = failure(error)
    return [
        setting.labels() | (failed[number] if number in failed else _median_serving(found[number]))
        for number, setting in enumerate(settings)
    ]


def _median_serving(servings: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The serving of median throughput, with throughput and median latencies of every round and their quartiles.

    Settings are served in turn within a round, so that their ratios by round are free of the machine's slow drift.
    """
    ordered = sorted(servings, key=lambda serving: serving["tokens_per_second"])
    spread: dict[str, Any] = {}
    for name in ("tokens_per_second", "first_token_p50", "between_tokens_p50", "end_to_end_p50"):
        values = [serving[name] for serving in servings]
        lower, upper = np.quantile(values, (0.25, 0.75))
        spread |= {f"{name}_q1": float(lower), f"{name}_q3": float(upper), f"{name}_by_round": values}
    return {"status": "measured", "runs": len(ordered)} | ordered[(len(ordered) - 1) // 2] | spread


def serve(
    setting: ServingSetting, model: RlExpForCausalLM, arrivals: Sequence[Arrival], *, dtype: torch.dtype = torch.float32
) -> dict[str, Any]:
    """Serve all arrivals, weights in `dtype`; ValueError where one request alone is larger than the budget."""
    longest = max(len(arrival.prompt) + arrival.new_tokens for arrival in arrivals)
    engine = DecodeEngine(
        model,
        batch_size=setting.largest_batch,
        max_length=longest,
        page_size=setting.page_size,
        cache_bytes=setting.cache_bytes,
        cache_dtype=DTYPES[setting.dtype],
        weight_dtype=dtype,
        kernel=setting.kernel,
    )
    _warm_up(engine, arrivals)
    waiting = sorted(arrivals, key=lambda arrival: arrival.seconds, reverse=True)
    clock = busy = 0.0
    came: dict[int, float] = {}
    last_token: dict[int, float] = {}
    first_token, between, end_to_end, together = [], [], [], []
    finished = tokens = prompt_tokens = most_pages = 0
    while waiting or not engine.finished:
        if engine.finished:
            clock = max(clock, waiting[-1].seconds)
        while waiting and waiting[-1].seconds <= clock:
            arrival = waiting.pop()
            request = Request(arrival.prompt, max_new_tokens=arrival.new_tokens, sampling=SamplingOptions())
            came[engine.submit(request)] = arrival.seconds
        started = time.perf_counter()
        report = engine.step()
        seconds = time.perf_counter() - started
        clock, busy = clock + seconds, busy + seconds
        for (request_id, _), new in report.new_tokens.items():
            if request_id in last_token:
                between.append(clock - last_token[request_id])
            else:
                first_token.append(clock - came[request_id])
            last_token[request_id] = clock
            tokens += len(new)
        prompt_tokens += report.prompt_tokens
        finished += len(report.completions)
        end_to_end += [clock - came[completion.request_id] for completion in report.completions]
        together.append(len(report.new_tokens))
        most_pages = max(most_pages, engine.cache.pages - engine.cache.free_pages)
    row_bytes = engine.cache.allocated_bytes() // (engine.cache.pages * setting.page_size)
    return {
        "requests": len(arrivals),
        "finished": finished,
        "prompt_tokens": prompt_tokens,
        "new_tokens": tokens,
        "cache_bytes": engine.cache.allocated_bytes(),
        "most_used_bytes": most_pages * setting.page_size * row_bytes,
        "bytes_per_token": row_bytes,
        "budget_tokens": engine.cache.pages * setting.page_size,
        "most_together": max(together),
        "mean_together": float(np.mean(together)),
        "seconds": clock,
        "busy_share": busy / clock,
        "requests_per_second": finished / clock,
        "tokens_per_second": tokens / clock,
        **_percentiles("first_token", first_token),
        **_percentiles("between_tokens", between or [0.0]),
        **_percentiles("end_to_end", end_to_end),
        "load_average": os.getloadavg()[0],
    }


def _warm_up(engine: DecodeEngine, arrivals: Sequence[Arrival]) -> None:
    """One short request of real size: builds the kernel and touches the weights. On a GPU every graph is captured."""
    engine.generate([Request(arrivals[0].prompt, max_new_tokens=min(2, arrivals[0].new_tokens))])
    if engine.static_steps is None:
        return
    largest = engine.cache.batch_size
    request = Request(arrivals[0].prompt[:1], max_new_tokens=min(3, engine.cache.max_length - 1))
    for size in sorted({bucket(batch, largest) for batch in range(1, largest + 1)}):
        engine.generate([request] * size)


def _percentiles(name: str, seconds: Sequence[float]) -> dict[str, float]:
    return {f"{name}_p{percent}": float(np.percentile(seconds, percent)) for percent in (50, 90, 99)}
