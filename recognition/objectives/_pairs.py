"""What objectives on pairs of embeddings share: unit rows, distances, who is compared with whom."""

from __future__ import annotations

import torch
from torch import Tensor

DISTANCES = ("euclidean", "squared", "cosine")
SMALLEST_NORM = 1e-12


def unit(embedding: Tensor) -> Tensor:
    """Rows of norm 1, float32 (float64 stays): (N, D) -> (N, D). A zero row stays zero and gets no gradient."""
    embedding = embedding.to(torch.promote_types(embedding.dtype, torch.float32))
    norm = torch.linalg.vector_norm(embedding, dim=1, keepdim=True)
    return embedding / norm.clamp_min(SMALLEST_NORM) * (norm > SMALLEST_NORM)


def distances(a: Tensor, b: Tensor, kind: str) -> Tensor:
    """All distances between rows, (N, D) and (M, D) -> (N, M) float32 (float64 stays), without an (N, M, D) in between.

    kind: "euclidean", "squared" (euclidean), or "cosine" = 1 - cosine, between 0 and 2. Where two rows are equal the
    euclidean distance has no derivative; it counts as 0.
    """
    dtype = torch.promote_types(torch.promote_types(a.dtype, b.dtype), torch.float32)
    if kind == "cosine":
        return 1 - unit(a) @ unit(b).T
    distance = _Euclidean.apply(a.to(dtype), b.to(dtype))
    return distance.square() if kind == "squared" else distance


class _Euclidean(torch.autograd.Function):
    """torch.cdist whose backward needs (N, M) memory; on CUDA its own makes (N, M, D).

    The distances are summed from differences: |a|^2 + |b|^2 - 2 ab loses those of near rows to rounding.
    """

    @staticmethod
    def forward(ctx, a: Tensor, b: Tensor) -> Tensor:
        distance = torch.cdist(a, b, compute_mode="donot_use_mm_for_euclid_dist")
        ctx.save_for_backward(a, b, distance)
        return distance

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, Tensor]:
        a, b, distance = ctx.saved_tensors
        with torch.autocast(gradient.device.type, enabled=False):
            ratio = (gradient / distance).masked_fill(distance == 0, 0.0)
            of_a = a * ratio.sum(1, keepdim=True) - ratio @ b
            of_b = b * ratio.sum(0).unsqueeze(1) - ratio.T @ a
        return of_a, of_b


def masks(label: Tensor, image: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Who is compared with whom, (N, N) bool each: positives, negatives.

    label: (N,). image: (N, k) what names an image; rows that name the same one are no positives of one another. A row
    is never its own positive.
    """
    same = label[:, None] == label
    oneself = torch.eye(len(label), dtype=torch.bool, device=label.device)
    if image is not None:
        oneself = oneself | (image[:, None] == image).all(2)
    return same & ~oneself, ~same


def batch_hard(distance: Tensor, positive: Tensor, negative: Tensor, margin: float, lone: float = -torch.inf) -> Tensor:
    """max(0, farthest positive - nearest negative + margin) of every anchor, a row; 0 where one of them is missing.

    distance, positive, negative: (N, M). lone: distance that stands in where an anchor has no positive. Returns (N,).
    """
    farthest = distance.masked_fill(~positive, -torch.inf).max(1).values
    farthest = farthest.masked_fill(~positive.any(1), lone)
    nearest = distance.masked_fill(~negative, torch.inf).min(1).values
    return (farthest - nearest + margin).relu()


def mean_of(values: Tensor, counted: Tensor) -> Tensor:
    """Mean over those that count, (); 0 that depends on the values where none does."""
    return values.where(counted, 0.0).sum() / counted.sum().clamp_min(1)
