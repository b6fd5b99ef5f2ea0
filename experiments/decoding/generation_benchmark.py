"""Whole-model generation against transformers' `generate`, in one process: prefill and decode apart.

A cell (batch, context) pits `DecodeEngine` against each peer: the model's own transformers path, and for grouped-query
attention transformers' LlamaForCausalLM with the same weights, each with its dynamic cache or with a static cache and
a compiled forward pass (20 to 30 s of compilation per cell). While a peer generates, blocks of its steps alternate
with blocks of engine steps, so that both see the same machine; the time of a step is the median over its blocks.
Prompts are random tokens: time does not depend on what is said.

    python -m experiments.decoding.generation_benchmark --mechanisms gqa gta --batches 1 8 --contexts 128 512
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import StoppingCriteria as Callback

from ..models.configuration import RlExpConfig
from ..models.shapes import AttentionMechanism, matched_feed_forward_dim
from ..models.transformer import RlExpForCausalLM, build_model
from .engine import DecodeEngine, Request
from .machine import CeilingProbe
from .peers import COMPILED_PEERS, Peer, generate_with_peer, peer_model
from .sampling import GREEDY
from .speculative import PromptLookup, SpeculativeEngine

ANCHOR_FEED_FORWARD_DIM = 1024
PREFILL_ROUNDS_BELOW = 10_000  # tokens: shorter prefills are timed several times


@dataclass(frozen=True)
class GenerationRow:
    """The engine against one peer in one cell. Tokens are those of all sequences; `context` is the prompt length.

    `floor_ms` is the time of reading every weight and every cached row once at the memory bandwidth measured between
    the blocks: a lower bound of a step unless the last-level cache holds them.
    """

    mechanism: str
    peer: str
    batch: int
    context: int
    engine_step_ms: float
    peer_step_ms: float
    engine_decode_tokens_per_second: float
    peer_decode_tokens_per_second: float
    decode_ratio: float
    engine_prefill_tokens_per_second: float
    peer_prefill_tokens_per_second: float
    prefill_ratio: float
    step_bytes: int
    floor_ms: float
    engine_of_floor: float


@dataclass(frozen=True)
class SpeculationRow:
    """Prompt-lookup speculation against the plain engine on the same prompts, greedy."""

    mechanism: str
    batch: int
    context: int
    same_text: bool
    tokens_per_step: float
    acceptance_rate: float
    plain_tokens_per_second: float
    speculative_tokens_per_second: float
    speed_up: float


def nine_million_model(mechanism: AttentionMechanism | str, seed: int = 0) -> RlExpForCausalLM:
    """Hidden size 256, 8 layers, 8 heads, vocabulary 4096, parameters matched to a feed-forward of 1024: 9.4M."""
    shape: dict[str, Any] = {"attention": str(mechanism), "hidden_size": 256, "query_heads": 8, "head_dim": 32}
    attention = RlExpConfig(**shape, layers=1).attention_shape()
    width = matched_feed_forward_dim(attention, ANCHOR_FEED_FORWARD_DIM)
    config = RlExpConfig(**shape, layers=8, vocab_size=4096, feed_forward_dim=width, max_position_embeddings=4096)
    return build_model(config, torch.Generator().manual_seed(seed)).eval()


def compare_generation(
    mechanism: AttentionMechanism | str,
    *,
    batch: int,
    context: int,
    peers: Sequence[Peer] = (Peer.own_dynamic,),
    new_tokens: int = 48,
    block: int = 8,
    **engine_options: Any,
) -> Iterator[GenerationRow]:
    """The rows of one cell, one per peer. Options go to `DecodeEngine`."""
    model = nine_million_model(mechanism)
    prompts = torch.randint(0, model.config.vocab_size, (batch, context), generator=torch.Generator().manual_seed(1))
    # Two untimed blocks for each peer; the engine's context grows by its steps as the peer's does.
    steps = len(peers) * (new_tokens + 2 * block) + 2
    engine = DecodeEngine(model, batch_size=batch, max_length=context + steps, **engine_options)
    engine_prefill = _engine_prefill(engine, prompts, steps)
    probe = CeilingProbe()
    for peer in peers:
        engine_steps: list[float] = []
        bandwidths: list[float] = []

        def engine_block(times: list[float] = engine_steps, bandwidths: list[float] = bandwidths) -> None:
            for step in range(block):
                seconds = _seconds(engine.step)
                if step:  # the first one finds the caches full of the peer's data
                    times.append(seconds)
            bandwidths.append(probe.memory_read())

        peer_prefill, peer_step = _time_peer(peer_model(model, peer), peer, prompts, new_tokens, block, engine_block)
        engine_step = statistics.median(engine_steps)
        cached = engine.cache.shape.cached_elements() * len(engine.model.layers) * batch * (context + new_tokens // 2)
        step_bytes = 4 * model.config.model_shape().parameters() + 4 * cached
        floor = step_bytes / statistics.median(bandwidths)
        yield GenerationRow(
            mechanism=str(mechanism),
            peer=peer,
            batch=batch,
            context=context,
            engine_step_ms=1e3 * engine_step,
            peer_step_ms=1e3 * peer_step,
            engine_decode_tokens_per_second=batch / engine_step,
            peer_decode_tokens_per_second=batch / peer_step,
            decode_ratio=peer_step / engine_step,
            engine_prefill_tokens_per_second=batch * context / engine_prefill,
            peer_prefill_tokens_per_second=batch * context / peer_prefill,
            prefill_ratio=peer_prefill / engine_prefill,
            step_bytes=step_bytes,
            floor_ms=1e3 * floor,
            engine_of_floor=floor / engine_step,
        )


def compare_speculation(
    mechanism: AttentionMechanism | str,
    *,
    batch: int = 1,
    context: int = 128,
    new_tokens: int = 128,
    draft_length: int = 4,
    rounds: int = 3,
    model: RlExpForCausalLM | None = None,
    prompts: Sequence[Sequence[int]] | None = None,
    kernel: str | None = None,
    dtype: torch.dtype = torch.float32,
) -> SpeculationRow:
    """Prompt lookup on the given prompts, else on prompts that repeat a phrase; rounds of both alternate.

    `dtype` is that of weights and cache.

    Without `model` the weights are random: its texts soon repeat themselves, so acceptance says little about language.
    """
    model = nine_million_model(mechanism) if model is None else model
    if prompts is None:
        phrase = torch.randint(0, model.config.vocab_size, (batch, 16), generator=torch.Generator().manual_seed(2))
        prompts = phrase.repeat(1, -(-context // 16))[:, :context].tolist()
    size: dict[str, Any] = {"batch_size": len(prompts), "max_length": max(map(len, prompts)) + new_tokens}
    size |= {"weight_dtype": dtype, "cache_dtype": dtype, "kernel": kernel}
    plain = DecodeEngine(model, **size)
    speculative = SpeculativeEngine(model, proposer=PromptLookup(), draft_length=draft_length, **size)
    requests = [Request(prompt, max_new_tokens=new_tokens, sampling=GREEDY) for prompt in prompts]
    seconds: dict[DecodeEngine, list[float]] = {plain: [], speculative: []}
    texts: dict[DecodeEngine, list[tuple[int, ...]]] = {}
    for _ in range(rounds + 1):
        for engine, times in seconds.items():
            for request in requests:
                engine.submit(request)
            completions = list(engine.step().completions)  # the prompts
            started = time.perf_counter()
            while not engine.finished:
                completions.extend(engine.step().completions)
            times.append(time.perf_counter() - started)
            texts[engine] = [completion.tokens for completion in sorted(completions, key=lambda c: c.request_id)]
    tokens = len(prompts) * (new_tokens - 1)
    plain_seconds, speculative_seconds = (statistics.median(times[1:]) for times in seconds.values())
    return SpeculationRow(
        mechanism=str(mechanism),
        batch=len(prompts),
        context=max(map(len, prompts)),
        same_text=texts[plain] == texts[speculative],
        tokens_per_step=speculative.tokens_per_step,
        acceptance_rate=speculative.acceptance_rate,
        plain_tokens_per_second=tokens / plain_seconds,
        speculative_tokens_per_second=tokens / speculative_seconds,
        speed_up=plain_seconds / speculative_seconds,
    )


class _Interleave(Callback):
    """Times every step of a running `generate`, and lets the engine run a block after every block of steps."""

    def __init__(self, block: int, untimed: int, engine_block: Callable[[], None]) -> None:
        self.block, self.untimed, self.engine_block = block, untimed, engine_block
        self.steps = 0
        self.prefill = 0.0
        self.times: list[float] = []
        self.since = time.perf_counter()

    def __call__(self, input_ids: Tensor, scores: Any, **_: Any) -> Tensor:
        seconds = time.perf_counter() - self.since
        if self.steps == 0:
            self.prefill = seconds
        elif self.steps > self.untimed and self.steps % self.block != 1:
            self.times.append(seconds)  # not the first of a block: it finds the caches full of the engine's data
        if self.steps >= self.untimed and self.steps % self.block == 0:
            self.engine_block()
        self.steps += 1
        self.since = time.perf_counter()
        return torch.zeros(len(input_ids), dtype=torch.bool, device=input_ids.device)


def _time_peer(
    model: Any, peer: Peer, prompts: Tensor, new_tokens: int, block: int, engine_block: Callable[[], None]
) -> tuple[float, float]:
    """Seconds of prefill and of one decode step."""
    untimed = block
    watch = _Interleave(block, untimed, engine_block)

    def generate(length: int, watch: _Interleave) -> None:
        watch.since = time.perf_counter()
        generate_with_peer(model, peer, prompts, length, watch)

    generate(untimed + new_tokens + 1, watch)
    prefills = [watch.prefill]
    if prompts.numel() < PREFILL_ROUNDS_BELOW and peer not in COMPILED_PEERS:
        for _ in range(3):
            again = _Interleave(block, 2, lambda: None)
            generate(1, again)
            prefills.append(again.prefill)
    return statistics.median(prefills[-3:]), statistics.median(watch.times)


def _engine_prefill(engine: DecodeEngine, prompts: Tensor, steps: int) -> float:
    """Seconds of reading the prompts; afterwards the engine is ready for `steps` decode steps."""
    times = []
    rounds = 3 if prompts.numel() < PREFILL_ROUNDS_BELOW else 0
    for length in (*([1] * rounds), steps):
        for prompt in prompts.tolist():
            engine.submit(Request(prompt, max_new_tokens=length, sampling=GREEDY))
        times.append(_seconds(lambda: _read_all(engine)))
    return statistics.median(times[-3:])


def _read_all(engine: DecodeEngine) -> None:
    while engine.waiting:
        engine.step()


def _seconds(work: Callable[[], Any]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def main(arguments: Sequence[str] | None = None) -> None:
    """Print one JSON document per row."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mechanisms", nargs="+", default=["gqa"], choices=list(AttentionMechanism))
    parser.add_argument("--peers", nargs="+", default=[Peer.own_dynamic], choices=list(Peer), type=Peer)
    parser.add_argument("--batches", nargs="+", default=[1, 8], type=int)
    parser.add_argument("--contexts", nargs="+", default=[128, 512], type=int)
    parser.add_argument("--new-tokens", default=48, type=int)
    parser.add_argument("--threads", default=None, type=int)
    parser.add_argument(
        "--speculation", action="store_true", help="compare prompt lookup with the plain engine instead"
    )
    options = parser.parse_args(arguments)
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    for mechanism in options.mechanisms:
        for batch in options.batches:
            for context in options.contexts:
                if options.speculation:
                    print(json.dumps(asdict(compare_speculation(mechanism, batch=batch, context=context))), flush=True)
                    continue
                sizes = {"batch": batch, "context": context, "new_tokens": options.new_tokens}
                for row in compare_generation(mechanism, peers=options.peers, **sizes):
                    print(json.dumps(asdict(row)), flush=True)


if __name__ == "__main__":
    main()
