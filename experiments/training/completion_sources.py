"""Where the two completions of a preference pair come from: the policy itself, or anything but the policy.

On-policy and off-policy pairs are what the arms of What Makes a Reward Model a Good Teacher? (arXiv 2503.15477, section
4.1) differ in. There, off-policy pairs are a data set's, written by other models; `DatasetPairs` takes those. Tasks
made of a corpus have none: by default real continuations of other sentences stand in for them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, cast

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from experiments.data.tokenizer import encode_documents
from experiments.runs.artifacts import ArtifactStore
from experiments.runs.seeds import SeedStreams
from experiments.tasks.corpus_prompts import sentences_of
from experiments.tasks.task import Prompt, Task
from experiments.training.rollouts import RolloutSampler

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

    from experiments.data.corpus import TokenisedText

DOCUMENTS_AT_ONCE = 64
FILE = "completions.parquet"

Tokens = tuple[int, ...]


class CompletionSource(Protocol):
    """Completions for prompts."""

    @property
    def fresh(self) -> bool:
        """Whether another seed gives other completions."""

    def completions(self, prompts: Sequence[Prompt], count: int, seed: int) -> list[list[Tokens]]:
        """`count` completions of every prompt. They depend on prompt and seed only."""

    def recipe(self) -> dict[str, Any]:
        """All that decides them, as plain JSON."""


@dataclass(frozen=True)
class PolicySamples:
    """Samples of the initial policy: on-policy at temperature 1; a higher one reaches what the policy hardly says."""

    sampler: RolloutSampler
    temperature: float = 1.0
    fresh: bool = True

    def completions(self, prompts: Sequence[Prompt], count: int, seed: int) -> list[list[Tokens]]:
        rollouts = self.sampler.sample(prompts, count, seed=seed, temperature=self.temperature)
        return [list(rollouts.tokens[start : start + count]) for start in range(0, len(rollouts), count)]

    def recipe(self) -> dict[str, Any]:
        return {"source": "policy", "temperature": self.temperature}


@dataclass(frozen=True)
class CorpusContinuations:
    """Real continuations, those of other sentences: fluent, but off topic and not the policy's. See `read_pool`."""

    pool: Sequence[Tokens]
    made_of: dict[str, Any]
    fresh: bool = True

    def completions(self, prompts: Sequence[Prompt], count: int, seed: int) -> list[list[Tokens]]:
        return [
            [self.pool[i] for i in _generator(seed, prompt).choice(len(self.pool), count, replace=False)]
            for prompt in prompts
        ]

    def recipe(self) -> dict[str, Any]:
        return {"source": "corpus", **self.made_of}

    @classmethod
    def read(
        cls,
        text: TokenisedText,
        corpus_tokenizer: PreTrainedTokenizerFast,
        task: Task,
        *,
        size: int = 4_096,
        tokenizer: PreTrainedTokenizerBase | None = None,
        seed: int = 0,
    ) -> CorpusContinuations:
        """`size` continuations (fewer where the text ends), cut as the task's completions are.

        What stands behind a sentence's first tokens, as many as a prompt has, up to the first stop token or the task's
        `max_new_tokens`. ValueError where the text has fewer than 16.
        """
        tokenizer = corpus_tokenizer if tokenizer is None else tokenizer
        fast = cast("PreTrainedTokenizerFast", tokenizer)  # all tokenizers here have the Rust backend
        start = [] if tokenizer.bos_token_id is None else [int(tokenizer.bos_token_id)]
        skipped = max(1, len(task.prompts[0].tokens) - len(start))
        order = SeedStreams(seed).numpy("continuations").permutation(text.documents)
        pool: list[Tokens] = []
        for first in range(0, len(order), DOCUMENTS_AT_ONCE):
            documents = [
                text.tokens[text.offsets[i] : text.offsets[i + 1]].tolist()
                for i in order[first : first + DOCUMENTS_AT_ONCE]
            ]
            texts = corpus_tokenizer.batch_decode(documents, skip_special_tokens=True)
            sentences = [sentence for document in texts for sentence in sentences_of(document)]
            for tokens in encode_documents(fast, sentences):
                continuation = _until_stop(tokens[skipped:], task)
                if continuation:
                    pool.append(continuation)
            if len(pool) >= size:
                break
        if len(pool) < 16:
            raise ValueError(
                f"the text has only {len(pool)} continuations of sentences behind {skipped} tokens: too few for "
                "off-policy pairs; use shorter prompts (task.prompt_tokens) or reward.trained.off_policy=hot"
            )
        made_of = {"text": text.artifact.address, "size": size, "seed": seed, "skipped": skipped}
        return cls(pool[:size], made_of)


