"""Midpoint and slope learned with the adapter."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from iqa.gates import GATES


@GATES.register("learned")
class Learned(nn.Module):
    """A sigmoid whose midpoint and slope are learned with the adapter; it makes one gate of one or several scores.

        gate = sigmoid(mean over the scores of exp(growth) * (rise - shift))

    exp(growth) is above 0, so the gate rises with every score whatever is learned. Both are 0 at the start: for one
    score that is the gate of `sigmoid`, to the bit. Both are without a unit: a shift of 1 moves the midpoint by
    1 / slope. So an lr means the same for every scorer, and AdamW moves the midpoint by at most lr / slope an update.
    """

    shift: Tensor  # (scores,) float32
    growth: Tensor  # (scores,) float32
    steepness = 0.25
    bounded = True
    takes_slope = True

    def __init__(self, scores: int = 1) -> None:
        super().__init__()
        self.shift, self.growth = (nn.Parameter(torch.zeros(scores)) for _ in range(2))

    def forward(self, rise: Tensor) -> Tensor:
        """rise: (B,), or (B, scores). Returns (B,)."""
        rise = rise.reshape(rise.shape[0], -1)
        if rise.shape[1] != self.shift.shape[0]:
            raise ValueError(
                f"gate 'learned' was made for {self.shift.shape[0]} score(s) per image and got {rise.shape[1]}; "
                "give it as many midpoints or slopes as there are scores"
            )
        return torch.sigmoid((self.growth.exp() * (rise - self.shift)).mean(1))
