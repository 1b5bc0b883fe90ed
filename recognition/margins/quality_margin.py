"""A margin set by the gate of any scorer."""

from __future__ import annotations

import math
from typing import Literal

from torch import Tensor, nn

from recognition.margins import MARGINS
from recognition.margins._checks import check_choice, check_margin, check_scale, is_pair
from recognition.margins._target import with_clipped
from recognition.types import MarginContext

EDGE = 1e-3  # AdaFace's


@MARGINS.register("quality_margin")
class QualityMargin(nn.Module):
    """Margins by quality: scale * (cos(theta + angular(gate)) - additive(gate)), both linear in the gate.

    gate: of config.scorer and config.gate, 0 = poor, 1 = good, without gradient.
    angular: radians at gate 0 and at gate 1. additive: in units of the cosine, at gate 0 and at gate 1.
    The defaults are AdaFace's line at its margin 0.4, for any scorer: with gate = (z + 1) / 2 of its z it is AdaFace,
    with the gate of `feature_norm` nearly so. angular=(0.5, 0.35) with additive=(0, 0) is the laplacian_margin's rule
    with another measure of quality; equal pairs are ArcFace and CosFace.
    gradient: "exact", AdaFace's, 0 where something is clipped, or "straight_through", scale for every column.
    As in AdaFace the target's cosine is clipped to +-0.999 and the turned angle to 0.001 .. pi - 0.001.
    This general form is our own.
    """

    needs_gate = True

    in_place = True

    def __init__(
        self,
        angular: tuple[float, float] = (0.4, -0.4),
        additive: tuple[float, float] = (0.0, 0.8),
        scale: float = 64.0,
        gradient: Literal["exact", "straight_through"] = "exact",
    ) -> None:
        super().__init__()
        for name, pair, limit in (("angular", angular, math.pi), ("additive", additive, 2.0)):
            if not is_pair(pair):
                raise ValueError(f"margin.{name} is {pair}; it must be two margins, at gate 0 and at gate 1")
            for value in pair:
                check_margin(name, value, -limit, limit)
        check_scale(scale)
        check_choice("gradient", gradient, ("exact", "straight_through"))
        self.angular, self.additive, self.scale, self.gradient = tuple(angular), tuple(additive), scale, gradient

    def forward(self, cosine: Tensor, label: Tensor, context: MarginContext) -> Tensor:
        """cosine: (N, classes) in [-1, 1]. label: (N,) target column or -1. Returns (N, classes) float32 logits."""
        if context.gate is None:
            raise RuntimeError("margin 'quality_margin' needs a gate for each image: give the classifier gate=...")
        angle, additive = (at_0 + (at_1 - at_0) * context.gate for at_0, at_1 in (self.angular, self.additive))
        return with_clipped(
            cosine, label, self.scale, angle, additive, EDGE, self.gradient == "exact", in_place=context.disposable
        )
