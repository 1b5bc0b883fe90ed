"""What objectives on single rows share: their lengths, their pictures made small, checks in words."""

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


def needed(value: Tensor | None, objective: str, field: str) -> Tensor:
    """A batch's optional field. RuntimeError where the loader did not fill it."""
    if value is None:
        raise RuntimeError(
            f"objective '{objective}' looks at batch.{field}, which is None: the loader fills what it is asked for"
        )
    return value


def check_range(objective: str, name: str, value: float, low: float, high: float) -> None:
    """ValueError unless low <= value <= high."""
    if not low <= value <= high:
        raise ValueError(f"objective '{objective}': {name} is {value}; it must lie in {low:g} .. {high:g}")


def check_whole(objective: str, name: str, value: int, low: int, high: int | None = None) -> None:
    """ValueError unless value is a whole number in low .. high."""
    if isinstance(value, bool) or not isinstance(value, int) or value < low or (high is not None and value > high):
        wanted = f"{low} or more" if high is None else f"{low} .. {high}"
        raise ValueError(f"objective '{objective}': {name} is {value!r}; it must be a whole number, {wanted}")


def check_width(objective: str, embedding: Tensor, embedding_size: int) -> None:
    """ValueError unless embeddings have as many numbers as the objective was made for."""
    if embedding.shape[1] != embedding_size:
        raise ValueError(
            f"objective '{objective}': embedding_size is {embedding_size}, but this network's embeddings have "
            f"{embedding.shape[1]} numbers; set embedding_size={embedding.shape[1]} in config.objectives"
        )
