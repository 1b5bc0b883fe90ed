"""A learned midpoint and slope for each gated layer."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from iqa.gates import GATES


@GATES.register("per_layer")
class PerLayer(nn.Module):
    """`learned` for each gated layer on its own: one score, a midpoint and a slope per layer, learned with the adapter.

    Column i of the gate is that of the layer numbered i by adapters._layers.gated_layers.
    """

    shift: Tensor  # (layers,) float32
    growth: Tensor  # (layers,) float32
    steepness = 0.25
    bounded = True
    takes_slope = True

    def __init__(self, layers: int = 0) -> None:
        super().__init__()
        if layers < 1:
            raise ValueError(
                "gate 'per_layer' needs an adapter whose layers each read a gate of their own, and this one has none "
                "of them; take adapter dual_lora or mixture_lora, or gate.shape=learned"
            )
        self.shift, self.growth = (nn.Parameter(torch.zeros(layers)) for _ in range(2))

    def forward(self, rise: Tensor) -> Tensor:
        """rise: (B,). Returns (B, layers)."""
        if rise.dim() != 1:
            raise ValueError(f"gate 'per_layer' takes one score per image, (B,), got {tuple(rise.shape)}")
        return torch.sigmoid(self.growth.exp() * (rise.unsqueeze(1) - self.shift))
