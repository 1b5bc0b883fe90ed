"""SphereFace, as first published and as revived by its authors."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor, nn

from recognition.margins import MARGINS
from recognition.margins._checks import check_choice, check_margin, check_share
from recognition.margins._target import with_target
from recognition.types import MarginContext

PUBLISHED = {"revived": (1.7, 30.0), "annealed": (4.0, 0.0)}  # mode -> margin, scale


@MARGINS.register("sphereface")
class SphereFace(nn.Module):
    """Multiplicative angular margin: the target's logit is scale * ((-1)^k cos(margin * theta) - 2k) (Liu et al. 2017).

    k = floor(margin * theta / pi), so that this, psi(theta), falls all the way from theta 0 to pi.
    mode: "revived": psi with the straight-through gradient, d logit / d cosine = scale (SphereFace Revived, Liu et al.
        2022, arXiv 2109.05565, as OpenSphere has it);
        "annealed": (lambda * cos(theta) + psi) / (1 + lambda) with its own gradient, lambda = max(floor, base /
        (1 + gamma * n)), n = number of training batches so far (Liu et al. 2017, arXiv 1704.08063).
    margin: factor on the angle, 1 .. 8; a whole number in "annealed". None = 1.7 in "revived", 4 in "annealed".
    scale: the softmax's s; 0 = the norm of each embedding, with its gradient. None = 30 in "revived", 0 in "annealed".
    base, gamma, floor: of lambda; published copies differ.
    n is kept in the checkpoint. Each batch of an accumulated update counts, as the margin is called for each.
    At whole margins the slope is a polynomial in the cosine: finite and right at cosine +-1 too.
    """

    def __init__(
        self,
        mode: Literal["revived", "annealed"] = "revived",
        margin: float | None = None,
        scale: float | None = None,
        base: float = 1000.0,
        gamma: float = 0.12,
        floor: float = 5.0,
    ) -> None:
        super().__init__()
        check_choice("mode", mode, tuple(PUBLISHED))
        margin, scale = (
            given if given is not None else own for given, own in zip((margin, scale), PUBLISHED[mode], strict=True)
        )
        check_margin("margin", margin, 1.0, 8.0)
        if mode == "annealed" and margin != int(margin):
            raise ValueError(
                f"margin.margin is {margin}; with margin.mode=annealed it must be a whole number, 1 .. 8: "
                "set margin.mode=revived for others"
            )
        for name, value in (("scale", scale), ("base", base), ("gamma", gamma), ("floor", floor)):
            check_share(name, value)
        self.mode, self.margin, self.scale = mode, margin, scale
        self.base, self.gamma, self.floor = base, gamma, floor
        self.register_buffer("batches", torch.zeros((), dtype=torch.int64))

    def forward(self, cosine: Tensor, label: Tensor, context: MarginContext) -> Tensor:
        """cosine: (N, classes) in [-1, 1]. label: (N,) target column or -1. Returns (N, classes) float32 logits."""
        if self.training:
            self.batches += 1
        edit = self._revived if self.mode == "revived" else self._annealed
        if self.scale:
            return with_target(cosine, label, self.scale, edit)
        return with_target(cosine, label, 1.0, edit) * context.norm

    def _revived(self, target: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        angle = target.acos() * self.margin
        return self._fold(angle.cos(), angle), torch.ones_like(target)

    def _annealed(self, target: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        weight = (self.base / (1 + self.gamma * self.batches.double())).clamp_min(self.floor)
        value, slope = _chebyshev(target, int(self.margin))
        angle = target.acos() * self.margin
        value, slope = self._fold(value, angle), self._sign(angle) * slope
        return (weight * target + value) / (1 + weight), (weight + slope) / (1 + weight)

    def _fold(self, value: Tensor, angle: Tensor) -> Tensor:
        return self._sign(angle) * value - 2 * self._turns(angle)

    def _sign(self, angle: Tensor) -> Tensor:
        return 1 - 2 * self._turns(angle).remainder(2)

    def _turns(self, angle: Tensor) -> Tensor:
        # theta = pi ends the last piece: in the next one, of no width, the slope has the other sign
        return (angle / math.pi).floor().clamp_max(math.ceil(self.margin) - 1)


def _chebyshev(cosine: Tensor, m: int) -> tuple[Tensor, Tensor]:
    """cos(m * theta) and its derivative by cos(theta), m * sin(m * theta) / sin(theta), for a whole m >= 1."""
    first, second = torch.ones_like(cosine), cosine  # cos(0 theta), cos(1 theta)
    below, above = torch.zeros_like(cosine), torch.ones_like(cosine)  # sin(0 theta), sin(1 theta), over sin(theta)
    for _ in range(m - 1):
        first, second = second, 2 * cosine * second - first
        below, above = above, 2 * cosine * above - below
    return second, m * above
