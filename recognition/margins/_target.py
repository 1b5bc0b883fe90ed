"""What margins on the target's cosine share: logits whose target column has a value and a slope of its own."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from recognition.distributed import all_reduce_sum

# d cos(a theta + b) / d cos(theta) divides by sin(theta), which vanishes at cosine +-1. Below this angle in radians the
# slope fades to 0, so that the gradient stays finite; a float32 cosine resolves 3.5e-4 rad there.
SMALLEST_SINE = 1e-3

Edit = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


def with_target(cosine: Tensor, label: Tensor, scale: float, edit: Edit, in_place: bool = False) -> Tensor:
    """scale * cosine, but for the target column of each row, whose value and gradient `edit` gives.

    cosine: (N, classes) in [-1, 1], any float dtype. label: (N,) column of the target, -1 = no target in this row.
    edit(target (P,), rows (P,)) -> (value (P,), slope (P,)): from the target cosines, without gradient, and the rows
    they stand in, the target's value before scaling and its derivative by the cosine. A gradient of `value` by
    something else, a norm or a parameter, flows.
    in_place: write the logits into the cosines' memory and their gradient into its own, which nobody else looks at.
    Returns (N, classes) float32 logits (float64 for float64 cosines). Costs one buffer of that size, keeps none.
    """
    cosine = cosine.to(torch.promote_types(cosine.dtype, torch.float32))
    rows = (label >= 0).nonzero().squeeze(1)
    columns = label[rows]
    value, slope = edit(cosine.detach()[rows, columns].clamp(-1.0, 1.0), rows)
    return _WithTarget.apply(cosine, value, slope.detach(), rows, columns, scale, in_place)


class _WithTarget(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx,
        cosine: Tensor,
        value: Tensor,
        slope: Tensor,
        rows: Tensor,
        columns: Tensor,
        scale: float,
        in_place: bool,
    ) -> Tensor:
        ctx.scale, ctx.in_place = scale, in_place
        ctx.save_for_backward(slope, rows, columns)
        if in_place:
            ctx.mark_dirty(cosine)
        logits = cosine.mul_(scale) if in_place else cosine * scale
        logits[rows, columns] = value * scale
        return logits

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor | None, ...]:
        slope, rows, columns = ctx.saved_tensors
        scaled = gradient.mul_(ctx.scale) if ctx.in_place else gradient * ctx.scale
        of_target = scaled[rows, columns]
        scaled[rows, columns] = of_target * slope
        return scaled, of_target, None, None, None, None, None


def angular(target: Tensor, m1: float, m2: float | Tensor, m3: float) -> tuple[Tensor, Tensor]:
    """cos(m1 * theta + m2) - m3 and its derivative by cos(theta); target: (P,) cosines in [-1, 1].

    m2: one for all, or (P,), through which the value's gradient flows.
    Nothing is folded: where m1 * theta + m2 > pi the value rises again and the slope is negative.
    """
    angle = target.acos() * m1 + m2
    return angle.cos() - m3, angle.sin() * m1 / _sine(target)


def straightened(target: Tensor, margin: float | Tensor) -> tuple[Tensor, Tensor]:
    """cos(theta + margin) up to theta = pi - margin, beyond it cos(theta) - margin * sin(margin); and the slope.

    It falls all the way from 0 to pi. margin: radians, one for all or (P,), through which the value's gradient flows.
    """
    margin = torch.as_tensor(margin, dtype=target.dtype, device=target.device)
    value, slope = angular(target, 1.0, margin, 0.0)
    beyond = target <= -margin.cos()
    return torch.where(beyond, target - margin * margin.sin(), value), slope.where(~beyond, 1.0)


def clipped(target: Tensor, angle: Tensor, additive: float | Tensor, edge: float) -> tuple[Tensor, Tensor]:
    """cos(clip(theta + angle)) - additive and its derivative by cos(theta), 0 where something was clipped.

    Clipped to 1 - edge in magnitude is the cosine that theta is taken of, and to edge .. pi - edge the turned angle.
    angle: (P,) radians. additive: in units of the cosine.
    """
    kept = target.clamp(edge - 1, 1 - edge)
    turned = kept.acos() + angle
    value = turned.clamp(edge, math.pi - edge)
    return value.cos() - additive, (turned.sin() / _sine(kept)).where((kept == target) & (value == turned), 0.0)


def with_clipped(
    cosine: Tensor,
    label: Tensor,
    scale: float,
    angle: Tensor,
    additive: Tensor,
    edge: float,
    exact: bool = True,
    in_place: bool = False,
) -> Tensor:
    """Logits whose target column is scale * (cos(clip(theta + angle)) - additive), see `clipped`.

    angle: (N,) radians. additive: (N,) in units of the cosine. exact: with the gradient of that, else straight-through,
    scale for every column. in_place, and what it returns: as with_target.
    """

    def edit(target: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        value, slope = clipped(target, angle[rows], additive[rows], edge)
        return value, slope if exact else torch.ones_like(slope)

    return with_target(cosine, label, scale, edit, in_place)


def targets_of_all(cosine: Tensor, label: Tensor) -> Tensor:
    """Target cosines of all images, (N,) without gradient, the same on every process, whichever holds the target.

    cosine, label: as with_target's. To be called by all processes.
    """
    rows = (label >= 0).nonzero().squeeze(1)
    found = cosine.new_zeros(len(label), dtype=torch.promote_types(cosine.dtype, torch.float32))
    found[rows] = cosine.detach()[rows, label[rows]].to(found.dtype).clamp(-1.0, 1.0)
    return all_reduce_sum(found)


def _sine(cosine: Tensor) -> Tensor:
    return ((1 - cosine) * (1 + cosine)).sqrt().clamp_min(SMALLEST_SINE)
