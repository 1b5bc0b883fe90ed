"""The smooth step."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from iqa.gates import GATES


@GATES.register("sigmoid")
class Sigmoid(nn.Module):
    """sigmoid(slope * (score - midpoint)): smooth, never quite 0 or 1; at the midpoint it rises by slope / 4.

    Each of several scores has a gate of its own.
    """

    steepness = 0.25
    bounded = True
    takes_slope = True

    def __init__(self) -> None:
        super().__init__()

    def forward(self, rise: Tensor) -> Tensor:
        """rise: (B,) or (B, k). Returns the same shape."""
        return torch.sigmoid(rise)
