"""The gated feed-forward (SwiGLU)."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from .configuration import RlExpConfig


class FeedForward(nn.Module):
    """W_down (silu(W_gate x) * W_up x), (B, T, d) -> (B, T, d)."""

    def __init__(self, config: RlExpConfig) -> None:
        super().__init__()
        self.input = nn.Linear(config.hidden_size, 2 * config.feed_forward_dim, bias=False)  # [W_gate, W_up]
        self.output = nn.Linear(config.feed_forward_dim, config.hidden_size, bias=False)

    def forward(self, hidden: Tensor) -> Tensor:
        gate, up = self.input(hidden).chunk(2, dim=-1)
        return self.output(F.silu(gate) * up)
