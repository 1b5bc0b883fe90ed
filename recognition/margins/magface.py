"""MagFace."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from recognition.margins import MARGINS
from recognition.margins._checks import check_scale, check_share, is_pair
from recognition.margins._target import angular, straightened, with_target
from recognition.types import MarginContext


@MARGINS.register("magface")
class MagFace(nn.Module):
    """Margin that grows with the norm a: scale * cos(theta + m(a)), and + lambda_g * g(a) (Meng et al., 2103.06627).

    norms: (l_a, u_a), to which an embedding's norm is clamped; beyond them it gets no gradient. margins: radians at
    these two, m(a) is linear between them. g(a) = a / u_a^2 + 1 / a, smallest at u_a, is averaged over the global batch
    and rewards a large norm, m(a) one that is earned by a small angle: after training the norm is a measure of quality.
    lambda_g: weight of g. The paper's proof that each image has one best norm asks for lambda_g >= scale * slope of m *
        u_a^2 l_a^2 / (u_a^2 - l_a^2), 22.6 at the defaults; less is allowed, 0 leaves the norm to the margin alone.
    easy_margin: where theta > pi / 2 the target's logit stays scale * cosine, the published default, which steps down
        by about scale * sin(m) at pi / 2. False: beyond pi - m it is scale * (cosine - m * sin(m)), so that it falls
        all the way.
    The gradient is exact, by the cosine and by the norm. A network trained otherwise may have norms beyond 10 .. 110,
    where nothing moves them: the scorer `feature_norm` tells them, set norms accordingly.
    """

    in_place = True

    def __init__(
        self,
        norms: tuple[float, float] = (10.0, 110.0),
        margins: tuple[float, float] = (0.45, 0.8),
        lambda_g: float = 35.0,
        scale: float = 64.0,
        easy_margin: bool = True,
    ) -> None:
        super().__init__()
        if not (is_pair(norms) and 0 < norms[0] < norms[1]):
            raise ValueError(f"margin.norms is {norms}; it must be two norms, 0 < lowest < highest")
        if not (is_pair(margins) and 0 <= margins[0] <= margins[1] <= math.pi / 2):
            raise ValueError(f"margin.margins is {margins}; it must be two margins, 0 <= smallest <= largest <= pi / 2")
        check_share("lambda_g", lambda_g)
        check_scale(scale)
        self.norms, self.margins, self.lambda_g = tuple(norms), tuple(margins), lambda_g
        self.scale, self.easy_margin = scale, easy_margin

    def forward(self, cosine: Tensor, label: Tensor, context: MarginContext) -> Tensor:
        """cosine: (N, classes) in [-1, 1]. label: (N,) target column or -1. Returns (N, classes) float32 logits."""
        (low, high), (smallest, largest) = self.norms, self.margins
        margin = smallest + (largest - smallest) / (high - low) * (self._norm(context) - low)
        return with_target(
            cosine, label, self.scale, lambda target, rows: self._target(target, margin[rows]), context.disposable
        )

    def extra(self, context: MarginContext) -> Tensor:
        """lambda_g * mean of g over the global batch, ()."""
        norm = self._norm(context)
        return self.lambda_g * (norm / self.norms[1] ** 2 + 1 / norm).mean()

    def _norm(self, context: MarginContext) -> Tensor:
        return context.norm.squeeze(1).clamp(*self.norms)

    def _target(self, target: Tensor, margin: Tensor) -> tuple[Tensor, Tensor]:
        if not self.easy_margin:
            return straightened(target, margin)
        value, slope = angular(target, 1.0, margin, 0.0)
        ahead = target > 0
        return torch.where(ahead, value, target), slope.where(ahead, 1.0)
