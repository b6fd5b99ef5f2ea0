"""Device, threads and arithmetic of a run."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch


def prepare_device(name: str, threads: int | None) -> torch.device:
    """The device called `name` (`auto` takes CUDA where there is one), and the number of CPU threads set.

    Raises ValueError when CUDA is asked for and absent.
    """
    if threads is not None:
        torch.set_num_threads(threads)
    if name == "cuda" and not torch.cuda.is_available():
        raise ValueError(
            "device=cuda, but torch finds no CUDA device: use device=cpu, or install a CUDA build of torch"
        )
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda":
        torch.backends.cuda.matmul.allow_tf32 = True
    return torch.device(name)


def arithmetic(device: torch.device, precision: str) -> AbstractContextManager[object]:
    """The context of forward passes: bf16 autocast where asked for, else plain fp32."""
    if precision == "bf16":
        return torch.autocast(device_type=device.type, dtype=torch.bfloat16)
    return nullcontext()
