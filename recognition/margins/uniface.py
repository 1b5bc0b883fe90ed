"""UniFace."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from recognition.margins import MARGINS
from recognition.margins._binary import Binary
from recognition.margins._checks import check_number, check_positive
from recognition.margins._target import with_target
from recognition.types import MarginContext


@MARGINS.register("uniface")
class UniFace(Binary):
    """One threshold for all: log(1 + e^(b - scale (cos_y - margin))) + negative * sum_j log(1 + e^(scale cos_j - b)).

    Unified cross-entropy (Zhou et al., ICCV 2023; CVI-SZU/UniFace).
    margin: in units of the cosine. negative: weight of the other classes' sum.
    bias: where the learned threshold b starts; None = log(10 * classes), as published for all classes; with sampled
        classes the published program starts at log(10 * classes * rate), and other copies at 15.
    `offset` is the learned rest of b (published: b itself is the parameter); a single number, it gets no weight decay.
    The published clamp of the exponents to +-scale, whose gradient is 0 beyond, is left out: nothing overflows.
    There is no softmax. Where classes are sampled, the sum is over those that take part, as published: the other
    classes push less by about the sample rate, and b settles lower.
    """

    def __init__(
        self, margin: float = 0.4, scale: float = 64.0, negative: float = 1.0, bias: float | None = None
    ) -> None:
        super().__init__(margin, scale)
        check_positive("negative", negative)
        if bias is not None:
            check_number("bias", bias, lambda number: True, "be a number, or None for log(10 * classes)")
        self.positive, self.negative, self.bias = 1.0, negative, bias

    def forward(self, cosine: Tensor, label: Tensor, context: MarginContext) -> Tensor:
        """cosine: (N, classes) in [-1, 1]. label: (N,) target column or -1. Returns (N, classes) float32 logits."""
        start = math.log(10 * context.num_classes) if self.bias is None else self.bias
        return with_target(cosine, label, self.scale, self._target) - (start + self.offset)

    def _target(self, target: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        return target - self.margin, torch.ones_like(target)
