"""SFace."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from recognition.distributed import all_reduce_sum
from recognition.margins import MARGINS
from recognition.margins._checks import check_margin, check_positive, check_scale
from recognition.types import MarginContext


@MARGINS.register("sface")
class SFace(nn.Module):
    """Sigmoid-weighted pulls: scale * (-r_in(theta_y) cos_y + sum_j r_out(theta_j) cos_j) (Zhong et al. 2021).

    r_in = 1 / (1 + e^(-k (theta_y - a))), r_out = 1 / (1 + e^(k (theta_j - b))), both without gradient (SFace, arXiv
    2205.12010; zhongyy/SFace): images near their centre, and centres far from an image, are left alone.
    scale: of the loss, the paper's s. k: steepness, 1 / radian. a: radians within which the pull to the own centre
        fades. b: radians beyond which the push from the others fades. For CASIA-WebFace the authors take 0.87 and 1.2.
    There is no softmax, and the loss is negative where all is well: its gradient is what is meant. Nearly all of the
    push comes from centres nearer than b: where classes are sampled, those that sit out do not push.
    """

    def __init__(self, scale: float = 64.0, k: float = 80.0, a: float = 0.8, b: float = 1.23) -> None:
        super().__init__()
        check_scale(scale)
        check_positive("k", k)
        check_margin("a", a, 0.0, math.pi)
        check_margin("b", b, 0.0, math.pi)
        self.scale, self.k, self.a, self.b = scale, k, a, b

    def forward(self, cosine: Tensor, label: Tensor, context: MarginContext) -> Tensor:
        """cosine: (N, classes) in [-1, 1]. label: (N,) target column or -1. Returns (N, classes) scale * cosine."""
        return self.scale * cosine.to(torch.promote_types(cosine.dtype, torch.float32))

    def reduce(self, logits: Tensor, label: Tensor, context: MarginContext) -> Tensor:
        """Returns (N,) losses over the classes of all processes."""
        rows = (label >= 0).nonzero().squeeze(1)
        columns = label[rows]
        with torch.no_grad():
            angle = (logits / self.scale).clamp_(-1.0, 1.0).acos_()
            pull = torch.sigmoid(self.k * (angle[rows, columns] - self.a))
            push = angle.sub_(self.b).mul_(-self.k).sigmoid_()
            push[rows, columns] = -pull
        return all_reduce_sum((push * logits).sum(1))
