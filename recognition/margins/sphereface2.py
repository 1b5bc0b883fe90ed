"""SphereFace2."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from recognition.margins import MARGINS
from recognition.margins._binary import Binary
from recognition.margins._checks import check_number, check_positive
from recognition.types import MarginContext


@MARGINS.register("sphereface2")
class SphereFace2(Binary):
    """Binary: weight / scale * (alpha * log(1 + e^-z_y) + (1 - alpha) * sum_j log(1 + e^z_j)) (Wen et al. 2022).

    z_y = scale * (g(cos_y) - margin) + b for the target, z_j = scale * (g(cos_j) + margin) + b for the others,
    g(c) = 2 ((c + 1) / 2)^t - 1 (SphereFace2, arXiv 2108.01513; variant C of OpenSphere, and its defaults).
    margin: in units of g. scale: the paper's r. alpha: weight of the target against all others, 0 .. 1, the ends
        excluded. t: 1 = g is the cosine itself, more = cosines around 0 lie closer to -1. weight: of the whole loss.
    The gradient is straight-through, as published: d z / d cosine = scale.
    b starts where, with all cosines 0, the target's pull equals the push of all others; `offset` is the learned rest of
    it (published: b itself is the parameter); a single number, it gets no weight decay.
    There is no softmax. Where classes are sampled, the sum is over those that take part: the others' push is smaller by
    about the sample rate, and the learned offset takes up what it can of that; published for all classes only.
    """

    def __init__(
        self, margin: float = 0.4, scale: float = 40.0, alpha: float = 0.7, t: float = 3.0, weight: float = 50.0
    ) -> None:
        super().__init__(margin, scale)
        check_number("alpha", alpha, lambda number: 0 < number < 1, "lie between 0 and 1, neither of them included")
        check_number("t", t, lambda number: number >= 1, "be a number, 1 or more")
        check_positive("weight", weight)
        self.alpha, self.t = alpha, t
        self.positive, self.negative = weight / scale * alpha, weight / scale * (1 - alpha)

    def forward(self, cosine: Tensor, label: Tensor, context: MarginContext) -> Tensor:
        """cosine: (N, classes) in [-1, 1]. label: (N,) target column or -1. Returns (N, classes) float32 logits."""
        cosine = cosine.to(torch.promote_types(cosine.dtype, torch.float32))
        with torch.no_grad():
            change = 2 * ((cosine.clamp(-1.0, 1.0) + 1) / 2).pow_(self.t) - 1 + self.margin - cosine
            rows = (label >= 0).nonzero().squeeze(1)
            change[rows, label[rows]] -= 2 * self.margin
        return self.scale * (cosine + change) + (self._start(context.num_classes) + self.offset)

    def _start(self, classes: int) -> float:
        """b with alpha * sigmoid(-z_y) = (1 - alpha) * (classes - 1) * sigmoid(z_j) where all cosines are 0."""
        ratio = self.alpha / ((1 - self.alpha) * max(classes - 1, 1))
        centre = self.scale * (2 * 0.5**self.t - 1)
        low, high = centre - self.scale * self.margin, centre + self.scale * self.margin
        root = math.sqrt((1 - ratio) ** 2 + 4 * ratio * math.exp(max(low - high, -700.0)))
        if ratio > 1:  # few classes: the published form of the same root takes the logarithm of a difference near 0
            return math.log((ratio - 1 + root) / 2) - low
        return math.log(2 * ratio / (1 - ratio + root)) - high
