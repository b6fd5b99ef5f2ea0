"""What `rl-exp bench mode=plan` plans for: the `plan` part of the schema of `rl-exp bench`."""

from __future__ import annotations

from dataclasses import dataclass, field, fields

from conf.limits import limited
from experiments.benchmarks.choices import PlanDevice, PlanDtype


@dataclass
class ExpertsConfig:
    """A mixture of experts in place of the feed-forward; `routed: 0` is a dense model."""

    routed: int = limited(0, at_least=0)
    active: int = limited(0, at_least=0)  # of the routed ones, per token
    shared: int = limited(0, at_least=0)  # that every token visits
    dim: int = limited(0, at_least=0)  # width of one expert
    dense_layers: int = limited(0, at_least=0)  # first layers that keep an ordinary feed-forward

    def __post_init__(self) -> None:
        for item in fields(self):
            value = getattr(self, item.name)
            if value and not self.routed:
                raise ValueError(f"plan.experts.{item.name}={value} needs plan.experts.routed: 0 is a dense model")
        if self.routed and not 1 <= self.active <= self.routed:
            raise ValueError(f"plan.experts.active={self.active}: must be from 1 to plan.experts.routed={self.routed}")
        if self.routed and not self.dim:
            raise ValueError("plan.experts.dim=0: must be at least 1, the width of an expert")


@dataclass
class PlanConfig:
    """A device, and how a model would be served on it."""

    device: PlanDevice = PlanDevice.h100
    # that serve together; more than tensor_parallel: copies of the attention share the rest
    devices: int | None = limited(None, at_least=1)
    weights: PlanDtype | None = None  # null: bf16, on cpu fp32
    cache: PlanDtype | None = None  # null: bf16, on cpu fp32
    memory_share: float = limited(0.9, above=0, at_most=1)  # of a device's memory, for weights and cache
    vocabulary_size: int = limited(128256, at_least=1)
    query_latent_dim: int | None = limited(None, at_least=1)  # of MLA and GLA; null: 8 head_dim
    experts: ExpertsConfig = field(default_factory=ExpertsConfig)
    published: bool = False  # also the attention paper's serving figures beside what is predicted for their settings

    def __post_init__(self) -> None:
        on_cpu = self.device is PlanDevice.cpu
        allowed = {
            "weights": (PlanDtype.fp32,) if on_cpu else (PlanDtype.bf16, PlanDtype.fp8),
            "cache": (PlanDtype.fp32, PlanDtype.bf16) if on_cpu else (PlanDtype.bf16, PlanDtype.fp8),
        }
        for name, dtypes in allowed.items():
            value = getattr(self, name)
            if value is not None and value not in dtypes:
                raise ValueError(
                    f"plan.{name}={value} does not fit plan.device={self.device}: use {' or '.join(dtypes)}"
                )

    @property
    def weights_dtype(self) -> PlanDtype:
        """The dtype of the weights."""
        return self.weights or self._usual_dtype

    @property
    def cache_dtype(self) -> PlanDtype:
        """The dtype of the cache."""
        return self.cache or self._usual_dtype

    @property
    def _usual_dtype(self) -> PlanDtype:
        return PlanDtype.fp32 if self.device is PlanDevice.cpu else PlanDtype.bf16
