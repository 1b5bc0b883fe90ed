"""The truth about an image's resolution, which only those who reduced it know."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from iqa import SCORERS
from recognition.types import Needs


@SCORERS.register("oracle")
class Oracle(nn.Module):
    """The true level of degradation in place of an estimate: an upper bound for comparisons, of no use elsewhere.

    The score is log2(side / 112): 0 for an image that was not reduced, -4 for one of 7 px.
    """

    needs: Needs = "level"
    version = 1
    range = (-4.0, 0.0)
    exportable = False
    export_obstacle = "nobody knows the true level of a picture that is not reduced on purpose"

    def forward(self, level: Tensor) -> Tensor:
        """level: (B,) floating, 1 - side / 112 in [0, 1). Returns (B,) float32. ValueError for anything else."""
        if level.dim() != 1 or not level.is_floating_point():
            raise ValueError(f"scorer 'oracle' takes levels (B,) in [0, 1), got {tuple(level.shape)} {level.dtype}")
        if level.numel() and not torch.compiler.is_compiling() and not torch.jit.is_tracing():
            low, high = torch.stack(torch.aminmax(level)).tolist()
            if not (low >= 0 and high < 1):
                raise ValueError(f"scorer 'oracle' takes levels in [0, 1), got values from {low:.4g} to {high:.4g}")
        return torch.log2(1 - level.float())
