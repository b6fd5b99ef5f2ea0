"""Speculative decoding: cheap proposals for the next tokens, verified by the model in one step of query length > 1.

The engine's noise belongs to (sequence, token index), so the model's own token at every proposed place is determined
by its logits there: a proposal is right exactly when it is that token. What comes out is therefore what plain decoding
gives, greedy or sampled, up to rounding of logits; no token's distribution changes, and neither do log-probabilities.
For a proposal that is not itself random (prompt lookup, a greedy draft) a token x is kept with the model's probability
of x, as often as by rejection sampling (Leviathan, Kalman and Matias, arXiv 2211.17192). A draft model that samples
does so with the same noise, which makes agreement likely where the two distributions are close.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import torch

from ..models.transformer import RlExpForCausalLM
from .engine import ActiveSequence, DecodeEngine, StepReport, batch_sampling
from .model_step import DecodeModel
from .sampling import SampledTokens, sample


class Proposer(Protocol):
    """Where proposals come from."""

    def propose(self, sequences: Sequence[ActiveSequence], counts: Sequence[int]) -> list[list[int]]:
        """Up to counts[i] tokens that may follow sequence i: any number, also none."""

    def forget(self, sequence: ActiveSequence) -> None:
        """The sequence has ended; its slot will serve another."""


class PromptLookup:
    """Proposes what followed the last occurrence of the sequence's last tokens, in its own prompt and text.

    The longest match of `longest` down to `shortest` tokens counts. (Saxena, Prompt lookup decoding, 2023.)
    """

    def __init__(self, longest: int = 3, shortest: int = 1) -> None:
        if not 1 <= shortest <= longest:
            raise ValueError(f"shortest={shortest} and longest={longest} are impossible: use 1 <= shortest <= longest")
        self.lengths = range(longest, shortest - 1, -1)
        self._indices: dict[ActiveSequence, _LastOccurrences] = {}

    def propose(self, sequences: Sequence[ActiveSequence], counts: Sequence[int]) -> list[list[int]]:
        proposals = []
        for sequence, count in zip(sequences, counts, strict=True):
            index = self._indices.setdefault(sequence, _LastOccurrences(self.lengths, sequence.prompt.tokens))
            index.extend(sequence.tokens[len(index.text) - len(sequence.prompt.tokens) :])
            proposals.append(index.continuation(count))
        return proposals

    def forget(self, sequence: ActiveSequence) -> None:
        self._indices.pop(sequence, None)


class DraftModel:
    """Proposals of a smaller model with the same vocabulary and a cache of its own.

    `batch_size` and `max_length` are those of the engine it serves. It draws as its sequence does: greedy where that is
    greedy, else with the same options and noise.
    """

    def __init__(self, model: RlExpForCausalLM | DecodeModel, *, batch_size: int, max_length: int) -> None:
        self.model = model if isinstance(model, DecodeModel) else DecodeModel(model)
        self.cache = self.model.new_cache(batch_size=batch_size, max_length=max_length)
        self._cached: list[list[int]] = [[] for _ in range(batch_size)]  # the tokens in every slot

    def propose(self, sequences: Sequence[ActiveSequence], counts: Sequence[int]) -> list[list[int]]:
        proposals: list[list[int]] = [[] for _ in sequences]
        drafting = [index for index, count in enumerate(counts) if count > 0]
        while drafting:
            drafted = [sequences[index] for index in drafting]
            texts = [
                [*sequence.prompt.tokens, *sequence.tokens, *proposals[index]]
                for index, sequence in zip(drafting, drafted, strict=True)
            ]
            logits = self._logits_after(texts, [sequence.slot for sequence in drafted])
            positions = np.array([len(sequences[index].tokens) + len(proposals[index]) for index in drafting])
            tokens = sample(logits, batch_sampling(drafted), positions).tokens.tolist()
            for index, token in zip(drafting, tokens, strict=True):
                proposals[index].append(token)
            drafting = [index for index in drafting if len(proposals[index]) < counts[index]]
        return proposals

    def forget(self, sequence: ActiveSequence) -> None:
        self.cache.free(sequence.slot)
        self._cached[sequence.slot] = []

    def _logits_after(self, texts: list[list[int]], slots: list[int]) -> torch.Tensor:
        """The logits after every text [b, V]; computes what the cache lacks, and rolls back what was rejected."""
        logits = torch.empty(len(texts), self.model.vocabulary, device=self.model.device)
        # The last token is read in any case, for its logits.
        known = [_common_prefix(self._cached[slot], text[:-1]) for slot, text in zip(slots, texts, strict=True)]
        self.cache.roll_back([len(self._cached[slot]) - n for slot, n in zip(slots, known, strict=True)], slots)
        unread = [row for row, n in enumerate(known) if n == 0]
        if unread:
            logits[unread] = self.model.prefill(
                self.cache, [texts[row] for row in unread], [[slots[row]] for row in unread]
            )
        begun = [row for row, n in enumerate(known) if n > 0]
        if begun:
            missing = [texts[row][known[row] :] for row in begun]
            tokens = right_aligned(missing).to(self.model.device)
            counts = [len(new) for new in missing]
            logits[begun] = self.model.decode(self.cache, tokens, [slots[row] for row in begun], counts)[:, -1]
        for slot, text in zip(slots, texts, strict=True):
            self._cached[slot] = text
        return logits


class SpeculativeEngine(DecodeEngine):
    """A `DecodeEngine` whose steps verify up to `draft_length` proposals per sequence; other options are the same.

    `accepted_lengths[a]` counts the steps of single sequences in which a proposals were right (a + 1 tokens came out).
    """

    def __init__(
        self, model: RlExpForCausalLM | DecodeModel, *, proposer: Proposer, draft_length: int = 4, **options: Any
    ) -> None:
        if draft_length < 1:
            raise ValueError(f"draft_length={draft_length} is impossible: use at least 1, or a DecodeEngine")
        super().__init__(model, **options)
        if isinstance(proposer, DraftModel):
            self._check_draft(proposer)
        self.proposer, self.draft_length = proposer, draft_length
        self.accepted_lengths: Counter[int] = Counter()
        self.proposed_tokens = 0

    @property
    def tokens_per_step(self) -> float:
        """Mean new tokens of a sequence in a step: 1 without any right proposal."""
        steps = self.accepted_lengths.total()
        return 1.0 + sum(length * count for length, count in self.accepted_lengths.items()) / max(1, steps)

    @property
    def acceptance_rate(self) -> float:
        """Share of the proposed tokens that were right."""
        accepted = sum(length * count for length, count in self.accepted_lengths.items())
        return accepted / max(1, self.proposed_tokens)

    def _advance(self) -> StepReport:
        running = self.running
        # The last token of a sequence needs no proposal behind it, which also keeps the cache within its promise.
        wanted = [min(self.draft_length, sequence.limit - len(sequence.tokens) - 1) for sequence in running]
        proposals = self.proposer.propose(running, wanted)
        if not any(proposals):
            self.accepted_lengths[0] += len(running)
            return super()._advance()

        counts = [1 + len(proposal) for proposal in proposals]
        slots = [sequence.slot for sequence in running]
        texts = [[sequence.tokens[-1], *proposal] for sequence, proposal in zip(running, proposals, strict=True)]
        logits = self._logits_after(right_aligned(texts).numpy(), slots, counts)
        logits = torch.cat([row[-count:] for row, count in zip(logits, counts, strict=True)])  # [sum(counts), V]
        rows = [sequence for sequence, count in zip(running, counts, strict=True) for _ in range(count)]
        positions = np.concatenate([np.arange(count) for count in counts])
        positions += np.array([len(sequence.tokens) for sequence in rows])
        drawn = sample(logits, batch_sampling(rows), positions)

        own = drawn.tokens.split(counts)
        accepted = [_common_prefix(mine.tolist(), theirs) for mine, theirs in zip(own, proposals, strict=True)]
        self.cache.roll_back([len(p) - a for p, a in zip(proposals, accepted, strict=True)], slots)
        self.accepted_lengths.update(accepted)
        self.proposed_tokens += sum(map(len, proposals))
        taken = np.concatenate([np.arange(count) <= a for count, a in zip(counts, accepted, strict=True)])
        kept = torch.from_numpy(np.flatnonzero(taken)).to(logits.device)
        return self._take(running, [a + 1 for a in accepted], SampledTokens(*(part[kept] for part in drawn)))

    def _leave(self, sequence: ActiveSequence) -> None:
        self.proposer.forget(sequence)
        super()._leave(sequence)

    def _check_draft(self, draft: DraftModel) -> None:
        if draft.model.vocabulary != self.model.vocabulary:
            raise ValueError(
                f"a draft model with a vocabulary of {draft.model.vocabulary} cannot propose tokens of one of "
                f"{self.model.vocabulary}: both models need the same tokenizer"
            )
        if draft.cache.batch_size < self.cache.batch_size or draft.cache.max_length < self.cache.max_length:
            raise ValueError(
                f"the draft's batch_size={draft.cache.batch_size} and max_length={draft.cache.max_length} are less "
                f"than the engine's {self.cache.batch_size} and {self.cache.max_length}: give it the same"
            )


class _LastOccurrences:
    """A text and, for every run of a few tokens in it, where its last occurrence with something behind it ended."""

    def __init__(self, lengths: Sequence[int], text: Sequence[int]) -> None:
        self.lengths = lengths
        self.text: list[int] = []
        self._ends: dict[tuple[int, ...], int] = {}
        self.extend(text)

    def extend(self, tokens: Sequence[int]) -> None:
        for token in tokens:
            end = len(self.text)
            for length in self.lengths:
                if length <= end:
                    self._ends[tuple(self.text[end - length :])] = end
            self.text.append(token)

    def continuation(self, count: int) -> list[int]:
        """The `count` tokens that followed the last earlier occurrence of the text's end, if there is one.

        Where they run into the end of the text, the text runs in a circle, and so does the proposal.
        """
        for length in self.lengths:
            end = self._ends.get(tuple(self.text[-length:])) if length < len(self.text) else None
            if end is not None:
                period = len(self.text) - end
                return [self.text[end + place % period] for place in range(count)]
        return []


def right_aligned(rows: Sequence[Sequence[int]]) -> torch.Tensor:
    """Rows of different length as one tensor [b, T], filled with 0 in front."""
    width = max(map(len, rows))
    return torch.tensor([[0] * (width - len(row)) + list(row) for row in rows])


def _common_prefix(first: Sequence[int], second: Sequence[int]) -> int:
    shorter = min(len(first), len(second))
    return next((index for index in range(shorter) if first[index] != second[index]), shorter)
