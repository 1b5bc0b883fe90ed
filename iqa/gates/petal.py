"""The published map, for parity."""

from __future__ import annotations

from torch import Tensor, nn

from iqa.gates import GATES


@GATES.register("petal")
class Petal(nn.Module):
    """0.5 + (score - midpoint), as PETALface has it (arXiv 2412.07771): no slope, and no bound at 0 and 1.

    With a scorer in large units, such as BRISQUE, the gate reaches tens, and the layers' updates grow with it.
    """

    steepness = 1.0
    bounded = False
    takes_slope = False

    def __init__(self) -> None:
        super().__init__()

    def forward(self, rise: Tensor) -> Tensor:
        """rise: (B,) or (B, k). Returns the same shape."""
        return 0.5 + rise
