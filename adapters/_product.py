"""The products of a low-rank Linear as one operation, which keeps nothing but its input; a dropout that keeps bits.

Written as single products, backward keeps the bottleneck's channels, too, and under autocast a second rounded copy of
the input; dropout on a CPU keeps its mask as wide as what it masks.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from recognition.gate import per_image


def fits(x: Tensor, *frozen: Tensor | None) -> bool:
    """Whether low_rank may be used: gradients are taken, none of them of what it holds for frozen, by no compiler."""
    if not torch.is_grad_enabled() or torch.compiler.is_compiling() or torch.jit.is_tracing():
        return False
    return x.is_floating_point() and not any(t is not None and t.requires_grad for t in frozen)


def low_rank(
    x: Tensor, weight: Tensor, bias: Tensor | None, down: Tensor, up: Tensor, mix: Tensor | None, factor: float
) -> Tensor:
    """x W' + bias + (x A' * mix) B', in the dtype of autocast where it is on: (..., in) -> (..., out).

    weight: (out, in) and bias get no gradient, nor does mix, (images, rank) for rows grouped by image; None: factor.
    down: A, (rank, in). up: B, (out, rank).
    """
    kind, dtype = x.device.type, x.dtype
    if torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind) and dtype != torch.float64:
        dtype = torch.get_autocast_dtype(kind)
    x, weight, bias = (None if t is None else t.to(dtype) for t in (x, weight, bias))
    return _LowRank.apply(x, weight, bias, down, up, mix, factor)


class _LowRank(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, weight, bias, down, up, mix, factor) -> Tensor:
        ctx.save_for_backward(x, weight, down, up, mix)
        ctx.factor = factor
        with torch.autocast(x.device.type, enabled=False):
            out = F.linear(x, weight, bias)
            z = _weighed(F.linear(x, down.to(x.dtype)), mix, factor)
            out.view(-1, out.shape[-1]).addmm_(_rows(z), up.to(x.dtype).t())
        return out

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, down, up, mix = ctx.saved_tensors
        wide, down, up = down.dtype, down.to(x.dtype), up.to(x.dtype)  # rounded again: nobody keeps the rounded ones
        of_x = of_down = of_up = None
        with torch.autocast(x.device.type, enabled=False):
            of_z = _rows(_weighed(gradient @ up, mix, ctx.factor))
            rows, gradients = _rows(x), _rows(gradient)
            if ctx.needs_input_grad[0]:
                of_x = gradients.mm(weight).addmm_(of_z, down).view_as(x)
            if ctx.needs_input_grad[3]:
                of_down = (of_z.t() @ rows).to(wide)
            if ctx.needs_input_grad[4]:
                z = _rows(_weighed(F.linear(x, down), mix, ctx.factor))
                of_up = (gradients.t() @ z).to(wide)
        return of_x, None, None, of_down, of_up, None, None


def _weighed(z: Tensor, mix: Tensor | None, factor: float) -> Tensor:
    if mix is not None:
        return per_image(z, mix)
    return z if factor == 1 else z * factor


def _rows(x: Tensor) -> Tensor:
    return x.reshape(-1, x.shape[-1])


def dropout(x: Tensor, probability: float, training: bool) -> Tensor:
    """F.dropout, the same draws and values; on a CPU it keeps a byte for each number of x in place of x's width."""
    if x.device.type != "cpu" or not training or probability == 0 or not fits(x):
        return F.dropout(x, probability, training)
    return _Dropout.apply(x, probability)


class _Dropout(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor, probability: float) -> Tensor:
        noise = torch.empty_like(x).bernoulli_(1 - probability)
        ctx.save_for_backward(noise.bool())
        ctx.keep = 1 - probability
        return x * noise.div_(1 - probability)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, None]:
        (kept,) = ctx.saved_tensors
        return gradient * kept.to(gradient.dtype).div_(ctx.keep), None
