"""The margins of a study of low-resolution faces: larger for degraded, or for smooth pictures."""

from __future__ import annotations

import math
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from recognition.margins import MARGINS
from recognition.margins._checks import check_choice, check_margin, check_positive, check_scale
from recognition.margins._target import with_clipped
from recognition.types import Batch, MarginContext

EDGE = 1e-5  # the published clamp, of cosine and angle


@MARGINS.register("laplacian_margin")
class LaplacianMargin(nn.Module):
    """scale * cos(theta + m), m larger for a picture with less detail, by its Laplacian or its level of degradation.

    approach: "laplacian": m = clip(strength / mean |Laplacian|, lowest, highest) in radians, the mean over pixels and
        channels in grey levels (cv2.Laplacian's 3 x 3 kernel and border); "level": margin_low_res for every picture
        that was degraded, margin_high_res for the others.
    The medians of 500 faces of LFW at 112 px, brought to a side (area) and back (bicubic):
        112 px 8.0, 56 px 5.6, 40 px 4.0, 28 px 2.9, 20 px 2.0, 14 px 1.5, 7 px 1.0
    so at strength 1 the bounds are reached about where faces have 28 px (0.35) and 20 px (0.5). Noise counts as detail.
    legacy: the Laplacian as published: m = 1 / mean |Laplacian| without bounds (0.13 at 112 px, 0.96 at 7 px), of the
        picture before it is degraded; strength and bounds are not looked at.
    gradient: "straight_through", as published, scale for every column, or "exact", 0 where theta + m is clipped.
    Source: approaches 1 (level) and 2 (laplacian) of a semester report, EPFL 2023, and its program, the repository
    arinaLozhkina/LowResolutionFaceRecognition, which clamps theta + m to 1e-5 .. 3.14159 as well. The report asks for
    bounds and names none: these are approach 1's two margins. In the program approach 1 takes by mistake the first few
    batches of an epoch for high resolution and all others for low; that is a scheme of the data,
    degradation.choose="legacy_epoch_head".
    """

    fields: tuple[str, ...] = ()

    in_place = True

    def __init__(
        self,
        approach: Literal["laplacian", "level"] = "laplacian",
        strength: float = 1.0,
        lowest: float = 0.35,
        highest: float = 0.5,
        margin_low_res: float = 0.5,
        margin_high_res: float = 0.35,
        scale: float = 64.0,
        gradient: Literal["straight_through", "exact"] = "straight_through",
        legacy: bool = False,
    ) -> None:
        super().__init__()
        check_choice("approach", approach, ("laplacian", "level"))
        check_choice("gradient", gradient, ("straight_through", "exact"))
        check_positive("strength", strength, "be a positive number of grey levels")
        for name, value in (("margin_low_res", margin_low_res), ("margin_high_res", margin_high_res)):
            check_margin(name, value, 0.0, math.pi)
        check_margin("lowest", lowest, 0.0, math.pi)
        check_margin("highest", highest, lowest, math.pi)
        check_scale(scale)
        if legacy and approach == "level":
            raise ValueError(
                "margin.legacy is of approach 'laplacian'; what differs in the published 'level' is which pictures are "
                "degraded: set degradation.choose=legacy_epoch_head"
            )
        self.approach, self.strength, self.bounds = approach, strength, (lowest, highest)
        self.margins, self.scale, self.gradient, self.legacy = (
            (margin_low_res, margin_high_res),
            scale,
            gradient,
            legacy,
        )
        self.fields = ("level",) if approach == "level" else ("twin",) if legacy else ()

    @torch.no_grad()
    def measure(self, batch: Batch) -> Tensor:
        """(B,) float32: the level of degradation, or mean |Laplacian| in grey levels of the image that counts."""
        field = self.fields[0] if self.fields else "image"
        value = getattr(batch, field)
        if value is None:
            raise RuntimeError(f"margin 'laplacian_margin' looks at the batch's {field}, which the loader did not fill")
        return value.float() if self.approach == "level" else mean_laplacian(value)

    def forward(self, cosine: Tensor, label: Tensor, context: MarginContext) -> Tensor:
        """cosine: (N, classes) in [-1, 1]. label: (N,) target column or -1. Returns (N, classes) float32 logits."""
        if context.measured is None:
            raise RuntimeError("margin 'laplacian_margin' needs what its measure(batch) finds: give measured=...")
        margin = self._margin(context.measured)
        exact = self.gradient == "exact"
        return with_clipped(
            cosine, label, self.scale, margin, torch.zeros_like(margin), EDGE, exact, in_place=context.disposable
        )

    def _margin(self, measured: Tensor) -> Tensor:
        if self.approach == "level":
            low_res, high_res = self.margins
            return torch.full_like(measured, high_res).masked_fill(measured > 0, low_res)
        if self.legacy:
            return 1 / measured  # infinite for a flat picture, until theta + m is clamped
        return (self.strength / measured).clamp(*self.bounds)


def mean_laplacian(image: Tensor) -> Tensor:
    """Mean |Laplacian| of each image over pixels and channels, (B,) in grey levels; image: (B, 3, H, W) in [-1, 1]."""
    grey = F.pad((image.float() + 1) * 127.5, (1, 1, 1, 1), mode="reflect")
    middle = grey[..., 1:-1, 1:-1]
    around = grey[..., :-2, 1:-1] + grey[..., 2:, 1:-1] + grey[..., 1:-1, :-2] + grey[..., 1:-1, 2:]
    return (around - 4 * middle).abs().mean(dim=(1, 2, 3))
