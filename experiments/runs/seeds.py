"""One root seed, many named streams: initialisation, data, sampling, evaluation.

A stream depends on the root seed and its own name only. Adding or drawing from one stream never moves another, and
arms of a sweep that share a seed share their prompts and sampling noise (common random numbers).
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import torch


class SeedStreams:
    """Generators by name, all derived from `root_seed`. No global random state is read or written."""

    def __init__(self, root_seed: int) -> None:
        if root_seed < 0:
            raise ValueError(f"seed={root_seed} is impossible: a seed is 0 or a positive integer")
        self.root_seed = root_seed

    def sequence(self, name: str) -> np.random.SeedSequence:
        """The seed sequence of stream `name`; spawn from it for streams within a stream."""
        digest = hashlib.sha256(name.encode()).digest()
        key = tuple(int.from_bytes(digest[i : i + 4], "little") for i in range(0, 16, 4))
        return np.random.SeedSequence(entropy=self.root_seed, spawn_key=key)

    def integer(self, name: str) -> int:
        """One 63-bit integer of stream `name`, for libraries that want a seed."""
        return int(self.sequence(name).generate_state(1, np.uint64)[0] >> np.uint64(1))

    def numpy(self, name: str) -> np.random.Generator:
        """A fresh NumPy generator at the start of stream `name`."""
        return np.random.Generator(np.random.PCG64(self.sequence(name)))

    def torch(self, name: str, device: str = "cpu") -> torch.Generator:
        """A fresh torch generator at the start of stream `name` on `device`."""
        import torch

        return torch.Generator(device=device).manual_seed(self.integer(name))
