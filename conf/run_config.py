"""What every experiment's configuration has: seed, device, output, tracking."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum, StrEnum
from pathlib import Path

from conf.limits import limited


class WandbMode(Enum):
    """`auto`: WANDB_MODE where it is set, online where the user is logged in, offline elsewhere."""

    auto = "auto"
    offline = "offline"
    online = "online"
    disabled = "disabled"


class Device(Enum):
    """Where tensors live. `auto` takes a CUDA device where there is one."""

    auto = "auto"
    cpu = "cpu"
    cuda = "cuda"


@dataclass
class TrackingConfig:
    """Weights & Biases; `metrics.jsonl` is written in any case."""

    mode: WandbMode = WandbMode.auto
    project: str = "rl-exp"
    group: str | None = None  # null: a sweep's jobs share the sweep's id
    tags: list[str] = field(default_factory=list)


OnFailure = StrEnum("OnFailure", ["continue", "stop"])  # the rest of a sweep, when a job of it failed


@dataclass
class SweepConfig:
    """How a sweep meets a job that fails."""

    on_failure: OnFailure = OnFailure["continue"]  # stop: jobs that have not begun do not begin
    retries: int = limited(0, at_least=0)  # of a failed job, from its last checkpoint


@dataclass
class RunConfig:
    """Fields that every command has. `output_dir`, `force`, `tracking` and `sweep` are no part of a run's identity."""

    seed: int = limited(0, at_least=0)
    device: Device = Device.auto
    # the last bits of sums depend on it
    threads: int | None = limited(None, at_least=1, fix="or null for torch's default")
    output_dir: str = "outputs"
    force: bool = False  # start over, although the run is finished or can be continued
    tracking: TrackingConfig = field(default_factory=TrackingConfig)
    sweep: SweepConfig = field(default_factory=SweepConfig)

    def __post_init__(self) -> None:
        if not self.output_dir:
            raise ValueError("output_dir is empty: name a folder, such as outputs")

    def check_processes(self, processes: int | None) -> None:
        """Raise ValueError where this cannot run as so many processes of torchrun; None is no torchrun at all."""
        if processes is not None and processes > 1:
            raise ValueError(f"torchrun started {processes} processes, and this command uses one: start it alone")

    def check_inputs(self) -> None:
        """Raise ValueError where a package or model that this names is not what it needs; asked before a run begins."""

    def needs_cuda(self) -> bool:
        """Whether this can run on a CUDA device only."""
        return self.device is Device.cuda

    def counted_processes(self) -> int | None:
        """The number of torchrun's processes where results depend on it; None where they do not."""
        return None

    def input_files(self) -> list[Path]:
        """Files of the user that the configuration names; their contents are part of a run's identity."""
        return []
