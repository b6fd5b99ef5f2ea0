"""Learning and teaching signals of finite policies, exactly: gradients, Fisher matrix and learnable variance.

Derivation: docs/teaching_signal.md. Estimates for language models: `experiments/teaching_signal/`.

Shapes: A arms, S seeds, P prompts, O outputs, D parameters of an arm and seed.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from experiments.policies.gradients import exact_gradient
from experiments.policies.softmax import SoftmaxPolicy

RELATIVE_RANK_TOLERANCE = 1e-10  # of the Fisher matrix: smaller eigenvalues are rounding


@dataclass(frozen=True)
class ExactSignals:
    """What a reward does to a policy and to the ground truth's expectation at the first step, each [A, S]."""

    learning_signal: Tensor  # |g|^2: d/dt of the expected reward under gradient flow
    teaching_signal: Tensor  # <g, g of the ground truth>: d/dt of the expected ground truth
    cosine: Tensor  # of the two gradients; NaN where one is 0
    teaching_signal_per_root_kl: Tensor  # <g of the ground truth, g> / sqrt(g' F g); 0 where g is 0
    learnable_variance: Tensor  # g' F^+ g: what the score explains of the reward's variance within prompts
    variance_along_gradient: Tensor  # |g|^4 / g' F g: what it explains in the direction g alone, at most the above


def exact_signals(policy: SoftmaxPolicy, rewards: Tensor, ground_truth: Tensor) -> ExactSignals:
    """The signals of `rewards`, which like `ground_truth` broadcast to [A, S, P, O]; prompts count equally.

    Under natural gradient the expected reward grows at the rate of the learnable variance, so that is the speed of
    gradient flow whatever the parametrisation. For tabular policies it is the mean over prompts of the reward variance.
    """
    probabilities = policy.probabilities()
    gradient, true = (
        policy.parameter_gradient(exact_gradient(probabilities, values.expand_as(probabilities))).flatten(2)
        for values in (rewards, ground_truth)
    )
    learning, teaching = (gradient * gradient).sum(-1), (gradient * true).sum(-1)
    root = (fisher_product(policy, probabilities, gradient) * gradient).sum(-1).sqrt()
    moves = root > 0
    safe = torch.where(moves, root, 1.0)
    return ExactSignals(
        learning_signal=learning,
        teaching_signal=teaching,
        cosine=teaching / (learning * (true * true).sum(-1)).sqrt(),
        teaching_signal_per_root_kl=torch.where(moves, teaching / safe, 0.0),
        learnable_variance=learnable_variance(policy, rewards),
        variance_along_gradient=torch.where(moves, (learning / safe).square(), 0.0),
    )


def learnable_variance(policy: SoftmaxPolicy, rewards: Tensor) -> Tensor:
    """g' F^+ g, [A, S]: the variance of the projection of the rewards [A, S, P, O] onto the span of the scores.

    A least-squares fit of the rewards, centred within each prompt, by the scores, weighted by probability.
    """
    probabilities = policy.probabilities()
    mean = (probabilities * rewards).sum(dim=-1, keepdim=True)
    centred = rewards.expand_as(probabilities) - mean
    if policy.features is None:  # scores of a tabular policy span everything that is centred within prompts
        return (probabilities * centred.square()).sum(dim=-1).mean(dim=-1)
    weights = (probabilities / policy.prompts).sqrt()
    scores = (_scores(policy, probabilities) * weights[..., None]).flatten(2, 3)  # [A, S, P O, D]
    left, sizes, _ = torch.linalg.svd(scores, full_matrices=False)
    spans = sizes > RELATIVE_RANK_TOLERANCE**0.5 * sizes[..., :1]
    along = (left.mT @ (centred * weights).flatten(2)[..., None])[..., 0]
    explained: Tensor = (along.square() * spans).sum(dim=-1)
    return explained


def fisher_product(policy: SoftmaxPolicy, probabilities: Tensor, direction: Tensor) -> Tensor:
    """F d, [A, S, D], for directions [A, S, D]: the mean over prompts and outputs of score (score' d)."""
    if policy.features is None:
        logits = direction.view_as(policy.parameters)
    else:
        logits = (policy.features * direction[:, :, None, None]).sum(dim=-1)
    along = (logits - (probabilities * logits).sum(dim=-1, keepdim=True)) / policy.temperature
    return policy.parameter_gradient(exact_gradient(probabilities, along)).flatten(2)


def _scores(policy: SoftmaxPolicy, probabilities: Tensor) -> Tensor:
    """d log pi(y|x) / d weights of a log-linear policy, [A, S, P, O, D]."""
    assert policy.features is not None
    mean = (probabilities[..., None] * policy.features).sum(dim=-2, keepdim=True)
    return (policy.features - mean) / policy.temperature
