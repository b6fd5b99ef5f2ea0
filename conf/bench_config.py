"""The schema of `rl-exp bench`."""

from __future__ import annotations

import difflib
from dataclasses import dataclass, field, replace
from enum import StrEnum
from pathlib import Path

from hydra.core.config_store import ConfigStore

from conf.bench_kernels import STOCK, devices_of, usual_kernels
from conf.limits import limited, shown
from conf.plan_config import PlanConfig
from conf.run_config import Device, RunConfig
from conf.train_config import AttentionConfig, ModelConfig
from experiments.benchmarks.choices import BenchKernel, LengthDistribution, Peer, StorageDtype
from experiments.benchmarks.device_table import physical_memory
from experiments.decoding.cost_model import device_shape
from experiments.models.shapes import FIXED_HEADS, LATENT, AttentionMechanism, ModelShape, cached_heads_field
from experiments.runs.external_inputs import local_files
from experiments.runs.ranks import launched_by_torchrun

LARGEST_PAGE = 64
LARGEST_BATCH = 4096  # sequences that serving decodes at once; every one has its buffers
# Where a mechanism's number of cached heads is a choice, a name may end with it, as in the paper: gqa-8, gla-4.
HEADS_FIELD = {name: cached_heads_field(name) for name in AttentionMechanism if name not in FIXED_HEADS}


class BenchMode(StrEnum):
    """`attention`: one layer's decode step. `generate`: a whole model, prefill and decode. `serving`: a live queue.

    `plan` measures nothing: it predicts from the cost model and a device's specification.
    """

    attention = "attention"
    generate = "generate"
    serving = "serving"
    plan = "plan"


class Parallel(StrEnum):
    """`tensor`: heads are split over the processes of torchrun (mode=attention)."""

    none = "none"
    tensor = "tensor"


@dataclass
class GridConfig:
    """What is measured: every combination of the lists is one cell."""

    mechanism: list[str] = limited(["mha", "gqa", "gta", "mla", "gla"], items=1, distinct=True)
    batch: list[int] = limited([8], at_least=1, items=1, distinct=True)
    context: list[int] = limited([4096], at_least=1, items=1, distinct=True)
    query_length: list[int] = limited([1], at_least=1, items=1, distinct=True)
    dtype: list[StorageDtype] = limited([StorageDtype.fp32], items=1, distinct=True)
    page_size: list[int | None] = limited(
        [None], at_least=1, at_most=LARGEST_PAGE, items=1, distinct=True, fix="or null for a contiguous cache"
    )
    # null: the command's `threads`
    threads: list[int | None] = limited([None], at_least=1, items=1, distinct=True)
    # null: ours for the device, for one layer with torch's products beside it
    kernel: list[BenchKernel] | None = limited(None, items=1, distinct=True)
    policy: str | None = None  # generate, serving: a trained run's model folder instead of random weights
    rounds: int = limited(15, at_least=1)  # visits to every cell, each round in a new random order
    # a slow cell gets fewer rounds (at least 3), so that one does not eat the whole time
    cell_seconds: float = limited(2.0, above=0)
    memory_share: float = limited(0.8, above=0, at_most=1)  # of the free memory that one cell may take
    # of the table of bytes per device
    tensor_parallel: list[int] = limited([1, 2, 4, 8], at_least=1, items=1, distinct=True)

    def __post_init__(self) -> None:
        for name in self.mechanism:
            named_mechanism(name)


@dataclass
class GenerateConfig:
    """Whole-model decoding."""

    new_tokens: int = limited(32, at_least=1)
    vocabulary_size: int = limited(4096, at_least=1)  # of a model with random weights
    peers: list[Peer] = limited([], distinct=True)  # also transformers' own generate on the same weights
    speculative: bool = False  # also prompt-lookup speculation, whose greedy text must be the same
    draft_tokens: int = limited(4, at_least=1)  # proposed per step
    # speculation: prompts repeat a phrase of this length, so that there is something to look up
    repeated_tokens: int = limited(16, at_least=1)


@dataclass
class LengthConfig:
    """A distribution of lengths. `spread` is its standard deviation over its mean; `fixed` has none."""

    distribution: LengthDistribution = LengthDistribution.lognormal
    mean: int = limited(64, at_least=1)
    spread: float = limited(0.5, at_least=0)
    longest: int = limited(256, at_least=1)  # longer draws are cut

    def __post_init__(self) -> None:
        if self.mean > self.longest:
            raise ValueError(f"mean={self.mean}: must be at most longest={self.longest}")


