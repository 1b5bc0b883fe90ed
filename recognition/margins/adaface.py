"""AdaFace."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from recognition.margins import MARGINS
from recognition.margins._checks import check_margin, check_scale
from recognition.margins._target import with_clipped
from recognition.types import MarginContext

EDGE = 1e-3  # head.py's eps: of cosine, angle and deviation
NORMS = (1e-3, 100.0)  # an embedding's norm is clipped to these


@MARGINS.register("adaface")
class AdaFace(nn.Module):
    """Margin by norm: scale * (cos(theta - margin * z) - margin * (1 + z)), z from -1 to 1 (Kim et al., 2204.00964).

    z = clip(concentration * (norm - mean) / (deviation + 0.001), -1, 1), without gradient. A high norm (z = 1) stands
    for a good picture and gets cos(theta - margin) - 2 * margin, which stresses hard ones; a low one (z = -1) gets
    cos(theta + margin).
    margin: radians, and in units of the cosine. concentration: the paper's h; at 0.333 most z lie within +-0.333.
    momentum: share of a new batch in `mean` and `deviation` of the norms, the published t_alpha: 0.01 in its recipes, 1
        as head.py's default = those of the batch alone. They are of the global batch, move in training mode only,
        before they are used, and start at 20 and 100.
    The deviation is the unbiased one, as published. One image has none: it moves the mean and leaves the deviation
    where it is (head.py makes NaN of it, the biased one would pull it to 0).
    The gradient is exact through acos and cos, so 0 where theta lies within 0.0447 of 0 or pi (head.py clips the cosine
    to +-0.999) or the turned angle beyond 0.001 .. pi - 0.001: a good picture at theta < margin is not pulled at all.
    Unlike head.py, only the target's cosine is clipped: a wrong class at cosine 1 keeps its gradient.
    """

    in_place = True

    def __init__(
        self, margin: float = 0.4, concentration: float = 0.333, scale: float = 64.0, momentum: float = 0.01
    ) -> None:
        super().__init__()
        check_margin("margin", margin, 0.0, math.pi / 2)
        check_margin("concentration", concentration, 0.0, 10.0)
        check_margin("momentum", momentum, 0.0, 1.0)
        check_scale(scale)
        self.margin, self.concentration, self.scale, self.momentum = margin, concentration, scale, momentum
        self.register_buffer("mean", torch.tensor(20.0))
        self.register_buffer("deviation", torch.tensor(100.0))

    def forward(self, cosine: Tensor, label: Tensor, context: MarginContext) -> Tensor:
        """cosine: (N, classes) in [-1, 1]. label: (N,) target column or -1. Returns (N, classes) float32 logits."""
        norm = context.norm.detach().squeeze(1).clamp(*NORMS)
        if self.training:
            self._move(norm)
        z = (self.concentration * (norm - self.mean) / (self.deviation + EDGE)).clamp(-1.0, 1.0)
        angle, additive = -self.margin * z, self.margin * (1 + z)
        return with_clipped(cosine, label, self.scale, angle, additive, EDGE, in_place=context.disposable)

    def _move(self, norm: Tensor) -> None:
        self.mean.lerp_(norm.mean().to(self.mean.dtype), self.momentum)
        if len(norm) > 1:
            self.deviation.lerp_(norm.std().to(self.deviation.dtype), self.momentum)
