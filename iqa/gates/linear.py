"""The straight line, cut off at 0 and 1."""

from __future__ import annotations

from torch import Tensor, nn

from iqa.gates import GATES


@GATES.register("linear")
class Linear(nn.Module):
    """clamp(0.5 + slope * (score - midpoint), 0, 1): PETALface's map made safe.

    Each of several scores has a gate of its own.
    """

    steepness = 1.0
    bounded = True
    takes_slope = True

    def __init__(self) -> None:
        super().__init__()

    def forward(self, rise: Tensor) -> Tensor:
        """rise: (B,) or (B, k). Returns the same shape."""
        return (0.5 + rise).clamp(0.0, 1.0)
