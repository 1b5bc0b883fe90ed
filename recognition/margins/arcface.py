"""ArcFace."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor, nn

from recognition.margins import MARGINS
from recognition.margins._checks import check_choice, check_margin, check_scale
from recognition.margins._target import angular, with_target
from recognition.types import MarginContext


@MARGINS.register("arcface")
class ArcFace(nn.Module):
    """Additive angular margin: the target's logit is scale * cos(theta + margin) (Deng et al. 2019, eq. 3).

    margin: radians. scale: the softmax's s.
    gradient: "straight_through", arcface_torch's: d logit / d cosine = scale for every column, the target's too, with
        which every published recipe was tuned; or "exact": scale * sin(theta + margin) / sin(theta), its division kept
        finite within 1e-3 rad of 0 and pi.
    Where theta + margin > pi (cosine below -0.88 at 0.5) the target's logit rises again as theta grows, as in
    arcface_torch: it is not folded. The straight-through gradient still pulls towards the centre there, the exact one
    follows the value and pushes away.
    """

    in_place = True

    def __init__(
        self,
        margin: float = 0.5,
        scale: float = 64.0,
        gradient: Literal["straight_through", "exact"] = "straight_through",
    ) -> None:
        super().__init__()
        check_margin("margin", margin, 0.0, math.pi)
        check_scale(scale)
        check_choice("gradient", gradient, ("straight_through", "exact"))
        self.margin, self.scale, self.gradient = margin, scale, gradient

    def forward(self, cosine: Tensor, label: Tensor, context: MarginContext) -> Tensor:
        """cosine: (N, classes) in [-1, 1]. label: (N,) target column or -1. Returns (N, classes) float32 logits."""
        return with_target(cosine, label, self.scale, self._target, context.disposable)

    def _target(self, target: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        value, slope = angular(target, 1.0, self.margin, 0.0)
        return value, slope if self.gradient == "exact" else torch.ones_like(slope)