@dataclass(frozen=True)
class UniformTokens:
    """Random tokens up to a stop token or the task's most new tokens: as far from the policy as can be."""

    tokens: Sequence[int]  # drawn from
    most_tokens: int
    stop_tokens: tuple[int, ...]
    fresh: bool = True

    def completions(self, prompts: Sequence[Prompt], count: int, seed: int) -> list[list[Tokens]]:
        result = []
        for prompt in prompts:
            drawn = _generator(seed, prompt).choice(np.asarray(self.tokens), (count, self.most_tokens))
            result.append([_cut(row, self.stop_tokens) for row in drawn.tolist()])
        return result

    def recipe(self) -> dict[str, Any]:
        return {"source": "uniform", "tokens": len(self.tokens)}


@dataclass(frozen=True)
class DatasetPairs:
    """The pair that a preference data set has for each prompt: texts in `Prompt.facts`, "chosen" and "rejected"."""

    tokenizer: PreTrainedTokenizerBase
    most_tokens: int
    end: int | None = None  # token behind a whole answer
    fresh: bool = False

    def completions(self, prompts: Sequence[Prompt], count: int, seed: int) -> list[list[Tokens]]:
        if count != 2:
            raise ValueError(f"a data set has pairs of completions, not {count}")
        result = []
        for prompt in prompts:
            missing = {"chosen", "rejected"} - set(prompt.facts)
            if missing:
                raise ValueError(
                    f"prompt {prompt.index} has no {' and no '.join(sorted(missing))} answer: off-policy pairs of a "
                    "data set need a task that brings them, else use reward.trained.off_policy=corpus, hot or uniform"
                )
            answers = [str(prompt.facts[key]) for key in ("chosen", "rejected")]
            tokens = self.tokenizer(answers, add_special_tokens=False)["input_ids"]
            end = [] if self.end is None else [self.end]
            result.append([tuple([*row, *end][: self.most_tokens]) for row in tokens])
        return result

    def recipe(self) -> dict[str, Any]:
        return {"source": "dataset"}


class StoredCompletions:
    """Another source, each of whose draws is kept as an artifact, so that all sets of pairs share it.

    A draw is made for all prompts of a group at once, whichever of them are asked for. `origin` names what decides the
    completions beside source and seed: policy, task, prompts.
    """

    def __init__(
        self,
        source: CompletionSource,
        store: ArtifactStore,
        origin: Mapping[str, Any],
        groups: Sequence[Sequence[Prompt]],
    ) -> None:
        self.source, self.store, self.origin, self.fresh = source, store, origin, source.fresh
        self.group_of = {prompt.index: number for number, group in enumerate(groups) for prompt in group}
        self.groups = groups

    def completions(self, prompts: Sequence[Prompt], count: int, seed: int) -> list[list[Tokens]]:
        number = self.group_of[prompts[0].index]
        recipe = {**self.origin, **self.recipe(), "group": number, "count": count, "seed": seed}

        def make(folder: Path) -> None:
            group = self.groups[number]
            drawn = self.source.completions(group, count, seed)
            columns = {"prompt": [p.index for p in group], "tokens": [[list(row) for row in own] for own in drawn]}
            pq.write_table(pa.table(columns), folder / FILE)

        table = pq.read_table(self.store.get_or_make("completions", recipe, make).path / FILE).to_pydict()
        by_prompt = dict(zip(table["prompt"], table["tokens"], strict=True))
        return [[tuple(row) for row in by_prompt[prompt.index]] for prompt in prompts]

    def recipe(self) -> dict[str, Any]:
        return self.source.recipe()


def _generator(seed: int, prompt: Prompt) -> np.random.Generator:
    return SeedStreams(seed).numpy(f"prompt/{prompt.index}")


def _until_stop(tokens: list[int], task: Task) -> Tokens:
    return _cut(tokens[: task.max_new_tokens], task.stop_tokens)


def _cut(tokens: list[int], stop_tokens: tuple[int, ...]) -> Tokens:
    for place, token in enumerate(tokens):
        if token in stop_tokens:
            return tuple(tokens[: place + 1])
    return tuple(tokens)
