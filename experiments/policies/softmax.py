"""Softmax policies over a finite set of outputs, for many arms, seeds and prompts at once.

Shapes: A arms (settings compared), S seeds, P prompts, O outputs, D features. Dimensions of size 1 broadcast, so that
a thousand settings are one tensor. Everything is float64.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass
class SoftmaxPolicy:
    """pi(y|x) proportional to exp(logit(x, y) / temperature).

    Tabular: `features` is None and `parameters` [A, S, P, O] are the logits themselves.
    Log-linear: `features` broadcast to [A, S, P, O, D], one weight vector `parameters` [A, S, D] per arm and seed is
    shared by all prompts, and logit(x, y) = <phi(x, y), weights>. Tabular is log-linear with orthonormal features.
    """

    parameters: Tensor
    features: Tensor | None = None
    temperature: float = 1.0

    def __post_init__(self) -> None:
        wanted = 4 if self.features is None else 3
        if self.parameters.ndim != wanted or self.parameters.dtype != torch.float64:
            raise ValueError(
                f"parameters must be float64 of {wanted} dimensions "
                f"({'[arms, seeds, prompts, outputs]' if wanted == 4 else '[arms, seeds, features]'}), "
                f"not {self.parameters.dtype} {tuple(self.parameters.shape)}"
            )
        if self.features is not None and (
            self.features.ndim != 5 or self.features.shape[-1] != self.parameters.shape[-1]
        ):
            raise ValueError(
                f"features must be [arms, seeds, prompts, outputs, {self.parameters.shape[-1]}], "
                f"not {tuple(self.features.shape)}"
            )
        if self.temperature <= 0:
            raise ValueError(f"temperature={self.temperature} is impossible: it must be positive")
        if self.features is not None:
            # One matrix per arm and seed, its rows the outputs of all prompts: logits are one product.
            self._feature_rows = self.features.flatten(2, 3).contiguous()

    @property
    def prompts(self) -> int:
        """Number of prompts."""
        return self.parameters.shape[2] if self.features is None else self.features.shape[2]

    def logits(self) -> Tensor:
        """[A, S, P, O], divided by the temperature."""
        if self.features is None:
            return self.parameters if self.temperature == 1.0 else self.parameters / self.temperature
        rows = (self._feature_rows @ self.parameters[..., None])[..., 0]
        logits = rows.reshape(*rows.shape[:2], *self.features.shape[2:4])
        return logits if self.temperature == 1.0 else logits / self.temperature

    def probabilities(self) -> Tensor:
        """pi(y|x), [A, S, P, O]."""
        return torch.softmax(self.logits(), dim=-1)

    def log_probabilities(self) -> Tensor:
        """log pi(y|x), [A, S, P, O]; exact where the probability underflows."""
        return torch.log_softmax(self.logits(), dim=-1)

    def parameter_gradient(self, logit_gradient: Tensor) -> Tensor:
        """Chain rule from d/d logit(x, y) [A, S, P, O] to the parameters; prompts count equally (their mean).

        Tabular parameters belong to one prompt each, so the mean shows as a factor 1/P.
        """
        scale = 1.0 / (self.prompts * self.temperature)
        if self.features is None:
            return logit_gradient if scale == 1.0 else logit_gradient * scale
        rows = logit_gradient.flatten(2, 3)[..., None]
        gradient = (self._feature_rows.transpose(-1, -2) @ rows)[..., 0]
        return gradient if scale == 1.0 else gradient * scale

    def copy(self) -> SoftmaxPolicy:
        """The same policy with parameters of its own."""
        return SoftmaxPolicy(self.parameters.clone(), self.features, self.temperature)


def tabular_policy(probabilities: Tensor, temperature: float = 1.0) -> SoftmaxPolicy:
    """The tabular policy with these initial probabilities [A, S, P, O], all positive; logits are their logarithms."""
    check_probabilities(probabilities)
    return SoftmaxPolicy(temperature * probabilities.log(), None, temperature)


def log_linear_policy(probabilities: Tensor, features: Tensor, temperature: float = 1.0) -> SoftmaxPolicy:
    """The log-linear policy [A, S, P, O] with features [A, S, P, O, D]; weights fit the log-probabilities.

    Least squares, as in the official controlled experiments of the imperfect-rewards paper. Logits matter up to a
    constant per prompt: where no weights give the log-probabilities themselves, both sides are centred per prompt.
    ValueError where these features cannot produce these probabilities.
    """
    check_probabilities(probabilities)
    arms = max(probabilities.shape[0], features.shape[0])
    seeds = max(probabilities.shape[1], features.shape[1])
    logits = temperature * probabilities.log()

    def fitted(phi: Tensor, targets: Tensor) -> tuple[SoftmaxPolicy, float]:
        rows = phi.flatten(2, 3).expand(arms, seeds, -1, -1)
        columns = targets.flatten(2, 3).expand(arms, seeds, -1)[..., None]
        policy = SoftmaxPolicy(
            torch.linalg.lstsq(rows, columns, driver="gelsd").solution[..., 0], features, temperature
        )
        return policy, float((policy.probabilities() - probabilities).abs().max())

    policy, gap = fitted(features, logits)
    if gap > 1e-6:
        policy, gap = fitted(features - features.mean(-2, keepdim=True), logits - logits.mean(-1, keepdim=True))
    if gap > 1e-6:
        raise ValueError(
            f"no weights give these probabilities with these features (they miss by {gap:.2g}): "
            "give initial weights instead, or features of full rank"
        )
    return policy


def check_probabilities(probabilities: Tensor) -> None:
    """ValueError unless all are positive and sum to one over the last dimension."""
    wrong = probabilities[~(probabilities > 0)]
    if wrong.numel():
        raise ValueError(f"initial probabilities must all be positive numbers, not {float(wrong[0]):g}")
    total = probabilities.sum(dim=-1)
    if bool(((total - 1).abs() > 1e-6).any()):
        worst = float(total.flatten()[(total.flatten() - 1).abs().argmax()])
        raise ValueError(f"initial probabilities sum to {worst:.6g}: those of a prompt must sum to 1")


def expected(probabilities: Tensor, values: Tensor) -> Tensor:
    """E_{y ~ pi}[values(y)]: [A, S, P, O] -> [A, S, P]."""
    return (probabilities * values).sum(dim=-1)