@dataclass
class ServingConfig:
    """Requests that arrive while others are being served, and a cache that only holds so many."""

    requests: int = limited(64, at_least=1)
    arrivals_per_second: float = limited(60.0, above=0)  # Poisson
    prompt: LengthConfig = field(default_factory=LengthConfig)
    output: LengthConfig = field(default_factory=LengthConfig)
    # for all layers: what every mechanism gets, whatever a token costs it
    cache_megabytes: float = limited(16.0, above=0)
    largest_batch: int = limited(32, at_least=1, at_most=LARGEST_BATCH)
    page_size: int = limited(16, at_least=1, at_most=LARGEST_PAGE)
    vocabulary_size: int = limited(4096, at_least=1)  # of a model with random weights


@dataclass
class BenchConfig(RunConfig):
    """`rl-exp bench`: decode speed and cache bytes of attention mechanisms against the limit of the machine."""

    mode: BenchMode = BenchMode.attention
    parallel: Parallel = Parallel.none
    model: ModelConfig = field(default_factory=ModelConfig)
    bench: GridConfig = field(default_factory=GridConfig)
    generate: GenerateConfig = field(default_factory=GenerateConfig)
    serving: ServingConfig = field(default_factory=ServingConfig)
    plan: PlanConfig = field(default_factory=PlanConfig)

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in self.bench.mechanism:
            try:
                self.model_shape(name)
            except ValueError as error:
                raise ValueError(f"bench.mechanism: {name} does not fit this model: {error}") from None
        if self.parallel is Parallel.tensor:
            self._refuse_other_parallel_runs()
        if self.whole_model and set(self.bench.kernel or []) & set(STOCK):
            raise ValueError(
                f"bench.kernel={shown(self.bench.kernel or [])} does not fit mode={self.mode}: whole "
                "models decode with triton, cpu or reference (generate.peers=[own_dynamic] sets transformers beside)"
            )
        devices = self.devices()
        if devices == (Device.cuda,) and self.bench.threads != [None]:
            raise ValueError(f"bench.threads={shown(self.bench.threads)}: must be [null] on a GPU (or use device=cpu)")
        if self.mode is BenchMode.attention:
            if self.bench.policy is not None:
                raise ValueError("bench.policy needs a complete model: add mode=generate or mode=serving")
            if self.device is not Device.cuda:
                self._refuse_grid_beyond_memory()
        elif self.mode is BenchMode.plan:
            self._check_plan()
        elif self.bench.policy is not None and not (Path(self.bench.policy) / "config.json").is_file():
            raise ValueError(
                f"bench.policy={self.bench.policy} holds no model: name the model folder of a trained run, such as "
                "outputs/train/<run id>/model"
            )

    def _refuse_other_parallel_runs(self) -> None:
        if self.mode is not BenchMode.attention:
            raise ValueError(f"parallel=tensor does not fit mode={self.mode}: use mode=attention")
        if self.bench.page_size != [None]:
            raise ValueError("bench.page_size: must be [null] with parallel=tensor, whose caches are contiguous")
        if self.device is Device.cuda:
            raise ValueError("device=cuda does not fit parallel=tensor, which is measured on CPUs: use device=cpu")
        if not set(self.bench.kernel or []) <= {BenchKernel.cpu, BenchKernel.reference}:
            raise ValueError(f"bench.kernel={shown(self.bench.kernel or [])} does not fit parallel=tensor: use [cpu]")

    @property
    def whole_model(self) -> bool:
        """Whether the mode decodes with whole models."""
        return self.mode in (BenchMode.generate, BenchMode.serving)

    def devices(self) -> tuple[Device, ...]:
        """Where the cells may be measured, a GPU first. Raises ValueError where device and kernels do not fit."""
        if self.mode is BenchMode.plan or self.parallel is Parallel.tensor:
            if self.device is Device.cuda:
                raise ValueError("device=cuda does not fit mode=plan, which measures nothing: see plan.device")
            return (Device.cpu,)
        wanted = self.device
        if wanted is Device.auto and self.bench.threads != [None]:
            wanted = Device.cpu  # somebody who counts threads means the processor's
        return devices_of(self.bench.kernel, wanted, whole_model=self.whole_model)

    def needs_cuda(self) -> bool:
        """Whether only a GPU can measure this, by device or by kernels."""
        return Device.cpu not in self.devices()

    def kernels(self, device: Device) -> list[BenchKernel]:
        """What is measured on `device`: what the configuration names, else the usual ones."""
        if self.bench.kernel is not None:
            return self.bench.kernel
        alone = self.parallel is Parallel.tensor
        return usual_kernels(device, whole_model=self.whole_model, alone=alone)

    def check_processes(self, processes: int | None) -> None:
        """See `RunConfig`: tensor parallelism needs torchrun, and as many processes as its heads split over."""
        if self.parallel is not Parallel.tensor:
            super().check_processes(processes)
            return
        if processes is None:
            raise ValueError(
                "parallel=tensor needs several processes: torchrun --nproc-per-node 2 --no-python rl-exp bench "
                "parallel=tensor"
            )
        for name in self.bench.mechanism:
            try:
                device_shape(self.model_shape(name).attention, processes)
            except ValueError as error:
                raise ValueError(f"{name} over {processes} processes of torchrun: {error}") from None

    def counted_processes(self) -> int | None:
        """See `RunConfig`: what a rank keeps depends on how many there are."""
        launched = launched_by_torchrun()
        return launched.size if launched and self.parallel is Parallel.tensor else None

    def model_shape(self, name: str) -> ModelShape:
        """The model of mechanism `name` (gta, gqa-8), as the mode describes it.

        It has the parameters of the MHA model of this size, or more of them where `plan.query_latent_dim` is set.
        """
        mechanism, heads = named_mechanism(name)
        attention = AttentionConfig(mechanism=mechanism)
        if heads is not None:
            setattr(attention, HEADS_FIELD[mechanism], heads)
        shape = self.model.shape(attention, self.vocabulary_size)
        rank = self.plan.query_latent_dim if self.mode is BenchMode.plan else None
        if rank is None or mechanism not in LATENT:
            return shape
        return replace(shape, attention=replace(shape.attention, query_latent_dim=rank))

    @property
    def vocabulary_size(self) -> int:
        """Of the models of this mode; one attention layer has none that anything depends on."""
        sizes = {BenchMode.serving: self.serving.vocabulary_size, BenchMode.plan: self.plan.vocabulary_size}
        return sizes.get(self.mode, self.generate.vocabulary_size)

    def _check_plan(self) -> None:
        if self.bench.policy is not None:
            raise ValueError(
                "bench.policy is a model to be measured: with mode=plan describe one, such as model=llama_8b"
            )
        if self.plan.experts.dense_layers > self.model.layers:
            raise ValueError(
                f"plan.experts.dense_layers={self.plan.experts.dense_layers}: must be at most "
                f"model.layers={self.model.layers}"
            )
        if max(self.bench.query_length) > min(self.bench.context):
            raise ValueError(
                f"bench.query_length={shown(self.bench.query_length)}: must be at most "
                f"bench.context={shown(self.bench.context)}, which includes the new tokens"
            )
        for size in self.bench.tensor_parallel:
            if self.plan.devices is not None and self.plan.devices % size:
                raise ValueError(
                    f"bench.tensor_parallel={shown(self.bench.tensor_parallel)}: every value must divide "
                    f"plan.devices={self.plan.devices}"
                )

    def input_files(self) -> list[Path]:
        """The files of the model that is measured."""
        return local_files(self.bench.policy)

    def _refuse_grid_beyond_memory(self) -> None:
        """A grid of which no cell could ever fit; single cells that do not fit are left out, and said, by the run."""
        element_bytes = min(dtype.element_bytes for dtype in self.bench.dtype)
        needed, name = min(
            (self.model_shape(name).attention.cached_elements() * element_bytes, name) for name in self.bench.mechanism
        )
        needed *= min(self.bench.batch) * min(self.bench.context)
        memory = physical_memory()
        if memory is not None and needed > memory:
            raise ValueError(
                f"bench.context={shown(self.bench.context)} with bench.batch={shown(self.bench.batch)}: even the "
                f"smallest cell ({name}) needs {needed / 1e9:,.0f} GB, this machine has {memory / 1e9:,.0f} GB: "
                "use shorter contexts or smaller batches"
            )


def named_mechanism(name: str) -> tuple[AttentionMechanism, int | None]:
    """`gqa-8` as the mechanism and its number of cached heads; None where the name leaves it to the paper's default."""
    word, dash, number = name.partition("-")
    known = [str(mechanism) for mechanism in AttentionMechanism]
    if word not in known:
        near = difflib.get_close_matches(word, known, n=1)
        hint = f" Did you mean {near[0]}?" if near else ""
        raise ValueError(f"bench.mechanism: {name!r} is unknown: use {', '.join(known)}, or such as gqa-8.{hint}")
    mechanism = AttentionMechanism(word)
    if not dash:
        return mechanism, None
    if mechanism not in HEADS_FIELD:
        raise ValueError(f"bench.mechanism: {name!r}: the number of cached heads of {word} is fixed: write {word}")
    if not number.isdigit() or int(number) < 1:
        raise ValueError(f"bench.mechanism: {name!r}: the part after the dash must be a number, such as {word}-4")
    return mechanism, int(number)


ConfigStore.instance().store(name="bench_schema", node=BenchConfig)
