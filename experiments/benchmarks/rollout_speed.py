"""Rollouts of a model of transformers: the decode engine beside its own `generate`, interleaved in one process.

    python -m experiments.benchmarks.rollout_speed --threads 2 --rounds 5

Both draw as many completions of the same prompts from the same weights, by default random ones in the shape of
SmolLM2-135M, in one batch. Rollouts come with exact log-probabilities: the engine has them, `generate` needs another
pass over the texts, so its seconds are given without that pass too. The engine takes the present weights every time, as
after an update of a policy. Ratios are medians over rounds; `--clock cpu` with one thread is for a busy machine.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM, PreTrainedModel, PreTrainedTokenizerFast

from experiments.benchmarks.rlhf_speed import CLOCKS, word_tokenizer
from experiments.models.from_transformers import converted
from experiments.reports.tables import Column, rich_table
from experiments.runs.files import write_json
from experiments.tasks.task import Prompt
from experiments.training.rollouts import EngineSampler, GenerateSampler, RolloutSampler

SMOLLM2_135M: dict[str, Any] = {
    "vocab_size": 49152,
    "hidden_size": 576,
    "intermediate_size": 1536,
    "num_hidden_layers": 30,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
    "rms_norm_eps": 1e-5,
    "rope_parameters": {"rope_type": "default", "rope_theta": 100_000.0},
    "max_position_embeddings": 8192,
    "tie_word_embeddings": True,
}
COLUMNS = [
    Column[dict[str, Any]]("system", lambda row: row["system"], left=True),
    Column[dict[str, Any]]("completions per second", lambda row: row["completions_per_second"], "{:.2f}"),
    Column[dict[str, Any]]("engine's multiple", lambda row: row["engine_multiple"], "{:.2f}"),
]


class Texts(PreTrainedTokenizerFast):
    """Rollouts are of random tokens: nobody reads their texts."""

    def batch_decode(self, sequences: Any, *_: Any, **__: Any) -> list[str]:
        """As many empty texts."""
        return [""] * len(sequences)


def compare(model: PreTrainedModel, arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """A row per system; times are medians over rounds, the engine's multiple that of the ratios within rounds."""
    clock = CLOCKS[arguments.clock]
    vocabulary = model.config.vocab_size
    random = np.random.default_rng(0)
    rows = random.integers(3, vocabulary, (arguments.prompts, arguments.prompt_tokens)).tolist()
    prompts = [Prompt(index, "", tuple(row)) for index, row in enumerate(rows)]
    completions = arguments.prompts * arguments.samples
    tokenizer = Texts(tokenizer_object=word_tokenizer().backend_tokenizer, pad_token="w0")
    size = {"max_new_tokens": arguments.new_tokens, "batch_size": completions}
    engine = EngineSampler(converted(model), tokenizer, longest_prompt=arguments.prompt_tokens, stop_tokens=(), **size)
    stock = GenerateSampler(model, tokenizer, stop_tokens=[vocabulary], **size)  # no token ends a completion
    alone: list[float] = []
    library: Any = model  # whose `generate` is a mixin's
    generate = library.generate

    def timed(*given: Any, **options: Any) -> Any:
        started = clock()
        drawn = generate(*given, **options)
        alone.append(clock() - started)
        return drawn

    library.generate = timed

    def seconds(sampler: RolloutSampler, round_number: int) -> float:
        started = clock()
        rollouts = sampler.sample(prompts, arguments.samples, seed=round_number)
        taken = clock() - started
        assert set(rollouts.lengths) == {arguments.new_tokens}
        return taken

    samplers: tuple[RolloutSampler, ...] = (engine, stock)
    times: dict[str, list[float]] = {"decode engine": [], "generate with log-probabilities": []}
    for number in range(arguments.rounds):
        for sampler, taken in zip(samplers, times.values(), strict=True):
            taken.append(seconds(sampler, number))
    times["generate alone"] = alone
    ours = times["decode engine"]
    return [
        {
            "system": name,
            "completions_per_second": completions / statistics.median(taken),
            "engine_multiple": statistics.median(their / our for their, our in zip(taken, ours, strict=True)),
            "seconds": taken,
        }
        for name, taken in times.items()
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=None, help="a folder with a model, in place of random weights")
    parser.add_argument("--prompts", type=int, default=8)
    parser.add_argument("--samples", type=int, default=4, help="completions of each prompt")
    parser.add_argument("--prompt-tokens", type=int, default=32)
    parser.add_argument("--new-tokens", type=int, default=48)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=None)
    parser.add_argument("--clock", choices=CLOCKS, default="wall", help="cpu: processor time, with --threads 1")
    parser.add_argument("--output", type=Path, default=None, help="also write the JSON document here")
    arguments = parser.parse_args()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    if arguments.model is None:
        torch.manual_seed(0)
        model: PreTrainedModel = LlamaForCausalLM(LlamaConfig(**SMOLLM2_135M))
    else:
        model = AutoModelForCausalLM.from_pretrained(arguments.model, dtype=torch.float32, use_safetensors=True)
    started = time.perf_counter()
    load = os.getloadavg()[0]
    rows = compare(model.eval(), arguments)
    title = f"{arguments.clock} clock, {torch.get_num_threads()} threads, load {load:.1f}"
    Console().print(rich_table(COLUMNS, rows, title=title))
    document = {
        "settings": {key: value for key, value in vars(arguments).items() if key != "output"},
        "versions": {name: version(name) for name in ("torch", "transformers")},
        "threads": torch.get_num_threads(),
        "load_average_before": load,
        "seconds": time.perf_counter() - started,
        "rows": rows,
    }
    if arguments.output is not None:
        write_json(arguments.output, document)
    print(json.dumps(document))


if __name__ == "__main__":
    main()
