"""Rollouts: completions of prompts, drawn from a policy and kept with their exact log-probabilities.

Shapes: n completions in rows, a prompt's samples beside each other; P prompts, N samples per prompt.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from experiments.decoding.engine import DecodeEngine, FinishReason, Request
from experiments.decoding.sampling import SamplingOptions, sequence_seed
from experiments.models.transformer import RlExpForCausalLM
from experiments.runs.ranks import Ranks
from experiments.tasks.task import Outputs, Prompt, Task, outputs_of

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

MOST_CACHE_BYTES = 2**33  # of one sampler's cache, which fewer sequences keep
MOST_SEQUENCES = 64  # that decode at once: enough to feed the processor, few enough to stay in its cache


@dataclass(frozen=True)
class Rollouts:
    """Completions as the policy drew them."""

    prompts: tuple[Prompt, ...]  # [n]
    tokens: tuple[tuple[int, ...], ...]  # [n] the stop token included where it came
    log_probabilities: tuple[tuple[float, ...], ...]  # [n] of each token, of the distribution that drew
    finished: NDArray[np.bool_]  # [n] whether a stop token came
    texts: tuple[str, ...]  # [n] without special tokens

    def __len__(self) -> int:
        return len(self.tokens)

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Tokens of each completion, [n]."""
        return np.array([len(row) for row in self.tokens], dtype=np.int64)

    @property
    def sequence_log_probabilities(self) -> NDArray[np.float64]:
        """Log-probability of each completion, [n]."""
        return np.array([sum(row) for row in self.log_probabilities], dtype=np.float64)

    def outputs(self, task: Task, reference: Tensor | None = None) -> Outputs:
        """Scored on the task's ground truth.

        `reference` [n, L] are the tokens' log-probabilities under the reference policy, where they are known: a task
        with a fluency term then does not compute them again.
        """
        fluency = None if reference is None else reference.double().sum(dim=1).numpy() / self.lengths
        return outputs_of(task, self.prompts, self.texts, self.tokens, self.finished.tolist(), fluency)


def padded(rows: Sequence[Sequence[float]]) -> Tensor:
    """Ragged rows as [n, L], 0 behind their ends."""
    result = torch.zeros(len(rows), max(map(len, rows)))
    for row, values in enumerate(rows):
        result[row, : len(values)] = torch.tensor(values)
    return result


class RolloutSampler(Protocol):
    """Draws completions from a policy."""

    def sample(
        self,
        prompts: Sequence[Prompt],
        samples: int,
        *,
        seed: int,
        temperature: float = 1.0,
        occurrences: Sequence[int] | None = None,
    ) -> Rollouts:
        """`samples` completions of every prompt, a prompt's beside each other, from softmax(logits / temperature).

        Equal seeds draw equal noise for a prompt, wherever it stands. One that stands there twice has other noise the
        second time: `occurrences` say how often each was there before (None: counted among `prompts`).
        """


def occurrences_of(prompts: Sequence[Prompt]) -> list[int]:
    """How often each prompt stands before its place."""
    seen: Counter[int] = Counter()
    counts = []
    for prompt in prompts:
        counts.append(seen[prompt.index])
        seen[prompt.index] += 1
    return counts


def _prompt_seed(seed: int, prompt: Prompt, occurrence: int) -> int:
    """The seed of a prompt's noise."""
    return sequence_seed(seed, 1 + prompt.index + (occurrence << 32))


