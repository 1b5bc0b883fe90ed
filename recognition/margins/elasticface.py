"""ElasticFace."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor, nn

from recognition.margins import MARGINS
from recognition.margins._checks import check_choice, check_margin, check_scale
from recognition.margins._target import angular, targets_of_all, with_target
from recognition.types import MarginContext

# base -> margin, deviation, deviation of the plus forms: the published configuration
PUBLISHED = {"arc": (0.5, 0.05, 0.0175), "cos": (0.35, 0.05, 0.02)}


@MARGINS.register("elasticface")
class ElasticFace(nn.Module):
    """A margin drawn for each image, m ~ N(margin, deviation^2): scale * cos(theta + m) (Boutros et al., 2109.09416).

    base: "arc", or "cos" for scale * (cosine - m).
    margin, deviation: radians for arc, in units of the cosine for cos. None = published: 0.5 and 0.05 (plus: 0.0175)
        for arc, 0.35 and 0.05 (plus: 0.02) for cos.
    plus: the larger margins of the batch go to the images with the lower target cosines, by rank in the global batch.
    legacy_plus: what the published program does for plus instead: it takes the ranks' inverse permutation, so that the
        margins are spread without regard to the cosines (correlation -0.01, with the right ranks -0.97).
    The margins are drawn from the step's generator for the global batch, so processes agree, and are not bounded, as
    published. Gradient: exact, as published, its division kept finite within 1e-3 rad of 0 and pi; where theta + m > pi
    it pushes away (see arcface).
    """

    in_place = True

    def __init__(
        self,
        base: Literal["arc", "cos"] = "arc",
        margin: float | None = None,
        deviation: float | None = None,
        scale: float = 64.0,
        plus: bool = False,
        legacy_plus: bool = False,
    ) -> None:
        super().__init__()
        check_choice("base", base, ("arc", "cos"))
        if plus and legacy_plus:
            raise ValueError(
                "margin.plus and margin.legacy_plus are two ways to rank the same margins: set one of them"
            )
        published, spread, spread_of_plus = PUBLISHED[base]
        margin = published if margin is None else margin
        if deviation is None:
            deviation = spread_of_plus if plus or legacy_plus else spread
        check_margin("margin", margin, 0.0, math.pi if base == "arc" else 2.0)
        check_margin("deviation", deviation, 0.0, 1.0)
        check_scale(scale)
        self.base, self.margin, self.deviation, self.scale = base, margin, deviation, scale
        self.plus, self.legacy_plus = plus, legacy_plus

    def forward(self, cosine: Tensor, label: Tensor, context: MarginContext) -> Tensor:
        """cosine: (N, classes) in [-1, 1]. label: (N,) target column or -1. Returns (N, classes) float32 logits."""
        drawn = torch.randn(len(label), generator=context.generator)
        drawn = drawn.to(cosine.device, torch.promote_types(cosine.dtype, torch.float32))
        margin = self.margin + self.deviation * drawn
        if self.plus or self.legacy_plus:
            hardest_last = targets_of_all(cosine, label).argsort(descending=True, stable=True)
            margin = margin.sort().values
            margin = margin[hardest_last] if self.legacy_plus else margin[hardest_last.argsort()]
        return with_target(
            cosine, label, self.scale, lambda target, rows: self._target(target, margin[rows]), context.disposable
        )

    def _target(self, target: Tensor, margin: Tensor) -> tuple[Tensor, Tensor]:
        if self.base == "cos":
            return target - margin, torch.ones_like(target)
        return angular(target, 1.0, margin, 0.0)
