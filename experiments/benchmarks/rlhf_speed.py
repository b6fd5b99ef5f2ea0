"""Policy-gradient steps beside trl's trainers, interleaved in one process. Needs the extra `peers`.

    python -m experiments.benchmarks.rlhf_speed --rounds 9 --output outputs/reference/rlhf/trl/results.json

Both train the same policy (transformers' Llama for trl, ours with the same weights) on the same prompts with the same
reward, a program. A step is whole: rollouts of exactly as many tokens, rewards, advantages, log-probabilities, those of
the reference policy where there is a KL, backward pass, clipping and a fused Adam step. trl's own training loop runs,
and between two of its steps one of ours is taken; so both see the same machine, and ratios are taken within such pairs.
trl is set up for speed: no gradient checkpointing (its default), no logging, one batch per step.
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from transformers import PreTrainedTokenizerFast

from experiments.benchmarks.peers import llama_with_weights_of, matched_model
from experiments.models.transformer import RlExpForCausalLM
from experiments.reports.tables import Column, rich_table
from experiments.runs.files import write_json
from experiments.tasks.task import Prompt
from experiments.training.advantages import advantages, reward_with_kl
from experiments.training.algorithms import Advantage
from experiments.training.log_probabilities import token_log_probabilities
from experiments.training.policy_gradient_step import PolicyGradientBatch, update_policy
from experiments.training.rollouts import EngineSampler

SHAPES = {  # hidden size, layers, feed-forward dim of the MHA model that parameters are matched to
    "7M": (256, 6, 1024),
    "1M": (128, 4, 344),
}
VOCABULARY = 4096
PARTS = ("whole", "rollouts")
COLUMNS = [  # of a row and a part of it
    Column[tuple[dict[str, Any], str]]("policy", lambda of: of[0]["policy"], left=True),
    Column[tuple[dict[str, Any], str]]("algorithm", lambda of: of[0]["algorithm"], left=True),
    Column[tuple[dict[str, Any], str]]("part", lambda of: of[1], left=True),
    Column[tuple[dict[str, Any], str]]("ours", lambda of: of[0][f"{of[1]}_ours"], "{:.1f}"),
    Column[tuple[dict[str, Any], str]]("trl", lambda of: of[0][f"{of[1]}_trl"], "{:.1f}"),
    Column[tuple[dict[str, Any], str]]("ratio", lambda of: of[0][f"{of[1]}_ratio"], "{:.2f}"),
    Column[tuple[dict[str, Any], str]](
        "quartiles", lambda of: "{:.2f} to {:.2f}".format(*of[0][f"{of[1]}_ratio_quartiles"])
    ),
]
LEARNING_RATE, GRADIENT_CLIP = 1e-5, 1.0
CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}  # the second for a busy machine, with one thread


@dataclass(frozen=True)
class Algorithm:
    """An algorithm as trl's defaults have it. `beta` weighs the KL: of the reward in RLOO, of the loss in GRPO."""

    name: str
    trainer: str  # RLOO or GRPO
    beta: float


ALGORITHMS = (Algorithm("RLOO", "RLOO", 0.05), Algorithm("GRPO", "GRPO", 0.0), Algorithm("GRPO with KL", "GRPO", 0.04))


@dataclass
class Seconds:
    """What the steps of one side took, step by step."""

    whole: list[float] = field(default_factory=list)
    rollouts: list[float] = field(default_factory=list)
    reference: list[float] = field(default_factory=list)
    update: list[float] = field(default_factory=list)


@dataclass(frozen=True)
class Workload:
    """What both sides do."""

    prompts: int
    samples: int  # completions of each prompt
    prompt_tokens: int
    new_tokens: int

    @property
    def completions(self) -> int:
        """Of one step."""
        return self.prompts * self.samples


def policy(shape: str) -> RlExpForCausalLM:
    """A grouped-query model of random weights, which transformers' Llama can have too."""
    hidden_size, layers, feed_forward_dim = SHAPES[shape]
    return matched_model(
        "gqa",
        hidden_size=hidden_size,
        layers=layers,
        heads=8,
        feed_forward_dim=feed_forward_dim,
        vocabulary_size=VOCABULARY,
    )


def word_tokenizer() -> PreTrainedTokenizerFast:
    """One token per word. The stop token is outside of the policy's vocabulary: no completion stops early."""
    vocabulary = {f"w{index}": index for index in range(VOCABULARY)} | {"<end>": VOCABULARY}
    words = Tokenizer(WordLevel(vocabulary, unk_token="w0"))
    words.pre_tokenizer = Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=words, eos_token="<end>", pad_token="w0")


