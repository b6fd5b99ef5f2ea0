"""Probe rollouts without a policy: P prompts with N completions each, of random tokens and a random ground truth."""

from __future__ import annotations

import numpy as np

from experiments.tasks.task import Outputs, Prompt

PROMPTS, SAMPLES = 64, 10


def made_up_outputs(prompts: int = PROMPTS, samples: int = SAMPLES, seed: int = 0, offset: float = 0.0) -> Outputs:
    """Ground truth: N(0, 1) within prompts, plus `offset`; a fifth of the outputs are exactly 0."""
    generator = np.random.default_rng(seed)
    rows = tuple(Prompt(p, f"prompt {p}", (1, p)) for p in range(prompts) for _ in range(samples))
    tokens = tuple(tuple(generator.integers(0, 500, 6).tolist()) for _ in rows)
    truth = generator.normal(size=len(rows)) * (generator.random(len(rows)) > 0.2) + offset
    words = ("and the king said", "a good day and a good night", "war war war", "peace")
    return Outputs(
        prompts=rows,
        texts=tuple(words[i] for i in generator.integers(0, 4, len(rows))),
        tokens=tokens,
        finished=generator.random(len(rows)) > 0.5,
        ground_truth=truth,
        parts={
            "constraint/a": (generator.random(len(rows)) > 0.5).astype(float),
            "constraint/b": (generator.random(len(rows)) > 0.8).astype(float),
        },
    )