class EngineSampler:
    """Samples from one of our models through the decode engine, whose weights it refreshes before every call.

    `dtype` is that of the engine's weights and cache. With any but fp32 the log-probabilities are those of the rounded
    policy that drew.
    """

    def __init__(
        self,
        model: RlExpForCausalLM,
        tokenizer: PreTrainedTokenizerBase,
        *,
        longest_prompt: int,
        max_new_tokens: int,
        stop_tokens: Sequence[int],
        batch_size: int = MOST_SEQUENCES,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self.tokenizer, self.max_new_tokens, self.stop_tokens = tokenizer, max_new_tokens, tuple(stop_tokens)
        longest = longest_prompt + max_new_tokens
        row_bytes = model.config.layers * model.config.model_shape().attention.cached_elements() * dtype.itemsize
        batch_size = max(1, min(batch_size, MOST_CACHE_BYTES // (longest * row_bytes)))
        self.engine = DecodeEngine(
            model, batch_size=batch_size, max_length=longest, weight_dtype=dtype, cache_dtype=dtype
        )

    def sample(
        self,
        prompts: Sequence[Prompt],
        samples: int,
        *,
        seed: int,
        temperature: float = 1.0,
        occurrences: Sequence[int] | None = None,
    ) -> Rollouts:
        self.engine.refresh()
        sampling = SamplingOptions(temperature=temperature)
        requests = [
            Request(
                prompt=prompt.tokens,
                max_new_tokens=self.max_new_tokens,
                sampling=sampling,
                seed=_prompt_seed(seed, prompt, occurrence),
                stop_tokens=self.stop_tokens,
                samples_per_prompt=samples,
            )
            for prompt, occurrence in zip(prompts, occurrences or occurrences_of(prompts), strict=True)
        ]
        completions = self.engine.generate(requests)
        tokens = tuple(completion.tokens for completion in completions)
        return Rollouts(
            prompts=tuple(prompt for prompt in prompts for _ in range(samples)),
            tokens=tokens,
            log_probabilities=tuple(completion.sampling_log_probabilities for completion in completions),
            finished=np.array([completion.finish_reason is FinishReason.stop for completion in completions]),
            texts=tuple(self.tokenizer.batch_decode([list(row) for row in tokens], skip_special_tokens=True)),
        )


class RanksSampler:
    """Splits the prompts over ranks, each of which samples with its own `sampler`; all get the rollouts of all.

    An engine's noise belongs to the prompt, so that the number of ranks does not change it; transformers' own
    `generate` draws one stream per batch, and other noise with another number of ranks.
    """

    def __init__(self, sampler: RolloutSampler, ranks: Ranks) -> None:
        self.sampler, self.ranks = sampler, ranks

    def sample(
        self,
        prompts: Sequence[Prompt],
        samples: int,
        *,
        seed: int,
        temperature: float = 1.0,
        occurrences: Sequence[int] | None = None,
    ) -> Rollouts:
        places = self.ranks.share(len(prompts))
        share = prompts[places.start : places.stop]
        occurrences = (occurrences or occurrences_of(prompts))[places.start : places.stop]
        own: list[list[Any]] = []  # of each completion: tokens, log-probabilities, finished, text
        if share:
            drawn = self.sampler.sample(share, samples, seed=seed, temperature=temperature, occurrences=occurrences)
            finished = drawn.finished.tolist()
            own = [list(row) for row in zip(drawn.tokens, drawn.log_probabilities, finished, drawn.texts, strict=True)]
        rows = [row for part in self.ranks.gather(own) for row in part]
        return Rollouts(
            prompts=tuple(prompt for prompt in prompts for _ in range(samples)),
            tokens=tuple(tuple(row[0]) for row in rows),
            log_probabilities=tuple(tuple(row[1]) for row in rows),
            finished=np.array([row[2] for row in rows]),
            texts=tuple(row[3] for row in rows),
        )


class GenerateSampler:
    """Samples from any causal language model of transformers through its own `generate`."""

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        *,
        max_new_tokens: int,
        stop_tokens: Sequence[int],
        batch_size: int = 16,
    ) -> None:
        self.model, self.tokenizer, self.batch_size = model, tokenizer, batch_size
        self.max_new_tokens, self.stop_tokens = max_new_tokens, list(stop_tokens)

    def sample(
        self,
        prompts: Sequence[Prompt],
        samples: int,
        *,
        seed: int,
        temperature: float = 1.0,
        occurrences: Sequence[int] | None = None,
    ) -> Rollouts:
        from transformers import GenerationConfig

        from experiments.training.log_probabilities import token_log_probabilities

        device = self.model.device
        padding = self.tokenizer.pad_token_id if self.tokenizer.pad_token_id is not None else self.stop_tokens[0]
        settings = GenerationConfig(
            do_sample=True,
            temperature=temperature,
            top_k=0,
            top_p=1.0,
            max_new_tokens=self.max_new_tokens,
            eos_token_id=self.stop_tokens,
            pad_token_id=padding,
        )
        rows = [prompt for prompt in prompts for _ in range(samples)]
        before = [times for times in occurrences or occurrences_of(prompts) for _ in range(samples)]
        tokens: list[tuple[int, ...]] = []
        # generate() draws from the global stream only.
        with torch.random.fork_rng(), torch.no_grad(), _without_generation_settings(self.model):
            for start in range(0, len(rows), self.batch_size):
                batch = rows[start : start + self.batch_size]
                torch.manual_seed(_prompt_seed(sequence_seed(seed, 1 + start), rows[start], before[start]))
                width = max(len(prompt.tokens) for prompt in batch)
                inputs = torch.full((len(batch), width), padding, device=device)
                mask = torch.zeros_like(inputs)
                for row, prompt in enumerate(batch):
                    inputs[row, width - len(prompt.tokens) :] = torch.tensor(prompt.tokens, device=device)
                    mask[row, width - len(prompt.tokens) :] = 1
                generate = cast("Callable[..., Tensor]", self.model.generate)  # of transformers' mixin
                drawn = generate(inputs, attention_mask=mask, generation_config=settings)
                tokens += [self._until_stop(row[width:].tolist()) for row in drawn]
        with torch.no_grad():
            prompt_tokens = [prompt.tokens for prompt in rows]
            scored = token_log_probabilities(self.model, prompt_tokens, tokens, temperature=temperature)
        return Rollouts(
            prompts=tuple(rows),
            tokens=tuple(tokens),
            log_probabilities=tuple(
                tuple(values[: len(row)].tolist()) for values, row in zip(scored, tokens, strict=True)
            ),
            finished=np.array([row[-1] in self.stop_tokens for row in tokens]),
            texts=tuple(self.tokenizer.batch_decode([list(row) for row in tokens], skip_special_tokens=True)),
        )

    def _until_stop(self, row: list[int]) -> tuple[int, ...]:
        for place, token in enumerate(row):
            if token in self.stop_tokens:
                return tuple(row[: place + 1])
        return tuple(row)


@contextmanager
def _without_generation_settings(model: PreTrainedModel) -> Iterator[None]:
    """Inside, `generate` of this model knows none of its own `generation_config`.

    transformers takes from there whatever a call leaves open (repetition_penalty, min_p, suppress_tokens and so on):
    samples would not come from the policy whose log-probabilities are taken.
    """
    from transformers import GenerationConfig

    own, model.generation_config = model.generation_config, GenerationConfig()
    try:
        yield
    finally:
        model.generation_config = own
