"""Continuous batching: finished sequences leave the batch, waiting ones enter, nobody waits for the longest.

    engine = DecodeEngine(model, batch_size=32, max_length=1024)
    completions = engine.generate([Request(prompt, max_new_tokens=64, seed=7, samples_per_prompt=4), ...])

or step by step, where requests arrive over time: `submit`, then `step` until `finished`. A step either reads the
prompts of the sequences that can enter (and draws their first tokens) or draws one token for every running sequence.

Admission reserves: a sequence enters when a place is free and the pages that it may need up to its last token are not
promised to others. So a running sequence never lacks a page, nothing is ever thrown out and computed again, and there
is no deadlock; the price is that promised pages may lie idle in sequences that stop early. Order of arrival is kept,
a big request at the head of the queue is not overtaken.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum

import numpy as np
import torch
from torch import Tensor

from ..models.transformer import RlExpForCausalLM
from .attention import DecodeKernel
from .model_step import DecodeModel
from .sampling import BatchSampling, SampledTokens, SamplingOptions, sample, sequence_seed
from .static_step import CudaGraphs, StaticSteps


@dataclass(frozen=True)
class Request:
    """A prompt of token ids, and what is wanted of it.

    Sample i of `samples_per_prompt` draws with `sequence_seed(seed, i)`: it equals a request of its own with that seed.
    `max_new_tokens` None means up to the engine's `max_length`. A stop token ends a sequence and is its last token;
    before `min_new_tokens` tokens it cannot be drawn.
    """

    prompt: Sequence[int]
    max_new_tokens: int | None = None
    min_new_tokens: int = 0
    sampling: SamplingOptions = field(default_factory=SamplingOptions)
    seed: int = 0
    stop_tokens: Sequence[int] = ()
    samples_per_prompt: int = 1


class FinishReason(StrEnum):
    """Why a sequence ended: a stop token, or the end of its allowance of tokens."""

    stop = "stop"
    length = "length"


@dataclass(frozen=True)
class Completion:
    """The new tokens of one sequence, with a log-probability each.

    `policy_log_probabilities` are the model's own (temperature 1, no filters), `sampling_log_probabilities` those of
    the distribution the tokens were drawn from; the two differ where temperature, filters or `min_new_tokens` act.
    """

    request_id: int
    sample: int
    prompt: tuple[int, ...]
    tokens: tuple[int, ...]
    policy_log_probabilities: tuple[float, ...]
    sampling_log_probabilities: tuple[float, ...]
    finish_reason: FinishReason


@dataclass(frozen=True)
class StepReport:
    """What one step did: prompt tokens read, tokens drawn for each (request id, sample), sequences that ended."""

    prompt_tokens: int
    new_tokens: dict[tuple[int, int], tuple[int, ...]]
    completions: tuple[Completion, ...]


class SharedPrompt:
    """A prompt and the samples of it: it is computed once for those that enter together, and copied to later ones."""

    def __init__(self, tokens: tuple[int, ...], waiting: int) -> None:
        self.tokens, self.waiting = tokens, waiting
        self.running: list[ActiveSequence] = []
        self.last_logits: Tensor | None = None  # [V]; kept while samples are waiting and others run

    def can_copy(self) -> bool:
        """Whether a running sample holds the prompt's rows."""
        return bool(self.running) and self.last_logits is not None


