"""How far each reward model moves a policy, and the ground truth with it: signals of a probe, for any policy.

    signals = measure_signals(model, prompts, completions, rewards, ground_truth, names=names)
    signals.interval("teaching_signal", 0)

Derivation, costs and limits: docs/teaching_signal.md.

Shapes: R reward models, K = R + 1 rewards (the ground truth is the last), P prompts, N samples of each, D parameters.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from experiments.reward_metrics.variance import RewardScale, globally_normalised
from experiments.teaching_signal.estimates import Floats, Signals, estimate_signals
from experiments.teaching_signal.sequence_scores import SequenceScores
from experiments.training.advantages import advantages
from experiments.training.algorithms import Advantage

FEWEST_PROMPTS = 3  # the jackknife leaves out one, and a product of different prompts takes two
TOKENS_AT_ONCE = 2048  # of a forward pass, padding included; never less than one prompt with its samples


def measure_signals(
    model: nn.Module,
    prompts: Sequence[Sequence[int]],
    completions: Sequence[Sequence[int]],
    rewards: Floats,
    ground_truth: Floats,
    *,
    names: Sequence[str],
    advantage: Advantage = Advantage.rloo,
    scale: RewardScale = RewardScale.global_std,
    adam: bool = True,
    last_layers: int | None = None,
    precision: str = "fp32",
) -> Signals:
    """The signals of R reward models for the policy `model`, a causal language model of ours or of transformers.

    `prompts` and `completions` [P N] are tokens, a prompt's samples side by side, drawn from the policy at temperature
    1. `rewards` [R, P, N] are the reward models' scores of the completions, `ground_truth` [P, N] the truth's. With
    `scale` global_std all are normalised over the probe, with `none` taken as they are (already normalised as training
    normalises them, say). `advantage` is one of `experiments.training.advantages`: with RLOO the signals are unbiased,
    with GRPO those of standardised rewards. `adam` adds the direction that Adam takes. Two passes over the probe,
    whatever R is; memory beyond activations: K + 1 times the trained parameters (K without `adam`).

    ValueError for shapes that do not fit, fewer than three prompts, or fewer than two samples.
    """
    every = np.concatenate([rewards, ground_truth[None]])
    _check(names, every, len(prompts), len(completions))
    values = torch.from_numpy(every)
    if scale is RewardScale.global_std:
        values = globally_normalised(values)
    elif scale is not RewardScale.none:
        raise ValueError(f"scale={scale} is not available for signals: use global_std or none")
    weights = torch.stack([advantages(reward, advantage) for reward in values])  # [K, P, N]
    scores = SequenceScores(model, last_layers=last_layers, precision=precision)
    plain, along_adam = gradient_products(scores, prompts, completions, weights, adam=adam)
    return estimate_signals(names, weights.numpy(), plain, along_adam)


def gradient_products(
    scores: SequenceScores,
    prompts: Sequence[Sequence[int]],
    completions: Sequence[Sequence[int]],
    weights: Tensor,
    *,
    adam: bool,
) -> tuple[Floats, Floats | None]:
    """Products of each completion's score with the K mean gradients of the *other* prompts, [K, P, N].

    The gradient of reward k is the mean over prompts of g(k, p) = mean over samples of weights[k, p, n] score(p, n).
    The second array has the products with these gradients divided by the root of the mean squared score, parameter by
    parameter: Adam's direction where the second moment of its gradients is sampling noise. A completion's own prompt is
    left out of the gradients, exactly, so that products of two gradients have no noise in common.
    """
    device = next(scores.model.parameters()).device
    count, number, samples = weights.shape
    shares = (weights / samples).to(device, torch.float32)  # of a prompt's gradient
    directions = torch.zeros(count, scores.size, device=device)
    squares = torch.zeros(scores.size if adam else 0, device=device)
    chunks = [(chunk, _rows(chunk, samples)) for chunk in prompts_at_once(prompts, completions, samples)]
    for chunk, rows in chunks:
        chosen = shares[:, chunk].flatten(1)
        for place, block in scores.blocks([prompts[row] for row in rows], [completions[row] for row in rows]):
            directions[:, place].addmm_(chosen, block)
            if adam:
                squares[place] += block.square().sum(dim=0)
    scale = torch.where(squares > 0, (squares / (number * samples)).rsqrt(), 0.0)

    products = torch.zeros(2 if adam else 1, count, number, samples, dtype=torch.float64)
    for chunk, rows in chunks:
        along = torch.zeros(len(products), count, len(rows), device=device)
        grams = torch.zeros(len(products), len(chunk), samples, samples, device=device)  # within each prompt
        for place, block in scores.blocks([prompts[row] for row in rows], [completions[row] for row in rows]):
            by_prompt = block.view(len(chunk), samples, -1)
            for kind, scaled in enumerate((block, block * scale[place]) if adam else (block,)):
                along[kind].addmm_(directions[:, place], scaled.T)
                grams[kind].baddbmm_(scaled.view_as(by_prompt), by_prompt.mT)
        own = torch.einsum("kpm,dpnm->dkpn", shares[:, chunk], grams)
        products[:, :, chunk] = (along.view_as(own) - own).double().cpu()
    plain, *others = (products / (number - 1)).numpy()
    return plain, others[0] if adam else None


def prompts_at_once(
    prompts: Sequence[Sequence[int]], completions: Sequence[Sequence[int]], samples: int
) -> Iterator[list[int]]:
    """The prompts (places from 0 to P - 1) in groups for one forward pass each, those of similar length together."""
    longest = [
        max(len(prompts[row]) + len(completions[row]) for row in _rows([place], samples))
        for place in range(len(prompts) // samples)
    ]
    group: list[int] = []
    for place in sorted(range(len(longest)), key=longest.__getitem__):
        if group and (len(group) + 1) * samples * longest[place] > TOKENS_AT_ONCE:
            yield group
            group = []
        group.append(place)
    yield group


def _rows(places: Sequence[int], samples: int) -> list[int]:
    return [place * samples + sample for place in places for sample in range(samples)]


def _check(names: Sequence[str], rewards: NDArray[np.float64], prompts: int, completions: int) -> None:
    if rewards.ndim != 3 or len(rewards) != len(names) + 1:
        raise ValueError(
            f"rewards of {len(names)} reward models must be [reward models, prompts, samples] and the ground truth "
            f"[prompts, samples]; together they are {rewards.shape}"
        )
    _, number, samples = rewards.shape
    if number < FEWEST_PROMPTS or samples < 2:
        raise ValueError(
            f"{number} prompts with {samples} samples are too few for signals: use 3 prompts (probe.prompts) and 2 "
            "samples (probe.samples) or more"
        )
    if not prompts == completions == number * samples:
        raise ValueError(f"{prompts} prompts and {completions} completions do not fit rewards {rewards.shape}")
