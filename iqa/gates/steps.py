"""A staircase."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from iqa.gates import GATES


@GATES.register("steps")
class Steps(nn.Module):
    """`linear` in equal steps: `levels` gates 0, 1 / (levels - 1), ..., 1, each for as long a piece of the slope.

    Two levels are a switch at the midpoint. Each of several scores has a gate of its own.
    """

    levels: Tensor  # () float32
    steepness = 1.0
    bounded = True
    takes_slope = True

    def __init__(self, levels: int = 4) -> None:
        super().__init__()
        if levels < 2:
            raise ValueError(f"gate 'steps': levels is {levels}; it must be at least 2 (config.gate.levels)")
        self.register_buffer("levels", torch.tensor(float(levels)))

    def forward(self, rise: Tensor) -> Tensor:
        """rise: (B,) or (B, k). Returns the same shape."""
        step = ((0.5 + rise).clamp(0.0, 1.0) * self.levels).floor()
        return torch.minimum(step, self.levels - 1) / (self.levels - 1)
