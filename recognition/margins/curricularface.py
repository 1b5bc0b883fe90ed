"""CurricularFace."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from recognition.margins import MARGINS
from recognition.margins._checks import check_margin, check_scale
from recognition.margins._target import straightened, targets_of_all, with_target
from recognition.types import MarginContext


@MARGINS.register("curricularface")
class CurricularFace(nn.Module):
    """cos(theta + margin) for the target; hard negatives become c * (t + c), t growing (Huang et al., 2004.00288).

    margin: radians; beyond theta = pi - margin the target's logit is scale * (cosine - margin * sin(margin)), as
        published. A negative of cosine c is hard where c > cos(theta + margin) of its image's target.
    momentum: share of a new batch in t, the mean target cosine, which tells how far training is: 0.01 in the paper and
        its code; other programs take 0.1, or average all cosines, with which t stays at 0.
    t starts at 0, is of the global batch, moves in training mode only, before it is used, and carries no gradient. That
    of a hard negative is t + 2 c, exact, and negative for c < -t / 2, which early in training draws such a class near.
    Keeps one buffer of the logits' size for backward.
    """

    def __init__(self, margin: float = 0.5, scale: float = 64.0, momentum: float = 0.01) -> None:
        super().__init__()
        check_margin("margin", margin, 0.0, math.pi / 2)
        check_margin("momentum", momentum, 0.0, 1.0)
        check_scale(scale)
        self.margin, self.scale, self.momentum = margin, scale, momentum
        self.register_buffer("t", torch.tensor(0.0))

    def forward(self, cosine: Tensor, label: Tensor, context: MarginContext) -> Tensor:
        """cosine: (N, classes) in [-1, 1]. label: (N,) target column or -1. Returns (N, classes) float32 logits."""
        cosine = cosine.to(torch.promote_types(cosine.dtype, torch.float32))
        target = targets_of_all(cosine, label)
        if self.training:
            self.t.lerp_(target.mean().to(self.t.dtype), self.momentum)
        logits = with_target(cosine, label, self.scale, lambda own, rows: straightened(own, self.margin))
        bound = (target.acos() + self.margin).cos()
        rows = (label >= 0).nonzero().squeeze(1)
        return _HardNegatives.apply(logits, cosine.detach(), rows, label[rows], bound, self.t.clone())


class _HardNegatives(torch.autograd.Function):
    """Logits (N, classes), changed in place: times t + cosine for negatives whose cosine exceeds bound (N,)."""

    @staticmethod
    def forward(ctx, logits: Tensor, cosine: Tensor, rows: Tensor, columns: Tensor, bound: Tensor, t: Tensor) -> Tensor:
        ctx.save_for_backward(cosine, rows, columns, bound, t)
        ctx.mark_dirty(logits)
        return logits.mul_((cosine + t).masked_fill_(_left_alone(cosine, rows, columns, bound), 1.0))

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor | None, ...]:
        cosine, rows, columns, bound, t = ctx.saved_tensors
        slope = (2 * cosine).add_(t).masked_fill_(_left_alone(cosine, rows, columns, bound), 1.0)
        return slope.mul_(gradient), None, None, None, None, None


def _left_alone(cosine: Tensor, rows: Tensor, columns: Tensor, bound: Tensor) -> Tensor:
    easy = cosine <= bound[:, None]
    easy[rows, columns] = True
    return easy
