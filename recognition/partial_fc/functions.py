"""Steps of the classifier whose gradient autograd's own chain would get wrong or make large."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor

from recognition import distributed

SMALLEST_NORM = 1e-12


def sum_over_processes(gradient: Tensor) -> Tensor:
    """Hook of a parameter that every process holds: shares of its gradient -> the true gradient."""
    if distributed.world_size() == 1:
        return gradient
    total = gradient.clone()
    dist.all_reduce(total)
    return total


class ScaleGradient(torch.autograd.Function):
    """The value as it is; its gradient times a factor."""

    @staticmethod
    def forward(ctx, value: Tensor, factor: float) -> Tensor:
        ctx.factor = factor
        return value.view_as(value)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient * ctx.factor, None


class Cosine(torch.autograd.Function):
    """Unit embeddings (N, D) against the rows of weight (C, D) that take part -> cosines (N, n), rounded into [-1, 1].

    One function, because autograd's own chain keeps the raw and the unit sub-matrix and makes a dense gradient of all
    rows: this keeps the unit rows only, and the gradient is sparse where rows are sampled. Rounding beyond +-1 is cut
    off with gradient 1, as it is no saturation.
    """

    @staticmethod
    def forward(ctx, unit: Tensor, weight: Tensor, rows: Tensor | None) -> Tensor:
        centres = weight.detach().to(unit.dtype) if rows is None else weight.detach()[rows].to(unit.dtype)
        norm = torch.linalg.vector_norm(centres, dim=1, keepdim=True).clamp_min_(SMALLEST_NORM)
        centres = centres / norm if rows is None else centres.div_(norm)
        ctx.save_for_backward(unit, centres, norm, rows)
        ctx.shape, ctx.dtype = weight.shape, weight.dtype
        return (unit @ centres.T).clamp_(-1.0, 1.0)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        unit, centres, norm, rows = ctx.saved_tensors
        of_unit = of_weight = None
        with torch.autocast(gradient.device.type, enabled=False):
            if ctx.needs_input_grad[0]:
                of_unit = gradient @ centres
            if ctx.needs_input_grad[1]:
                of_weight = gradient.T @ unit
                radial = torch.linalg.vecdot(of_weight, centres).unsqueeze(1)
                of_weight = of_weight.addcmul_(centres, radial, value=-1.0).div_(norm).to(ctx.dtype)
                if rows is not None:
                    of_weight = torch.sparse_coo_tensor(
                        rows[None], of_weight, ctx.shape, is_coalesced=True, check_invariants=False
                    )
        return of_unit, of_weight, None


class SoftmaxCrossEntropy(torch.autograd.Function):
    """Logits (N, n) of this process and target columns (N,) -> (N,) losses of the softmax over all processes.

    Exact by log-sum-exp. Keeps one buffer of the logits' size, which becomes their gradient in backward.
    """

    @staticmethod
    def forward(ctx, logits: Tensor, column: Tensor) -> Tensor:
        many = distributed.world_size() > 1
        highest = logits.amax(1) if logits.shape[1] else logits.new_full((len(logits),), -torch.inf)
        if many:
            dist.all_reduce(highest, dist.ReduceOp.MAX)
        share = logits - highest[:, None]
        rows = (column >= 0).nonzero().squeeze(1)
        column = column[rows]
        target = logits.new_zeros(len(logits))
        target[rows] = share[rows, column]
        both = torch.stack([target, share.exp_().sum(1)])
        if many:
            dist.all_reduce(both)
        target, total = both
        share.div_(total[:, None])
        ctx.save_for_backward(share, rows, column)
        return total.log() - target

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, None]:
        share, rows, column = ctx.saved_tensors
        share.mul_(gradient[:, None])  # a second backward through it is refused by torch's version check
        share[rows, column] -= gradient[rows]
        return share, None
