"""UniFace."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from recognition.margins import MARGINS
from recognition.margins._binary import binary_losses
from recognition.margins._target import check_margin, check_scale, with_target
from recognition.types import MarginContext


@MARGINS.register("uniface")
class UniFace(nn.Module):
    """One threshold for all: log(1 + e^(b - scale (cos_y - margin))) + negative * sum_j log(1 + e^(scale cos_j - b)).

    Unified cross-entropy (Zhou et al., ICCV 2023; CVI-SZU/UniFace).
    margin: in units of the cosine. negative: weight of the other classes' sum.
    bias: where the learned threshold b starts; None = log(10 * classes), as published for all classes; with sampled
        classes the published program starts at log(10 * classes * rate), and other copies at 15.
    `offset` is the learned rest of b (published: b itself is the parameter), so weight decay draws b to its start, not
    to 0. The published clamp of the exponents to +-scale, whose gradient is 0 beyond, is left out: nothing overflows.
    There is no softmax. Where classes are sampled, the sum is over those that take part, as published: the other
    classes push less by about the sample rate, and b settles lower.
    """

    def __init__(
        self, margin: float = 0.4, scale: float = 64.0, negative: float = 1.0, bias: float | None = None
    ) -> None:
        super().__init__()
        check_margin("margin", margin, 0.0, 2.0)
        check_scale(scale)
        if not (math.isfinite(negative) and negative > 0):
            raise ValueError(f"margin.negative is {negative}; it must be a positive number")
        if bias is not None and not math.isfinite(bias):
            raise ValueError(f"margin.bias is {bias}; it must be a number, or None for log(10 * classes)")
        self.margin, self.scale, self.negative, self.bias = margin, scale, negative, bias
        self.offset = nn.Parameter(torch.zeros(()))

    def forward(self, cosine: Tensor, label: Tensor, context: MarginContext) -> Tensor:
        """cosine: (N, classes) in [-1, 1]. label: (N,) target column or -1. Returns (N, classes) float32 logits."""
        start = math.log(10 * context.num_classes) if self.bias is None else self.bias
        return with_target(cosine, label, self.scale, self._target) - (start + self.offset)

    def reduce(self, logits: Tensor, label: Tensor, context: MarginContext) -> Tensor:
        """Returns (N,) losses over the classes of all processes."""
        return binary_losses(logits, label, 1.0, self.negative)

    def _target(self, target: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        return target - self.margin, torch.ones_like(target)
