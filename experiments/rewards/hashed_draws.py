"""Randomness that belongs to what it falls on: the same output always has the same draw, in any batch, on any machine.

A reward model errs in the same way every time it sees an output. So errors are hashes of (seed, purpose, prompt,
tokens), not draws from a stream, which would depend on how many outputs came before.
"""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Sequence
from statistics import NormalDist

import numpy as np

from experiments.tasks.task import Floats, Outputs, Prompt

_GOLDEN_RATIO = (5**0.5 - 1) / 2
_STANDARD_NORMAL = NormalDist()


def output_uniforms(outputs: Outputs, seed: int, purpose: str) -> Floats:
    """One number in (0, 1) for every output, [n]: a hash of seed, purpose, prompt and tokens."""
    return np.array(
        [
            _uniform(seed, purpose, array("q", [*prompt.tokens, -1, *tokens]).tobytes())
            for prompt, tokens in zip(outputs.prompts, outputs.tokens, strict=True)
        ]
    )


def output_normals(outputs: Outputs, seed: int, purpose: str) -> Floats:
    """One number for every output, [n], distributed as N(0, 1) over outputs."""
    return np.array([_STANDARD_NORMAL.inv_cdf(value) for value in output_uniforms(outputs, seed, purpose)])


def prompt_normals(prompts: Sequence[Prompt], seed: int, purpose: str) -> Floats:
    """One number for every row's prompt, [n], distributed as N(0, 1) over prompts."""
    known: dict[int, float] = {}
    for prompt in prompts:
        if prompt.index not in known:
            key = array("q", prompt.tokens).tobytes() + prompt.text.encode("utf-8", "surrogatepass")
            known[prompt.index] = _STANDARD_NORMAL.inv_cdf(_uniform(seed, purpose, key))
    return np.array([known[prompt.index] for prompt in prompts])


def prompt_is_chosen(prompts: Sequence[Prompt], share: float, seed: int, purpose: str) -> np.ndarray:
    """Whether each row's prompt belongs to a share of all prompts, bool [n].

    Steps of the golden ratio around a circle instead of independent draws: among any prompts with consecutive indices,
    the first 64 as well as all, the share is met up to about one prompt.
    """
    start = _uniform(seed, purpose, b"")
    index = np.array([prompt.index for prompt in prompts], dtype=np.float64)
    return (start + index * _GOLDEN_RATIO) % 1.0 < share


def _uniform(seed: int, purpose: str, key: bytes) -> float:
    digest = hashlib.sha256(f"{seed}/{purpose}/".encode() + key).digest()
    return (int.from_bytes(digest[:6], "little") + 0.5) / 2**48