def prompt_pool(workload: Workload, count: int) -> list[Prompt]:
    """`count` prompts of random words."""
    random = np.random.default_rng(0)
    rows = random.integers(1, VOCABULARY, (count, workload.prompt_tokens)).tolist()
    return [Prompt(index, " ".join(f"w{token}" for token in row), tuple(row)) for index, row in enumerate(rows)]


def reward_of(completion_ids: Sequence[Sequence[int]], **_: Any) -> list[float]:
    """The share of even tokens."""
    return [sum(token % 2 == 0 for token in row) / len(row) for row in completion_ids]


class OurSteps:
    """Whole steps of ours, each over the next prompts of the pool."""

    def __init__(
        self,
        shape: str,
        algorithm: Algorithm,
        workload: Workload,
        prompts: Sequence[Prompt],
        clock: Callable[[], float],
    ) -> None:
        self.model, self.clock = policy(shape), clock
        self.reference = copy.deepcopy(self.model).eval().requires_grad_(False)
        self.algorithm, self.workload, self.prompts = algorithm, workload, prompts
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=LEARNING_RATE, weight_decay=0.0, fused=True)
        self.sampler = EngineSampler(
            self.model,
            word_tokenizer(),
            longest_prompt=workload.prompt_tokens,
            max_new_tokens=workload.new_tokens,
            stop_tokens=(),
            batch_size=workload.completions,
        )
        self.seconds = Seconds()
        self.steps = 0

    def step(self) -> None:
        """One step, timed."""
        clock = self.clock
        started = clock()
        count = self.workload.prompts
        chosen = [self.prompts[(self.steps * count + place) % len(self.prompts)] for place in range(count)]
        rollouts = self.sampler.sample(chosen, self.workload.samples, seed=self.steps)
        assert set(rollouts.lengths) == {self.workload.new_tokens}
        sampled = clock()

        in_reward = self.algorithm.trainer == "RLOO"
        old = torch.tensor(rollouts.log_probabilities)
        rewards = torch.tensor(reward_of(rollouts.tokens), dtype=torch.float64)
        reference = None
        if self.algorithm.beta:
            with torch.no_grad():
                reference = token_log_probabilities(
                    self.reference, [prompt.tokens for prompt in rollouts.prompts], rollouts.tokens
                )
        if reference is not None and in_reward:
            rewards = reward_with_kl(rewards, (old - reference).sum(dim=1).double(), self.algorithm.beta)
        scored = clock()

        update_policy(
            self.model,
            self.optimizer,
            PolicyGradientBatch(
                [prompt.tokens for prompt in rollouts.prompts],
                rollouts.tokens,
                old,
                advantages(rewards.view(count, -1), Advantage.rloo if in_reward else Advantage.grpo).flatten(),
                None if in_reward else reference,
            ),
            generator=np.random.default_rng(self.steps),
            sequence_ratio=in_reward,
            denominator="sequences" if in_reward else "tokens",
            kl_coefficient=0.0 if in_reward else self.algorithm.beta,
            gradient_clip=GRADIENT_CLIP,
        )
        ended = clock()
        self.seconds.whole.append(ended - started)
        self.seconds.rollouts.append(sampled - started)
        self.seconds.reference.append(scored - sampled)
        self.seconds.update.append(ended - scored)
        self.steps += 1


