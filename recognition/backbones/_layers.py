"""Layers that several families share."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional


class DropPath(nn.Module):
    """Drops a residual branch for whole images with probability `rate` while training (Huang et al. 2016).

    x: (B, ...), one row per image. What is kept is scaled by 1 / (1 - rate).
    """

    def __init__(self, rate: float) -> None:
        super().__init__()
        if not 0 <= rate < 1:
            raise ValueError(f"drop_path is {rate}; it must lie in [0, 1)")
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.rate == 0:
            return x
        keep = 1 - self.rate
        kept = x.new_empty(x.shape[0], *([1] * (x.dim() - 1))).bernoulli_(keep)
        return x * (kept / keep)


def drop_path_rates(last: float, depth: int) -> list[float]:
    """Rates of `depth` blocks, rising linearly from 0 to `last`."""
    return [last * i / max(depth - 1, 1) for i in range(depth)]


class Mlp(nn.Module):
    """Linear, activation, Linear on the last axis, `hidden` wide inside."""

    def __init__(self, width: int, hidden: int, activation: nn.Module) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, hidden)
        self.act = activation
        self.fc2 = nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(self.act(self.fc1(x)))


def initialise_linear(module: nn.Module) -> None:
    """Truncated normal weights of deviation 0.02 and zero biases for a Linear; other modules keep torch's start."""
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


class PReLU(nn.PReLU):
    """nn.PReLU whose backward takes half the time on a CPU: torch's own kernel was 39 % of MobileFaceNet's step.

    x: (B, C) or (B, C, H, W).
    """

    def forward(self, x: Tensor) -> Tensor:
        plain = torch.compiler.is_compiling() or torch.jit.is_tracing() or not torch.is_grad_enabled()
        return super().forward(x) if plain else _PReLU.apply(x, self.weight)


class _PReLU(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor, slope: Tensor) -> Tensor:
        ctx.save_for_backward(x, slope)
        return functional.prelu(x, slope)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor | None, Tensor | None]:
        saved, slope = ctx.saved_tensors
        x = saved.to(gradient.dtype)
        above = torch.ops.aten.threshold_backward(gradient, x, 0)  # the gradient where x > 0, else 0
        below = gradient - above
        of_x = of_slope = None
        if ctx.needs_input_grad[0]:
            wide = slope.to(gradient.dtype).view(1, -1, *[1] * (x.dim() - 2))
            of_x = torch.addcmul(above, below, wide).to(saved.dtype)
        if ctx.needs_input_grad[1]:
            of_slope = (below * x).sum([0, *range(2, x.dim())]).to(slope.dtype)
        return of_x, of_slope


class BatchNorm2d(nn.BatchNorm2d):
    """nn.BatchNorm2d that keeps nothing of its input for backward where it is frozen: there it is a factor a channel.

    torch's keeps the whole input, whose one use would be the gradient of scale and shift. The output is torch's own.
    """

    def forward(self, x: Tensor) -> Tensor:
        still = not self.training and self.affine and torch.is_grad_enabled() and x.requires_grad
        plain = torch.compiler.is_compiling() or torch.jit.is_tracing()
        if plain or not still or self.weight.requires_grad or self.bias.requires_grad:
            return super().forward(x)
        return _FrozenNorm.apply(x, self.weight, self.bias, self.running_mean, self.running_var, self.eps)


class _FrozenNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor, bias: Tensor, mean: Tensor, variance: Tensor, eps: float) -> Tensor:
        ctx.save_for_backward(weight, variance)
        ctx.eps = eps
        return functional.batch_norm(x, mean, variance, weight, bias, False, 0.0, eps)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor | None, ...]:
        weight, variance = ctx.saved_tensors
        factor = (weight * torch.rsqrt(variance + ctx.eps)).to(gradient.dtype)
        return gradient * factor.view(-1, 1, 1), None, None, None, None, None
