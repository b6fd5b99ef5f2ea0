"""Training speed beside transformers, interleaved in one process.

    python -m experiments.benchmarks.training_speed --rounds 5 --compiled

Every contender does the same work: forward, backward, clipping and a fused AdamW step on the same batch. Rounds visit
all contenders in a new random order, and speeds are compared as ratios within a round, so that a busy machine slows
all alike. FLOP/s counts 6 N per token (N: all weights, tied embeddings once).
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from rich.console import Console
from torch import Tensor

from experiments.benchmarks.peers import llama_with_weights_of, matched_model
from experiments.reports.tables import Column, rich_table
from experiments.training.optimizers import build_optimizer, clip_gradients

COLUMNS = [
    Column[dict[str, Any]]("model", "model", left=True),
    Column[dict[str, Any]]("parameters", "parameters", "{:,}"),
    Column[dict[str, Any]]("tokens/s", "tokens_per_second", "{:,.1f}"),
    Column[dict[str, Any]]("GFLOP/s (6N)", "gflops"),
    Column[dict[str, Any]]("x transformers", "times_transformers", missing="-"),
    Column[dict[str, Any]]("time / GQA's", "time_over_gqa"),
]
MECHANISMS = ("mha", "gqa", "gta", "mla", "gla")


@dataclass
class Contender:
    """A named training step and the seconds that its rounds took."""

    name: str
    parameters: int
    step: Callable[[], None]
    seconds: list[float] = field(default_factory=list)


def training_step(
    model: torch.nn.Module, loss_function: Callable[..., torch.Tensor], inputs: torch.Tensor, targets: torch.Tensor
) -> Callable[[], None]:
    """Forward, backward, clip, AdamW."""
    optimizer = build_optimizer(
        model,
        name="adamw",
        steps=10_000,
        learning_rate=1e-4,
        muon_learning_rate=1e-2,
        muon_momentum=0.95,
        beta1=0.9,
        beta2=0.95,
        epsilon=1e-8,
        weight_decay=0.1,
        warmup_share=0.0,
        final_learning_rate_share=0.1,
    )

    def step() -> None:
        loss_function(inputs, targets).backward()
        clip_gradients(model, 1.0)
        optimizer.step()

    return step


def contenders(arguments: argparse.Namespace) -> list[Contender]:
    """Ours and transformers', eager and (where asked for) compiled."""
    generator = torch.Generator().manual_seed(0)
    size = (arguments.batch_size, arguments.sequence_length + 1)
    tokens = torch.randint(arguments.vocabulary_size, size, generator=generator)
    inputs, targets = tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous()
    result = []
    for compiled in (False, True) if arguments.compiled else (False,):
        suffix = " compiled" if compiled else ""
        for mechanism in arguments.mechanisms:
            model = matched_model(
                mechanism,
                hidden_size=arguments.hidden_size,
                layers=arguments.layers,
                heads=arguments.heads,
                feed_forward_dim=arguments.feed_forward_dim,
                vocabulary_size=arguments.vocabulary_size,
            )
            loss = torch.compile(model.loss) if compiled else model.loss
            result.append(
                Contender(f"{mechanism}{suffix}", model.num_parameters(), training_step(model, loss, inputs, targets))
            )
            if mechanism in ("mha", "gqa"):
                llama = llama_with_weights_of(model).train()
                llama.config.use_cache = False
                forward = torch.compile(llama) if compiled else llama

                # `labels` are shifted inside: one token more, so that as many are predicted.
                def llama_loss(_inputs: Tensor, _targets: Tensor, forward: Callable[..., Any] = forward) -> Tensor:
                    return forward(input_ids=tokens, labels=tokens).loss

                name = f"transformers {mechanism}{suffix}"
                result.append(
                    Contender(name, llama.num_parameters(), training_step(llama, llama_loss, inputs, targets))
                )
    return result


def measure(entrants: list[Contender], rounds: int) -> None:
    """Warm every contender up, then time one step of each per round, in random order."""
    for entrant in entrants:
        entrant.step()
        entrant.step()
    order = random.Random(0)
    for _ in range(rounds):
        for entrant in order.sample(entrants, len(entrants)):
            started = time.perf_counter()
            entrant.step()
            entrant.seconds.append(time.perf_counter() - started)


def ratio(entrant: Contender, other: Contender) -> float:
    """Median over rounds of how many times as fast as `other` it is."""
    return statistics.median(b / a for a, b in zip(entrant.seconds, other.seconds, strict=True))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hidden-size", type=int, default=256)
    parser.add_argument("--layers", type=int, default=8)
    parser.add_argument("--heads", type=int, default=8)
    parser.add_argument("--feed-forward-dim", type=int, default=1024, help="of the MHA model; the others are matched")
    parser.add_argument("--vocabulary-size", type=int, default=4096)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--sequence-length", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--compiled", action="store_true", help="also torch.compile both (minutes of compilation)")
    parser.add_argument("--mechanisms", nargs="+", choices=MECHANISMS, default=list(MECHANISMS), help="with gqa")
    parser.add_argument("--threads", type=int, default=None)
    arguments = parser.parse_args()
    if "gqa" not in arguments.mechanisms:
        parser.error("--mechanisms needs gqa, which the others are compared with")
    if arguments.threads:
        torch.set_num_threads(arguments.threads)

    entrants = contenders(arguments)
    measure(entrants, arguments.rounds)
    by_name = {entrant.name: entrant for entrant in entrants}
    tokens = arguments.batch_size * arguments.sequence_length
    rows = []
    for entrant in entrants:
        speed = tokens / statistics.median(entrant.seconds)
        compiled = " compiled" if entrant.name.endswith("compiled") else ""
        mechanism = entrant.name.removesuffix(" compiled").removeprefix("transformers ")
        peer = by_name.get(f"transformers {mechanism}{compiled}")
        row = {
            "model": entrant.name,
            "parameters": entrant.parameters,
            "tokens_per_second": round(speed, 1),
            "gflops": round(6 * entrant.parameters * speed / 1e9, 1),
            "times_transformers": round(ratio(entrant, peer), 3) if peer else None,
            "time_over_gqa": round(1 / ratio(entrant, by_name[f"gqa{compiled}"]), 3),
        }
        rows.append(row)
    title = f"training speed, {torch.get_num_threads()} threads, load {os.getloadavg()[0]:.1f}"
    Console().print(rich_table(COLUMNS, rows, title=title))
    print(json.dumps({"settings": vars(arguments), "torch": torch.__version__, "rows": rows}))


if __name__ == "__main__":
    main()
