"""Builds the C++ decode kernel at its first use and keeps it; says so once, and no more, where that is impossible.

The library is compiled by torch's extension loader for this machine and kept in `$RL_EXP_KERNEL_CACHE` (default
`$XDG_CACHE_HOME/rl-exp/kernels`, that is `~/.cache/rl-exp/kernels`), in a folder named by a hash of the sources, the
flags, the torch version and the processor's features: any change builds anew, machines that share a home do not share
a library. `RL_EXP_KERNEL_ARCH` (default `native`) is the compiler's `-march`. The sources use no torch header, so a
build takes seconds; tensors are handed over as pointers.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import os
import platform
import shutil
import warnings
from pathlib import Path

import torch
from filelock import FileLock

SOURCES = Path(__file__).parent / "cpu"
NAME = "rl_exp_decode"


def cache_folder() -> Path:
    """Where built libraries are kept."""
    if folder := os.environ.get("RL_EXP_KERNEL_CACHE"):
        return Path(folder)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "rl-exp" / "kernels"


@functools.cache
def cpu_library() -> ctypes.CDLL | None:
    """The compiled library, built if there is none yet; None, after one warning, where it cannot be built."""
    try:
        return ctypes.CDLL(str(_built_library()))
    except (RuntimeError, OSError) as error:
        warnings.warn(
            "The C++ decode kernel cannot be built, the much slower reference kernel takes its place "
            f"(it needs a C++ compiler and ninja): {str(error).strip().splitlines()[0]}",
            RuntimeWarning,
            stacklevel=2,
        )
        return None


def _flags() -> list[str]:
    # Exact IEEE results are kept (infinities and NaN behave); only errno and traps are given up.
    arch = os.environ.get("RL_EXP_KERNEL_ARCH", "native")
    return [
        *("-O3", f"-march={arch}", "-fopenmp", "-fvisibility=hidden"),
        *("-fno-math-errno", "-fno-trapping-math", "-Wno-psabi"),
    ]


def _built_library() -> Path:
    files = sorted(SOURCES.iterdir())
    key = hashlib.sha256(repr((torch.__version__, _flags(), _processor_features())).encode())
    for file in files:
        key.update(file.name.encode() + file.read_bytes())
    folder = cache_folder() / f"{NAME}_{key.hexdigest()[:16]}"
    library = folder / f"{NAME}.so"
    if not library.exists():
        folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(folder.with_suffix(".lock")):  # other processes wait here, then find it done
            if not library.exists():
                _build([str(file) for file in files if file.suffix == ".cpp"], folder)
    return library


def _build(sources: list[str], folder: Path) -> None:
    from torch.utils import cpp_extension  # here: it costs a second to import, and only a build needs it

    partial = folder.with_suffix(".partial")  # renamed when whole: a build that is killed leaves no broken library
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    cpp_extension.load(
        NAME,
        sources,
        extra_cflags=_flags(),
        extra_ldflags=["-fopenmp"],
        build_directory=str(partial),
        is_python_module=False,
    )
    shutil.rmtree(folder, ignore_errors=True)  # without its library, or nobody would build: it would block the rename
    partial.rename(folder)


def _processor_features() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.machine() + platform.processor()
    return next((line for line in lines if line.startswith(("flags", "Features"))), platform.machine())
