"""What objectives on single rows share: their lengths, their pictures made small."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import interpolate


def at_least_float32(rows: Tensor) -> Tensor:
    """The rows in float32, float64 ones as they are."""
    return rows.to(torch.promote_types(rows.dtype, torch.float32))


def lengths(rows: Tensor) -> Tensor:
    """Euclidean lengths of the rows (N, D) -> (N,); where a row is 0 so is the gradient, which is undefined there."""
    squared = rows.square().sum(dim=1)
    known = squared > 0
    return squared.where(known, 1.0).sqrt().where(known, 0.0)


def reduced(image: Tensor, side: int) -> Tensor:
    """Pictures (B, 3, H, W) as (B, 3, side, side), each pixel the mean of the area that it covers; no gradient."""
    return interpolate(at_least_float32(image.detach()), size=(side, side), mode="area")
