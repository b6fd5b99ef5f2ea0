"""Preference pairs: two completions of a prompt, and which of them the ground truth likes better.

Source: What Makes a Reward Model a Good Teacher? (arXiv 2503.15477), section 4.1 and appendix F.1. A share of the
prompts has on-policy pairs (two samples of the initial policy), the others have off-policy pairs. One permutation of
the prompts decides: its beginning is on-policy, its end off-policy, so arms of different shares have the pairs in
common that they can have in common. Every prompt may have several pairs. Pairs that the ground truth holds equal teach
nothing and are replaced.

Some prompts are kept out of training: on them, on-policy and off-policy pairs measure what a reward model learned.

Shapes: Q pairs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from experiments.runs.artifacts import Artifact, ArtifactStore
from experiments.runs.seeds import SeedStreams
from experiments.tasks.task import Floats, Prompt, Task
from experiments.training.completion_sources import CompletionSource, StoredCompletions, Tokens

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

FORMAT = 1  # raise it whenever equal recipes would give other pairs
FILE = "pairs.parquet"
MOST_TRIES = 32  # candidate pairs, on average, for one with different ground truths
HELD_OUT_SHARE = 0.125  # of the prompts
HELD_OUT_PAIRS = 128  # on-policy, and as many off-policy, where a recipe names no other number


@dataclass(frozen=True)
class PreferencePairs:
    """Pairs in rows."""

    prompts: tuple[Prompt, ...]  # [Q]
    chosen: tuple[Tokens, ...]  # [Q]
    rejected: tuple[Tokens, ...]  # [Q]
    chosen_truth: Floats  # [Q] ground truth; below `rejected_truth` where the label was turned round
    rejected_truth: Floats  # [Q]
    on_policy: NDArray[np.bool_]  # [Q]
    held_out: NDArray[np.bool_]  # [Q] not trained on

    def __len__(self) -> int:
        return len(self.prompts)

    def take(self, rows: Sequence[int] | NDArray[Any]) -> PreferencePairs:
        """Some of the pairs, by index or by mask [Q]."""
        mask_or_index = np.asarray(rows)
        index = np.flatnonzero(mask_or_index) if mask_or_index.dtype == np.bool_ else mask_or_index.astype(np.intp)
        return replace(
            self,
            prompts=tuple(self.prompts[i] for i in index),
            chosen=tuple(self.chosen[i] for i in index),
            rejected=tuple(self.rejected[i] for i in index),
            chosen_truth=self.chosen_truth[index],
            rejected_truth=self.rejected_truth[index],
            on_policy=self.on_policy[index],
            held_out=self.held_out[index],
        )

    @property
    def training(self) -> PreferencePairs:
        """The pairs to train on, in random order."""
        return self.take(~self.held_out)

    def test(self, *, on_policy: bool) -> PreferencePairs:
        """The held-out pairs of one kind."""
        return self.take(self.held_out & (self.on_policy == on_policy))


def make_preference_pairs(
    task: Task,
    prompts: Sequence[Prompt],
    tokenizer: PreTrainedTokenizerBase,
    *,
    on_policy: CompletionSource,
    off_policy: CompletionSource,
    pairs: int,
    on_policy_share: float,
    label_noise: float,
    seed: int,
    held_out_pairs: int = HELD_OUT_PAIRS,
) -> PreferencePairs:
    """`pairs` to train on, `on_policy_share` of them of on-policy prompts, and held-out ones of both kinds.

    `label_noise` is the share of training labels that are turned round. Held-out labels are right always. ValueError
    where fewer than 16 prompts are given, and where the ground truth tells no completions apart.
    """
    if len(prompts) < 16:
        raise ValueError(f"{len(prompts)} prompts are too few for preference pairs: raise task.prompts to 16 or more")
    streams = SeedStreams(seed)
    order, tests = split_prompts(prompts, seed)
    border = round(on_policy_share * len(order))
    wanted = round(on_policy_share * pairs)
    if 0 < wanted < pairs:
        border = min(max(border, 1), len(order) - 1)
    maker = _PairMaker(task, tokenizer, streams)
    training = _joined(
        [
            maker.pairs("on_policy", on_policy, order[:border], wanted, held_out=False),
            # From the end: what an arm with fewer off-policy pairs lacks are those of the prompts in the middle.
            maker.pairs("off_policy", off_policy, order[border:][::-1], pairs - wanted, held_out=False),
        ]
    )
    turned = streams.numpy("label_noise").random(len(training)) < label_noise
    training = _turned(training, turned).take(streams.numpy("order").permutation(len(training)))
    return _joined(
        [
            training,
            maker.pairs("held_out/on_policy", on_policy, tests, held_out_pairs, held_out=True),
            maker.pairs("held_out/off_policy", off_policy, tests, held_out_pairs, held_out=True),
        ]
    )


def split_prompts(prompts: Sequence[Prompt], seed: int) -> tuple[list[Prompt], list[Prompt]]:
    """The prompts to train on, in the order of which a beginning is on-policy, and the held-out ones."""
    order = [prompts[i] for i in SeedStreams(seed).numpy("prompts").permutation(len(prompts))]
    border = len(order) - max(1, round(HELD_OUT_SHARE * len(prompts)))
    return order[:border], order[border:]


def stored_preference_pairs(
    store: ArtifactStore,
    task: Task,
    prompts: Sequence[Prompt],
    tokenizer: PreTrainedTokenizerBase,
    *,
    policy_address: str,
    on_policy: CompletionSource,
    off_policy: CompletionSource,
    pairs: int,
    on_policy_share: float,
    label_noise: float,
    seed: int,
    held_out_pairs: int = HELD_OUT_PAIRS,
) -> tuple[PreferencePairs, Artifact]:
    """`make_preference_pairs` once, as an artifact of kind preference_pairs. `policy_address` names the policy.

    The completions are artifacts of their own, kind completions, which pairs of other shares, numbers and label noise
    take too.
    """
    settings: dict[str, Any] = {
        "pairs": pairs,
        "on_policy_share": on_policy_share,
        "label_noise": label_noise,
        "seed": seed,
    }
    if held_out_pairs != HELD_OUT_PAIRS:
        settings["held_out_pairs"] = held_out_pairs
    origin = {
        "format": FORMAT,
        "policy": policy_address,
        "task": task.recipe(),
        "prompts": [prompt.index for prompt in prompts],
    }
    recipe = {**origin, "on_policy": on_policy.recipe(), "off_policy": off_policy.recipe(), **settings}
    groups = split_prompts(prompts, seed)

    def make(folder: Path) -> Mapping[str, Any]:
        made = make_preference_pairs(
            task,
            prompts,
            tokenizer,
            on_policy=StoredCompletions(on_policy, store, origin, groups),
            off_policy=StoredCompletions(off_policy, store, origin, groups),
            **settings,
        )
        write_pairs(folder / FILE, made, tokenizer)
        return facts_of(made)

    artifact = store.get_or_make("preference_pairs", recipe, make)
    return read_pairs(artifact.path / FILE, prompts), artifact


def facts_of(pairs: PreferencePairs) -> dict[str, Any]:
    """Counts, as plain JSON."""
    training = pairs.training
    return {
        "pairs": len(training),
        "on_policy_share": float(training.on_policy.mean()),
        "wrong_labels": int((training.chosen_truth < training.rejected_truth).sum()),
        "prompts": len({prompt.index for prompt in training.prompts}),
        "mean_truth_gap": float(np.abs(training.chosen_truth - training.rejected_truth).mean()),
        "held_out_pairs": int(pairs.held_out.sum()),
    }


def write_pairs(path: Path, pairs: PreferencePairs, tokenizer: PreTrainedTokenizerBase) -> None:
    """A parquet file of one row per pair, with the texts for people."""
    columns = {
        "prompt": [prompt.index for prompt in pairs.prompts],
        "prompt_text": [prompt.text for prompt in pairs.prompts],
        "on_policy": pairs.on_policy.tolist(),
        "held_out": pairs.held_out.tolist(),
    }
    for side, rows, truth in (
        ("chosen", pairs.chosen, pairs.chosen_truth),
        ("rejected", pairs.rejected, pairs.rejected_truth),
    ):
        columns[side] = [list(row) for row in rows]
        columns[f"{side}_text"] = tokenizer.batch_decode([list(row) for row in rows], skip_special_tokens=True)
        columns[f"{side}_truth"] = truth.tolist()
    pq.write_table(pa.table(columns), path)


def read_pairs(path: Path, prompts: Sequence[Prompt]) -> PreferencePairs:
    """What `write_pairs` wrote; `prompts` are those that the pairs were made of, or more."""
    columns = pq.read_table(path).to_pydict()
    by_index = {prompt.index: prompt for prompt in prompts}
    return PreferencePairs(
        prompts=tuple(by_index[index] for index in columns["prompt"]),
        chosen=tuple(map(tuple, columns["chosen"])),
        rejected=tuple(map(tuple, columns["rejected"])),
        chosen_truth=np.array(columns["chosen_truth"], dtype=np.float64),
        rejected_truth=np.array(columns["rejected_truth"], dtype=np.float64),
        on_policy=np.array(columns["on_policy"], dtype=np.bool_),
        held_out=np.array(columns["held_out"], dtype=np.bool_),
    )


@dataclass(frozen=True)
class _PairMaker:
    task: Task
    tokenizer: PreTrainedTokenizerBase
    streams: SeedStreams

    def pairs(
        self, name: str, source: CompletionSource, prompts: Sequence[Prompt], wanted: int, *, held_out: bool
    ) -> PreferencePairs:
        """`wanted` pairs with right labels, round after round over the prompts.

        Fewer where a source has no more, and where the ground truth hardly ever tells two completions apart. ValueError
        where it never does.
        """
        found: list[tuple[Prompt, Tokens, Tokens, float, float]] = []
        rounds = tried = 0
        while len(found) < wanted and tried < MOST_TRIES * wanted and (source.fresh or rounds == 0):
            asked = prompts[: wanted - len(found)]
            found += self._one_round(source, asked, self.streams.integer(f"{name}/{rounds}"))
            rounds, tried = rounds + 1, tried + len(asked)
        if wanted and not found:
            raise ValueError(
                f"the ground truth of task {self.task.name} is equal in each of {tried} pairs of completions "
                f"({name.replace('/', ', ')}): no reward model can be trained on it"
            )
        return PreferencePairs(
            prompts=tuple(row[0] for row in found),
            chosen=tuple(row[1] for row in found),
            rejected=tuple(row[2] for row in found),
            chosen_truth=np.array([row[3] for row in found], dtype=np.float64),
            rejected_truth=np.array([row[4] for row in found], dtype=np.float64),
            on_policy=np.full(len(found), name.endswith("on_policy")),
            held_out=np.full(len(found), held_out),
        )

    def _one_round(
        self, source: CompletionSource, prompts: Sequence[Prompt], seed: int
    ) -> list[tuple[Prompt, Tokens, Tokens, float, float]]:
        """A pair of every prompt whose two completions the ground truth tells apart."""
        completions = source.completions(prompts, 2, seed)
        tokens = [row for own in completions for row in own]
        texts = self.tokenizer.batch_decode([list(row) for row in tokens], skip_special_tokens=True)
        truth, _ = self.task.score([prompt for prompt in prompts for _ in range(2)], texts, tokens)
        found = []
        for prompt, (a, b), (value_a, value_b) in zip(prompts, completions, truth.reshape(-1, 2).tolist(), strict=True):
            if value_a > value_b:
                found.append((prompt, a, b, value_a, value_b))
            elif value_b > value_a:
                found.append((prompt, b, a, value_b, value_a))
        return found


def _turned(pairs: PreferencePairs, turned: NDArray[np.bool_]) -> PreferencePairs:
    """Chosen and rejected exchanged where `turned`."""

    def choose(a: Sequence[Any], b: Sequence[Any]) -> tuple[Any, ...]:
        return tuple(y if turn else x for x, y, turn in zip(a, b, turned, strict=True))

    return replace(
        pairs,
        chosen=choose(pairs.chosen, pairs.rejected),
        rejected=choose(pairs.rejected, pairs.chosen),
        chosen_truth=np.where(turned, pairs.rejected_truth, pairs.chosen_truth),
        rejected_truth=np.where(turned, pairs.chosen_truth, pairs.rejected_truth),
    )


def _joined(parts: Sequence[PreferencePairs]) -> PreferencePairs:
    return PreferencePairs(
        prompts=tuple(prompt for part in parts for prompt in part.prompts),
        chosen=tuple(row for part in parts for row in part.chosen),
        rejected=tuple(row for part in parts for row in part.rejected),
        chosen_truth=np.concatenate([part.chosen_truth for part in parts]),
        rejected_truth=np.concatenate([part.rejected_truth for part in parts]),
        on_policy=np.concatenate([part.on_policy for part in parts]),
        held_out=np.concatenate([part.held_out for part in parts]),
    )
