"""Brightness of a pixel as Rec. ITU-R BT.601 weighs it."""

from __future__ import annotations

import torch
from torch import Tensor

LUMA = (0.299, 0.587, 0.114)  # of R, G, B
_PARTS = (19595.0, 38470.0, 7471.0)  # the same in 65536ths, as Pillow has them


def luma(x: Tensor) -> Tensor:
    """(..., 3) float64 whole grey levels -> (..., 1) whole ones, exactly, so that nothing depends on the batch."""
    weighed = x @ torch.tensor(_PARTS, dtype=torch.float64).to(x.device)[:, None]
    return ((weighed + 2**15) / 2**16).floor()
