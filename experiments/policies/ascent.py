"""Training a policy: gradient ascent in steps, and gradient flow with controlled steps.

Both loops run over steps only; arms and seeds advance together. What is recorded at step t is measured before update
t + 1, that is after t updates (the convention of the imperfect-rewards paper's code).

Shapes: A arms, S seeds, P prompts, O outputs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from experiments.policies.gradients import (
    Estimator,
    advantages,
    exact_gradient,
    sample_outputs,
    sampled_gradient,
)
from experiments.policies.softmax import SoftmaxPolicy

LogitGradient = Callable[[Tensor], Tensor]  # probabilities [A, S, P, O] -> gradient of the same shape


class Advance(Protocol):
    """Told how many more steps are done (a progress bar)."""

    def __call__(self, steps: int, /) -> object: ...


def log_spaced_steps(last: int, per_decade: int = 20) -> list[int]:
    """0, 1, 2, ... up to `last`, about `per_decade` of them per power of ten."""
    if last < 1:
        return [0]
    count = int(np.ceil(np.log10(last) * per_decade)) + 1 if last > 1 else 1
    return sorted({0, last, *(round(float(step)) for step in np.geomspace(1, last, max(count, 2)))})


@dataclass
class Trajectory:
    """Named numbers recorded at chosen steps: each `measure` maps probabilities [A, S, P, O] to a tensor."""

    steps: Sequence[int]
    measures: dict[str, Callable[[Tensor], Tensor]]
    values: dict[str, list[Tensor]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._wanted = frozenset(self.steps)

    def observe(self, step: int, probabilities: Tensor) -> None:
        """Measure if `step` is one of the chosen ones."""
        if step in self._wanted:
            for name, measure in self.measures.items():
                self.values.setdefault(name, []).append(measure(probabilities).clone())

    def stacked(self, name: str) -> Tensor:
        """[steps, ...] of one measure."""
        return torch.stack(self.values[name])


class FirstCrossing:
    """The first step at which a value [A, S] reaches its threshold; inf for those that never do.

    The value is the mean over prompts of E_{y ~ pi}[`weights`(y)]: with rewards an expected reward, with the
    indicator of an output its probability. Followed on the fly, so no trajectory is stored.
    """

    def __init__(self, weights: Tensor, threshold: Tensor | float) -> None:
        self.weights, self.threshold = weights, threshold
        self.step: Tensor | None = None

    def value(self, probabilities: Tensor) -> Tensor:
        """[A, S, P, O] -> [A, S]."""
        return (probabilities * self.weights).sum(dim=-1).mean(dim=-1)

    def observe(self, step: int, probabilities: Tensor) -> None:
        """Note the arms that have now reached the threshold for the first time."""
        reached = self.value(probabilities) >= self.threshold
        if self.step is None:
            self.step = torch.full(reached.shape, torch.inf, dtype=torch.float64)
        # minimum keeps the earlier step: a later one is larger, and inf stands for "not now".
        torch.minimum(self.step, torch.where(reached, float(step), torch.inf), out=self.step)


def reward_gradient(
    rewards: Tensor,
    *,
    estimator: Estimator = Estimator.exact,
    samples: int = 1,
    generator: torch.Generator | None = None,
) -> LogitGradient:
    """The gradient function of E[r] for rewards broadcasting to [A, S, P, O].

    Sampled estimators draw `samples` outputs per prompt with `generator`, the same uniform numbers for every arm.
    """
    if not estimator.is_exact and generator is None:
        raise ValueError(f"{estimator} samples outputs: it needs a generator")

    def gradient(probabilities: Tensor) -> Tensor:
        if estimator.is_exact:
            return exact_gradient(probabilities, rewards, divide_by_std=estimator is Estimator.exact_std)
        uniforms = torch.rand((1, *probabilities.shape[1:3], samples), generator=generator, dtype=torch.float64)
        outputs = sample_outputs(probabilities, uniforms)
        drawn = rewards.expand_as(probabilities).gather(-1, outputs)
        return sampled_gradient(probabilities, outputs, advantages(drawn, estimator))

    return gradient


class Observer(Protocol):
    """Something that looks at the policy on its way."""

    def observe(self, step: int, probabilities: Tensor, /) -> None: ...


@torch.no_grad()
def ascend(
    policy: SoftmaxPolicy,
    gradient: LogitGradient,
    *,
    learning_rate: float | Tensor,
    steps: int,
    observers: Sequence[Observer] = (),
    advance: Advance | None = None,
) -> SoftmaxPolicy:
    """`steps` updates parameters += learning_rate * gradient, in place; returns the policy.

    `learning_rate` is a number or broadcasts against the parameters. Observers see steps 0 to `steps`. `advance`
    is called once in 500 steps.
    """
    for step in range(steps):
        probabilities = policy.probabilities()
        for observer in observers:
            observer.observe(step, probabilities)
        update = policy.parameter_gradient(gradient(probabilities))
        if isinstance(learning_rate, Tensor):
            policy.parameters.addcmul_(update, learning_rate)
        else:
            policy.parameters.add_(update, alpha=learning_rate)
        if step % 500 == 499 and advance is not None:
            advance(500)
    for observer in observers:
        observer.observe(steps, policy.probabilities())
    if advance is not None:
        advance(steps % 500)
    return policy


@torch.no_grad()
def flow_until(
    policy: SoftmaxPolicy,
    gradient: LogitGradient,
    crossing: FirstCrossing,
    *,
    longest: float,
    tolerance: float = 1e-3,
    most_steps: int = 20_000,
    advance: Advance | None = None,
) -> Tensor:
    """Gradient flow d parameters / dt = gradient, each arm and seed until its `crossing`; the times [A, S].

    Heun's method with an embedded Euler step: each arm and seed has a step size of its own, such that the largest
    parameter errs by about `tolerance` per step. Plateaus are crossed in long steps, so a time of 1e12 costs a few
    hundred steps. The crossing is interpolated within its step. inf where it lies beyond `longest` or `most_steps`.

    Time t corresponds to t / learning_rate steps of gradient ascent for small learning rates.
    """
    inner = tuple(range(2, policy.parameters.ndim))
    widen = (..., *([None] * len(inner)))
    probabilities = policy.probabilities()
    before = crossing.value(probabilities)
    clock, size = torch.zeros_like(before), torch.full_like(before, 0.1)
    times = torch.where(before >= crossing.threshold, 0.0, torch.inf)
    threshold = torch.as_tensor(crossing.threshold, dtype=torch.float64).expand_as(before)
    done = torch.isfinite(times)
    for step in range(most_steps):
        start = policy.parameters
        slope = policy.parameter_gradient(gradient(probabilities))
        euler = SoftmaxPolicy(start + size[widen] * slope, policy.features, policy.temperature)
        average = (slope + euler.parameter_gradient(gradient(euler.probabilities()))).mul_(0.5)
        heun = start + size[widen] * average
        error = (heun - euler.parameters).abs().amax(dim=inner)
        accepted = (error <= tolerance) & ~done
        policy.parameters = torch.where(accepted[widen], heun, start)
        probabilities = policy.probabilities()
        after = crossing.value(probabilities)
        crossed = accepted & (after >= threshold)
        share = ((threshold - before) / (after - before)).clamp(0, 1)
        times = torch.where(crossed, clock + share * size, times)
        clock = torch.where(accepted, clock + size, clock)
        before = torch.where(accepted, after, before)
        done = done | crossed | (clock > longest)
        size = size * (0.9 * (tolerance / error.clamp(min=1e-300)).sqrt()).clamp(0.2, 5.0)
        if step % 50 == 49:
            if advance is not None:
                advance(50)
            if bool(done.all()):
                break
    return torch.where(times <= longest, times, torch.inf)
