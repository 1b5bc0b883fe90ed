"""From a raw quality score to the gate."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

SHAPES = ("linear", "sigmoid")


class QualityGate(nn.Module):
    """Maps quality scores to gates in [0, 1], 1 = high quality.

    linear:  clamp(0.5 + slope * (score - midpoint), 0, 1)
    sigmoid: sigmoid(slope * (score - midpoint))

    midpoint: the score whose gate is 0.5; slope: gate per unit of score at the midpoint (a quarter of it for the
    sigmoid). One number for every score, or k numbers for scores of shape (B, k). Both are buffers: a gate with another
    midpoint gives other embeddings, so they travel with the weights.
    ValueError unless slope > 0: a scorer whose raw figure falls with quality has to turn its sign itself.
    """

    midpoint: Tensor  # () or (k,) float32
    slope: Tensor  # () or (k,) float32

    def __init__(
        self,
        midpoint: float | Sequence[float] = 0.5,
        slope: float | Sequence[float] = 1.0,
        shape: Literal["linear", "sigmoid"] = "linear",
    ) -> None:
        super().__init__()
        if shape not in SHAPES:
            raise ValueError(f"quality gate: unknown shape '{shape}'; take one of {', '.join(SHAPES)}")
        slopes = _numbers("slope", slope)
        if any(value <= 0 for value in slopes):
            raise ValueError(
                f"quality gate: slope must be above 0, got {slope}; scores rise with quality, and so must the gate"
            )
        _numbers("midpoint", midpoint)
        self.shape = shape
        self.register_buffer("midpoint", torch.tensor(midpoint, dtype=torch.float32))
        self.register_buffer("slope", torch.tensor(slope, dtype=torch.float32))

    def forward(self, score: Tensor) -> Tensor:
        """score: (B,) or (B, k), higher = better. Returns float32 of the same shape in [0, 1].

        ValueError for NaN; a compiled or exported graph cannot look at values and lets NaN through.
        """
        self._check(score)
        rise = self.slope * (score.float() - self.midpoint)
        return torch.sigmoid(rise) if self.shape == "sigmoid" else (0.5 + rise).clamp(0.0, 1.0)

    def extra_repr(self) -> str:
        return f"midpoint={self.midpoint.tolist()}, slope={self.slope.tolist()}, shape={self.shape}"

    def _check(self, score: Tensor) -> None:
        width = max(self.midpoint.numel(), self.slope.numel())
        if score.dim() not in (1, 2) or (width > 1 and (score.dim() != 2 or score.shape[1] != width)):
            wanted = f"(B, {width})" if width > 1 else "(B,) or (B, k)"
            raise ValueError(f"quality gate: scores must be {wanted}, got {tuple(score.shape)}")
        if torch.compiler.is_compiling() or torch.jit.is_tracing():
            return
        unknown = torch.isnan(score)
        if unknown.any():
            raise ValueError(
                f"quality gate: {int(unknown.sum())} of {score.numel()} scores are NaN; "
                "look at the scorer, or at the score file the run reads"
            )


def _numbers(name: str, value: float | Sequence[float]) -> list[float]:
    values = [float(v) for v in value] if isinstance(value, Sequence) else [float(value)]
    if not values or not all(math.isfinite(v) for v in values):
        raise ValueError(f"quality gate: {name} must be one or more finite numbers, got {value}")
    return values
