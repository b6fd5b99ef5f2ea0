"""The learning-rate schedule of policy gradient. Standard library only: the configuration imports it."""

from __future__ import annotations


def linear_share(step: int, steps: int, *, warmup_share: float, final_share: float) -> float:
    """The share of its peak that the learning rate of step `step` (from 0) has: linear up, then linear down.

    Over `warmup_share` of the `steps` from 0 to 1, then to `final_share` at the end: 1 is a constant rate, 0 what
    transformers calls "linear".
    """
    warmup = round(warmup_share * steps)
    if step < warmup:
        return step / warmup
    return 1.0 - (1.0 - final_share) * (step - warmup) / max(1, steps - warmup)
