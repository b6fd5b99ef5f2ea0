"""What `rl-exp bench` lets one choose from. Standard library only, so that a configuration can import it."""

from __future__ import annotations

from enum import StrEnum


class StorageDtype(StrEnum):
    """How a cache stores its elements; arithmetic is fp32 in all."""

    fp32 = "fp32"
    bf16 = "bf16"
    fp16 = "fp16"

    @property
    def element_bytes(self) -> int:
        """Bytes of one element."""
        return 4 if self is StorageDtype.fp32 else 2


class BenchKernel(StrEnum):
    """`triton` (GPU), `cpu` and `reference` are ours; `sdpa`, `matmul`, `flex` are torch's, `flashinfer` is its MLA."""

    triton = "triton"
    cpu = "cpu"
    reference = "reference"
    sdpa = "sdpa"
    matmul = "matmul"
    flex = "flex"
    flashinfer = "flashinfer"


class Peer(StrEnum):
    """transformers' `generate`: through our model's own interface, or as LlamaForCausalLM (mha, mqa and gqa only).

    `dynamic` is its usual cache; `static_compiled` a preallocated one and a compiled forward pass, 20 to 30 s a cell.
    """

    own_dynamic = "own_dynamic"
    own_static_compiled = "own_static_compiled"
    llama_dynamic = "llama_dynamic"
    llama_static_compiled = "llama_static_compiled"


class LengthDistribution(StrEnum):
    """Of prompt and output lengths, in tokens."""

    fixed = "fixed"
    uniform = "uniform"
    lognormal = "lognormal"


class PlanDevice(StrEnum):
    """Accelerators by their makers' specification; `cpu` is this machine, its ceilings measured in the run."""

    h100 = "h100"
    h200 = "h200"
    b200 = "b200"
    cpu = "cpu"


class PlanDtype(StrEnum):
    """How elements are stored, and with which of the device's peaks they are multiplied (on a CPU, fp32's)."""

    fp32 = "fp32"
    bf16 = "bf16"
    fp8 = "fp8"

    @property
    def element_bytes(self) -> int:
        """Bytes of one element."""
        return {"fp32": 4, "bf16": 2, "fp8": 1}[self]
