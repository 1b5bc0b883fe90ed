"""CosFace."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from recognition.margins import MARGINS
from recognition.margins._checks import check_margin, check_scale
from recognition.margins._target import with_target
from recognition.types import MarginContext


@MARGINS.register("cosface")
class CosFace(nn.Module):
    """Additive cosine margin: the target's logit is scale * (cosine - margin) (Wang et al. 2018, eq. 4).

    margin: in units of the cosine. The default is arcface_torch's; the paper has 0.35.
    """

    in_place = True

    def __init__(self, margin: float = 0.4, scale: float = 64.0) -> None:
        super().__init__()
        check_margin("margin", margin, 0.0, 2.0)
        check_scale(scale)
        self.margin, self.scale = margin, scale

    def forward(self, cosine: Tensor, label: Tensor, context: MarginContext) -> Tensor:
        """cosine: (N, classes) in [-1, 1]. label: (N,) target column or -1. Returns (N, classes) float32 logits."""
        return with_target(cosine, label, self.scale, self._target, context.disposable)

    def _target(self, target: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        return target - self.margin, torch.ones_like(target)