class ActiveSequence:
    """One sample of a request, waiting or running."""

    def __init__(self, request_id: int, sample: int, request: Request, prompt: SharedPrompt, limit: int) -> None:
        self.request_id, self.sample, self.request, self.prompt = request_id, sample, request, prompt
        self.seed = sequence_seed(request.seed, sample)
        self.stop_tokens = frozenset(request.stop_tokens)
        self.limit = limit  # new tokens at most
        self.slot = -1  # its place in the cache
        self.tokens: list[int] = []
        self.policy_log_probabilities: list[float] = []
        self.sampling_log_probabilities: list[float] = []

    @property
    def most_rows(self) -> int:
        """Cache rows that it may come to need: the last token is never cached."""
        return len(self.prompt.tokens) + self.limit - 1

    def accept(self, token: int, policy_log_probability: float, sampling_log_probability: float) -> bool:
        """Take one more token; True when it is the last."""
        self.tokens.append(token)
        self.policy_log_probabilities.append(policy_log_probability)
        self.sampling_log_probabilities.append(sampling_log_probability)
        return token in self.stop_tokens or len(self.tokens) >= self.limit

    def completion(self) -> Completion:
        """What the finished sequence became."""
        return Completion(
            request_id=self.request_id,
            sample=self.sample,
            prompt=self.prompt.tokens,
            tokens=tuple(self.tokens),
            policy_log_probabilities=tuple(self.policy_log_probabilities),
            sampling_log_probabilities=tuple(self.sampling_log_probabilities),
            finish_reason=FinishReason.stop if self.tokens[-1] in self.stop_tokens else FinishReason.length,
        )


