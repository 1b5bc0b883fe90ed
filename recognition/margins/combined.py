"""The three margins in one formula."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor, nn

from recognition.margins import MARGINS
from recognition.margins._checks import check_choice, check_margin, check_scale
from recognition.margins._target import angular, with_target
from recognition.types import MarginContext


@MARGINS.register("combined")
class Combined(nn.Module):
    """All three margins: the target's logit is scale * (cos(m1 * theta + m2) - m3) (Deng et al. 2019, eq. 4).

    m1: factor on the angle (SphereFace). m2: radians (ArcFace). m3: in units of the cosine (CosFace).
    mode: "exact": all three at once, with the exact gradient (see arcface for angles near 0 and above pi);
        "arcface_torch": what its margin_list (m1, m2, m3) does: ArcFace with m2 and the straight-through gradient where
        m1 = 1 and m3 = 0; CosFace with m3, m1 and m2 ignored, where m3 > 0; anything else is a ValueError.
    """

    in_place = True

    def __init__(
        self,
        m1: float = 1.0,
        m2: float = 0.5,
        m3: float = 0.0,
        scale: float = 64.0,
        mode: Literal["exact", "arcface_torch"] = "exact",
    ) -> None:
        super().__init__()
        check_margin("m1", m1, 0.0, 8.0)
        check_margin("m2", m2, 0.0, math.pi)
        check_margin("m3", m3, 0.0, 2.0)
        check_scale(scale)
        check_choice("mode", mode, ("exact", "arcface_torch"))
        if mode == "arcface_torch":
            if m3 > 0:
                m1, m2 = 1.0, 0.0
            elif m1 != 1.0:
                raise ValueError(
                    f"margin.mode=arcface_torch cannot do m1={m1}, m3=0: it knows m1=1 with m3=0 (ArcFace) and m3>0 "
                    "(CosFace); set margin.mode=exact for all three at once"
                )
        self.m1, self.m2, self.m3, self.scale, self.mode = m1, m2, m3, scale, mode

    def forward(self, cosine: Tensor, label: Tensor, context: MarginContext) -> Tensor:
        """cosine: (N, classes) in [-1, 1]. label: (N,) target column or -1. Returns (N, classes) float32 logits."""
        return with_target(cosine, label, self.scale, self._target, context.disposable)

    def _target(self, target: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        value, slope = angular(target, self.m1, self.m2, self.m3)
        return value, slope if self.mode == "exact" else torch.ones_like(slope)