def run_trl(
    shape: str,
    algorithm: Algorithm,
    workload: Workload,
    prompts: Sequence[Prompt],
    steps: int,
    between: Callable[[], None],
    clock: Callable[[], float],
) -> Seconds:
    """Let trl train for some steps, calling `between` after each, and return what its steps took."""
    import trl
    from datasets import Dataset
    from transformers import TrainerCallback

    seconds = Seconds()

    class Watch(TrainerCallback):
        def on_step_begin(self, *_: Any, **__: Any) -> None:
            self.started = clock()

        def on_step_end(self, *_: Any, **__: Any) -> None:
            seconds.whole.append(clock() - self.started)
            between()

    def timed(function: Callable[..., Any], times: list[float]) -> Callable[..., Any]:
        def call(*arguments: Any) -> Any:
            started = clock()
            result = function(*arguments)
            times.append(clock() - started)
            return result

        return call

    with tempfile.TemporaryDirectory() as folder:
        saved = str(Path(folder) / "policy")  # trl loads the reference policy from where the policy lies
        llama = llama_with_weights_of(policy(shape))
        llama.config.eos_token_id = llama.generation_config.eos_token_id = VOCABULARY  # Llama's own is a word here
        llama.save_pretrained(saved)
        word_tokenizer().save_pretrained(saved)
        trainer_class, config_class = {
            "RLOO": (trl.RLOOTrainer, trl.RLOOConfig),
            "GRPO": (trl.GRPOTrainer, trl.GRPOConfig),
        }[algorithm.trainer]
        config = config_class(
            output_dir=folder,
            use_cpu=True,
            bf16=False,
            gradient_checkpointing=False,
            report_to="none",
            disable_tqdm=True,
            logging_strategy="no",
            save_strategy="no",
            per_device_train_batch_size=workload.completions,
            num_generations=workload.samples,
            max_completion_length=workload.new_tokens,
            temperature=1.0,
            beta=algorithm.beta,
            max_steps=steps,
            learning_rate=LEARNING_RATE,
            max_grad_norm=GRADIENT_CLIP,
            lr_scheduler_type="constant",
        )
        trainer = trainer_class(
            model=saved,
            reward_funcs=reward_of,
            args=config,
            train_dataset=Dataset.from_list([{"prompt": prompt.text} for prompt in prompts]),
            callbacks=[Watch()],
        )
        trainer._generate = timed(trainer._generate, seconds.rollouts)
        trainer.train()
        lengths = trainer._metrics["train"]["completions/min_length"]
        assert not lengths or min(lengths) == workload.new_tokens
    return seconds


def compare(
    shape: str,
    algorithm: Algorithm,
    workload: Workload,
    rounds: int,
    clock: Callable[[], float] = time.perf_counter,
    warm_up: int = 2,
) -> dict[str, Any]:
    """One algorithm: pairs of steps, trl's then ours. Ratios are medians over pairs, with their quartiles."""
    prompts = prompt_pool(workload, 16 * workload.prompts)
    ours = OurSteps(shape, algorithm, workload, prompts, clock)
    theirs = run_trl(shape, algorithm, workload, prompts, rounds + warm_up, ours.step, clock)
    row: dict[str, Any] = {"policy": shape, "algorithm": algorithm.name}
    for part in PARTS:
        our_times, their_times = getattr(ours.seconds, part)[warm_up:], getattr(theirs, part)[warm_up:]
        ratios = [theirs / ours for ours, theirs in zip(our_times, their_times, strict=True)]
        low, middle, high = np.quantile(ratios, [0.25, 0.5, 0.75])
        row |= {
            f"{part}_ours": workload.completions / statistics.median(our_times),
            f"{part}_trl": workload.completions / statistics.median(their_times),
            f"{part}_ratio": float(middle),
            f"{part}_ratio_quartiles": [float(low), float(high)],
        }
    row["our_seconds"] = {
        part: statistics.median(getattr(ours.seconds, part)[warm_up:]) for part in ("rollouts", "reference", "update")
    }
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--policies", nargs="+", choices=SHAPES, default=list(SHAPES))
    parser.add_argument("--algorithms", nargs="+", choices=[a.name for a in ALGORITHMS], default=None)
    parser.add_argument("--prompts", type=int, default=4)
    parser.add_argument("--samples", type=int, default=8, help="completions of each prompt")
    parser.add_argument("--prompt-tokens", type=int, default=32)
    parser.add_argument("--new-tokens", type=int, default=48)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=None)
    parser.add_argument("--clock", choices=CLOCKS, default="wall", help="cpu: processor time, with --threads 1")
    parser.add_argument("--output", type=Path, default=None, help="also write the JSON document here")
    arguments = parser.parse_args()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    workload = Workload(arguments.prompts, arguments.samples, arguments.prompt_tokens, arguments.new_tokens)

    load = os.getloadavg()[0]
    rows = []
    for shape in arguments.policies:
        for algorithm in ALGORITHMS:
            if arguments.algorithms and algorithm.name not in arguments.algorithms:
                continue
            row = compare(shape, algorithm, workload, arguments.rounds, CLOCKS[arguments.clock])
            rows.append(row)
    title = f"completions per second, {torch.get_num_threads()} threads, load {load:.1f}"
    shown = [(row, part) for row in rows for part in PARTS]
    Console().print(rich_table(COLUMNS, shown, title=title))
    document = {
        "settings": {key: value for key, value in vars(arguments).items() if key != "output"},
        "versions": {name: version(name) for name in ("torch", "transformers", "trl")},
        "threads": torch.get_num_threads(),
        "cores": os.cpu_count(),
        "load_average_before": load,
        "rows": rows,
    }
    if arguments.output is not None:
        write_json(arguments.output, document)
    print(json.dumps(document))


if __name__ == "__main__":
    main()