class DecodeEngine:
    """Generates for many requests at once over one preallocated cache.

    `batch_size` sequences run at a time, each of up to `max_length` tokens, prompt and new ones together. With a
    `page_size` (1 to 64) sequences share `pages` pages, or as many as fit `cache_bytes`; otherwise each has rows of
    its own. `prefill_tokens` bounds the prompt tokens read in one step (a longer prompt is read in a step of its own).
    The weights are a copy, products with them in `weight_dtype`: call `refresh` when the model has changed. On a GPU
    steps are CUDA graphs.
    """

    def __init__(
        self,
        model: RlExpForCausalLM | DecodeModel,
        *,
        batch_size: int,
        max_length: int,
        page_size: int | None = None,
        pages: int | None = None,
        cache_bytes: int | None = None,
        cache_dtype: torch.dtype = torch.float32,
        weight_dtype: torch.dtype = torch.float32,
        kernel: DecodeKernel | str | None = None,
        prefill_tokens: int = 8192,
    ) -> None:
        decoding = model if isinstance(model, DecodeModel) else DecodeModel(model, kernel=kernel, dtype=weight_dtype)
        self.model = decoding
        if cache_bytes is not None:
            pages = self._pages_within(cache_bytes, page_size, pages, cache_dtype)
        self.cache = self.model.new_cache(
            batch_size=batch_size, max_length=max_length, page_size=page_size, pages=pages, dtype=cache_dtype
        )
        self.static_steps = StaticSteps(self.model, self.cache, CudaGraphs()) if self.model.capturable else None
        self.prefill_tokens = prefill_tokens
        self.waiting: deque[ActiveSequence] = deque()
        self.running: list[ActiveSequence] = []
        self._free_slots = list(range(batch_size - 1, -1, -1))
        self._promised_pages = 0
        self._requests = 0
        self._batch: BatchSampling | None = None  # of the running sequences; None when they have changed

    @property
    def finished(self) -> bool:
        """Nothing waits and nothing runs."""
        return not self.waiting and not self.running

    def refresh(self) -> None:
        """Take the model's present weights. Between batches only: cached rows belong to the weights that made them."""
        if not self.finished:
            raise ValueError(
                f"{len(self.running)} running and {len(self.waiting)} waiting sequences would mix two policies: "
                "refresh when the engine is finished"
            )
        self.model.refresh()

    def submit(self, request: Request) -> int:
        """Queue a request and return its id. Raises ValueError for one that can never be served."""
        limit = self._limit(request)
        prompt = SharedPrompt(tuple(request.prompt), waiting=request.samples_per_prompt)
        request_id, self._requests = self._requests, self._requests + 1
        for number in range(request.samples_per_prompt):
            self.waiting.append(ActiveSequence(request_id, number, request, prompt, limit))
        return request_id

    def step(self) -> StepReport:
        """Let waiting sequences enter, where some can, else draw the next token of every running one."""
        entering = self._admit()
        if entering:
            prompt_tokens, logits = self._read_prompts(entering)
            self.running.extend(entering)
            self._batch = None
            batch = batch_sampling(entering)
            drawn = sample(logits, batch, np.zeros(len(entering), np.int64))
            return self._take(entering, [1] * len(entering), drawn, prompt_tokens)
        if self.running:
            return self._advance()
        return StepReport(0, {}, ())

    def generate(self, requests: Sequence[Request]) -> list[Completion]:
        """All completions, in the order of the requests and of the samples within each."""
        if not self.finished:
            raise ValueError("generate needs an idle engine: take steps until it is finished, or use submit")
        for request in requests:
            self._limit(request)  # refuse before anything is queued
        for request in requests:
            self.submit(request)
        completions: list[Completion] = []
        while not self.finished:
            completions.extend(self.step().completions)
        return sorted(completions, key=lambda completion: (completion.request_id, completion.sample))

    def _advance(self) -> StepReport:
        """One more token for every running sequence."""
        running = self.running
        if self._batch is None:
            self._batch = batch_sampling(running)
        tokens, slots = [sequence.tokens[-1] for sequence in running], [sequence.slot for sequence in running]
        positions = np.array([len(sequence.tokens) for sequence in running])
        if self.static_steps is not None and self._batch.plain_at(positions):
            drawn = self.static_steps.draw(tokens, slots, self._batch, positions)
        else:
            drawn = sample(self._logits_after(np.array(tokens)[:, None], slots)[:, 0], self._batch, positions)
        return self._take(running, [1] * len(running), drawn)

    def _logits_after(self, tokens: np.ndarray, slots: Sequence[int], counts: Sequence[int] | None = None) -> Tensor:
        """Append `tokens` [b, T], of which the last counts[i] of row i count: logits [b, T, V] until the next step."""
        if self.static_steps is not None:
            return self.static_steps.logits(tokens, slots, counts)
        return self.model.decode(self.cache, torch.from_numpy(tokens).to(self.model.device), slots, counts)

    def _take(
        self, sequences: Sequence[ActiveSequence], counts: Sequence[int], drawn: SampledTokens, prompt_tokens: int = 0
    ) -> StepReport:
        """Give counts[i] of the drawn tokens to sequence i, in order, and let the finished ones leave."""
        triples = zip(*(part.tolist() for part in drawn), strict=True)
        new_tokens, completions = {}, []
        for sequence, count in zip(sequences, counts, strict=True):
            last = False
            before = len(sequence.tokens)
            for _ in range(count):
                triple = next(triples)
                last = last or sequence.accept(*triple)  # what was drawn behind a stop token is dropped
            new_tokens[sequence.request_id, sequence.sample] = tuple(sequence.tokens[before:])
            if last:
                self._leave(sequence)
                completions.append(sequence.completion())
        if completions:
            self.running = [sequence for sequence in self.running if sequence.slot >= 0]
            self._batch = None
        return StepReport(prompt_tokens, new_tokens, tuple(completions))

    def _admit(self) -> list[ActiveSequence]:
        """Take those from the queue that can enter now, and give them their places."""
        entering: list[ActiveSequence] = []
        read: set[SharedPrompt] = set()
        tokens = 0
        while self.waiting and self._free_slots:
            sequence = self.waiting[0]
            pages = self._pages_of(sequence.most_rows)
            if self.cache.paged and self._promised_pages + pages > self.cache.pages:
                break
            prompt = sequence.prompt
            if prompt not in read and not prompt.can_copy():
                if read and tokens + len(prompt.tokens) > self.prefill_tokens:
                    break
                tokens += len(prompt.tokens)
                read.add(prompt)
            sequence.slot = self._free_slots.pop()
            self._promised_pages += pages
            prompt.waiting -= 1
            entering.append(self.waiting.popleft())
        return entering

    def _read_prompts(self, entering: list[ActiveSequence]) -> tuple[int, Tensor]:
        """Fill the cache for the entering sequences: tokens computed, and the logits [b, V] after their prompts."""
        slots: dict[SharedPrompt, list[int]] = {}
        for sequence in entering:
            slots.setdefault(sequence.prompt, []).append(sequence.slot)
        computed = [prompt for prompt in slots if not prompt.can_copy()]
        for prompt in slots:
            if prompt.can_copy():
                self.cache.copy_prefix(prompt.running[0].slot, slots[prompt], len(prompt.tokens))
        if computed:
            logits = self.model.prefill(
                self.cache,
                [prompt.tokens for prompt in computed],
                [slots[prompt] for prompt in computed],
                chunk_tokens=self.prefill_tokens,
            )
            for prompt, last in zip(computed, logits, strict=True):
                prompt.last_logits = last
        rows = [sequence.prompt.last_logits for sequence in entering]
        for sequence in entering:
            sequence.prompt.running.append(sequence)
            if sequence.prompt.waiting == 0:
                sequence.prompt.last_logits = None
        return sum(len(prompt.tokens) for prompt in computed), torch.stack([row for row in rows if row is not None])

    def _leave(self, sequence: ActiveSequence) -> None:
        self.cache.free(sequence.slot)
        self._free_slots.append(sequence.slot)
        self._promised_pages -= self._pages_of(sequence.most_rows)
        sequence.prompt.running.remove(sequence)
        sequence.slot = -1

    def _limit(self, request: Request) -> int:
        """How many new tokens the request may have; ValueError where it can never be served."""
        length, room = len(request.prompt), self.cache.max_length
        if length == 0:
            raise ValueError("a prompt of 0 tokens has nothing to continue: give it a beginning-of-text token")
        wrong = [token for token in (*request.prompt, *request.stop_tokens) if not 0 <= token < self.model.vocabulary]
        if wrong:
            raise ValueError(f"token {wrong[0]} is not in the model's vocabulary of {self.model.vocabulary}")
        if request.samples_per_prompt < 1:
            raise ValueError(f"samples_per_prompt={request.samples_per_prompt} is impossible: use at least 1")
        limit = room - length if request.max_new_tokens is None else request.max_new_tokens
        if request.max_new_tokens is not None and limit < 1:
            raise ValueError(f"max_new_tokens={limit} is impossible: use at least 1")
        if limit < 1 or length + limit > room:
            raise ValueError(
                f"a prompt of {length} tokens and max_new_tokens={request.max_new_tokens} can never fit "
                f"max_length={room}: shorten them or give the engine a larger max_length"
            )
        if not 0 <= request.min_new_tokens <= limit:
            raise ValueError(f"min_new_tokens={request.min_new_tokens} is impossible: use 0 to {limit}")
        needed = self._pages_of(length + limit - 1)
        if self.cache.paged and needed > self.cache.pages:
            raise ValueError(
                f"a prompt of {length} tokens with up to {limit} new ones may need {needed} pages of "
                f"{self.cache.page_size} tokens, the cache has {self.cache.pages}: give it more pages or set a smaller "
                "max_new_tokens"
            )
        return limit

    def _pages_of(self, rows: int) -> int:
        return -(-rows // self.cache.page_size)

    def _pages_within(self, cache_bytes: int, page_size: int | None, pages: int | None, dtype: torch.dtype) -> int:
        if page_size is None or pages is not None:
            raise ValueError("cache_bytes needs a page_size, and takes the place of pages")
        row_bytes = self.model.shape.cached_elements() * dtype.itemsize * len(self.model.layers)
        if cache_bytes < page_size * row_bytes:
            raise ValueError(
                f"cache_bytes={cache_bytes} is less than one page of {page_size} tokens, which takes "
                f"{page_size * row_bytes} bytes in {len(self.model.layers)} layers"
            )
        return cache_bytes // (page_size * row_bytes)


def batch_sampling(sequences: Sequence[ActiveSequence]) -> BatchSampling:
    """The sampling options of these sequences, in order; one may stand there several times."""
    requests = [sequence.request for sequence in sequences]
    return BatchSampling(
        [request.sampling for request in requests],
        [sequence.seed for sequence in sequences],
        [request.stop_tokens for request in requests],
        [request.min_new_tokens for request in requests],
    )
