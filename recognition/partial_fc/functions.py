"""Steps of the classifier whose gradient autograd's own chain would get wrong or make large."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
import torch.distributed as dist
from torch import Tensor

from recognition import distributed
from recognition.partial_fc.blocks import Memory, images_at_once, row_blocks, rows_at_once

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


class Unit(torch.autograd.Function):
    """Embeddings (N, D) -> the same of length 1, and their lengths (N, 1); what is shorter than SMALLEST_NORM is
    divided by that. One function, as autograd's own chain makes eight buffers of the embeddings' size.
    """

    @staticmethod
    def forward(ctx, embedding: Tensor) -> tuple[Tensor, Tensor]:
        norm = torch.linalg.vector_norm(embedding, dim=1, keepdim=True)
        unit = embedding / norm.clamp_min(SMALLEST_NORM)
        ctx.save_for_backward(unit, norm)
        ctx.set_materialize_grads(False)
        return unit, norm

    @staticmethod
    def backward(ctx, of_unit: Tensor | None, of_norm: Tensor | None) -> Tensor | None:
        unit, norm = ctx.saved_tensors
        gradient = None
        if of_unit is not None:
            radial = (of_unit * unit).sum(1, keepdim=True).masked_fill_(norm < SMALLEST_NORM, 0.0)
            gradient = torch.addcmul(of_unit, unit, radial, value=-1.0).div_(norm.clamp_min(SMALLEST_NORM))
        if of_norm is not None:
            along = of_norm * unit
            gradient = along if gradient is None else gradient.add_(along)
        return gradient


@contextlib.contextmanager
def _bf16_on_cpu() -> Iterator[None]:
    """float32 matrices are multiplied as bf16 by processors that can, sums and products stay float32."""
    settings = torch.backends.mkldnn.matmul
    before = settings.fp32_precision
    settings.fp32_precision = "bf16"
    try:
        yield
    finally:
        settings.fp32_precision = before


def multiply(left: Tensor, right: Tensor, low: bool, out: Tensor | None = None) -> Tensor:
    """left @ right. low: float32 factors are rounded to bf16 and their products summed in float32, the result's dtype.

    A CPU without bf16 instructions multiplies in float32 instead. float64 is never rounded. out: where to write it.
    """
    if not low or left.dtype != torch.float32:
        return torch.mm(left, right, out=out)
    if left.is_cuda:
        product = torch.mm(left.bfloat16(), right.bfloat16(), out_dtype=torch.float32)
        return product if out is None else out.copy_(product)
    with _bf16_on_cpu():
        return torch.mm(left, right, out=out)


class Cosine(torch.autograd.Function):
    """Unit embeddings (N, D) against the rows of weight (C, D) that take part -> cosines (N, n), rounded into [-1, 1].

    One function, because autograd's own chain keeps the raw and the unit sub-matrix and makes a dense gradient of all
    rows: this keeps one norm per row, and the gradient is sparse where rows are sampled. It goes by blocks of rows that
    stay in a core's cache from their gathering to their last use, multiplies them as they are and divides the products
    by their norms. Rounding beyond +-1 is cut off with gradient 1, as it is no saturation. low: see multiply(); of its
    three products.
    """

    @staticmethod
    def forward(ctx, unit: Tensor, weight: Tensor, rows: Tensor | None, low: bool, memory: Memory) -> Tensor:
        count = len(weight) if rows is None else len(rows)
        cosine, norm = memory.empty((len(unit), count), unit), unit.new_empty(count)
        for part, centres in row_blocks(weight.detach(), rows, memory, unit.dtype):
            length = torch.linalg.vector_norm(centres, dim=1, out=norm[part]).clamp_min_(SMALLEST_NORM)
            multiply(unit, centres.T, low, out=cosine[:, part])
            cosine[:, part].div_(length).clamp_(-1.0, 1.0)
        ctx.save_for_backward(unit, weight, norm, rows)
        ctx.low, ctx.memory = low, memory
        return cosine

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, None, None, None]:
        (unit, weight, norm, rows), memory = ctx.saved_tensors, ctx.memory
        of_unit = torch.zeros_like(unit) if ctx.needs_input_grad[0] else None
        of_weight = memory.empty((len(norm), unit.shape[1]), unit) if ctx.needs_input_grad[1] else None
        at_once = min(len(norm), rows_at_once(weight))  # both are used again by every block:
        quotients, products = memory.empty((len(unit), at_once), unit), memory.empty((at_once, unit.shape[1]), unit)
        with torch.autocast(gradient.device.type, enabled=False):
            for part, centres in row_blocks(weight.detach(), rows, memory, unit.dtype):
                divided = torch.div(gradient[:, part], norm[part], out=quotients[:, : len(centres)])
                if of_unit is not None:
                    of_unit += multiply(divided, centres, ctx.low)
                if of_weight is not None:
                    piece = multiply(divided.T, unit, ctx.low, out=of_weight[part])
                    radial = torch.mul(piece, centres, out=products[: len(piece)]).sum(1).div_(norm[part].square())
                    piece.addcmul_(centres, radial[:, None], value=-1.0)
        if of_weight is not None:
            of_weight = of_weight.to(weight.dtype)
            if rows is not None:
                of_weight = torch.sparse_coo_tensor(
                    rows[None], of_weight, weight.shape, is_coalesced=True, check_invariants=False
                )
        return of_unit, of_weight, None, None, None


class SoftmaxCrossEntropy(torch.autograd.Function):
    """Logits (N, n) of this process and target columns (N,) -> losses and log_total of the softmax over all processes.

    losses (N,): exact by log-sum-exp. log_total (N,): the log of the sum of exp(logit), for losses that every process
    computes in full and alike; what is not used costs nothing. A logit of -inf takes no part, if its row has another.
    Keeps one buffer of the logits' size, which becomes their gradient in backward. in_place: the logits' own memory,
    which nobody must look at again; if something in the graph keeps it for backward, torch refuses the backward.
    It goes by a few images at a time, whose logits stay in the cache from their maximum to their sum.
    """

    @staticmethod
    def forward(ctx, logits: Tensor, column: Tensor, in_place: bool, memory: Memory) -> tuple[Tensor, Tensor]:
        rows = (column >= 0).nonzero().squeeze(1)
        column = column[rows]
        of_targets = logits[rows, column]
        share = logits.detach() if in_place else memory.empty(logits.shape, logits)
        peak, total = logits.new_full((len(logits),), -torch.inf), logits.new_zeros(len(logits))
        at_once = images_at_once(logits)
        parts = (values.split(at_once) for values in (logits.detach(), share, peak, total))
        for part, of_share, high, of_total in zip(*parts, strict=True):
            if logits.shape[1]:
                torch.amax(part, 1, out=high)
                torch.sub(part, high.clamp_min(torch.finfo(high.dtype).min)[:, None], out=of_share).exp_()
                torch.sum(of_share, 1, out=of_total)
        highest = peak
        if distributed.world_size() > 1:
            dist.all_reduce(highest := peak.clone(), dist.ReduceOp.MAX)
        less = (peak - highest).exp_()  # this process's maximum is not that of all
        target = logits.new_zeros(len(logits))
        target[rows] = of_targets - highest[rows]
        both = torch.stack([target, total.mul_(less)])
        if distributed.world_size() > 1:
            dist.all_reduce(both)
        target, total = both
        ctx.save_for_backward(share, rows, column, less.div_(total))
        ctx.set_materialize_grads(False)
        log_total = total.log()
        return log_total - target, log_total + highest

    @staticmethod
    def backward(ctx, of_losses: Tensor | None, of_log_total: Tensor | None) -> tuple[Tensor | None, None, None, None]:
        share, rows, column, factor = ctx.saved_tensors
        given = [gradient for gradient in (of_losses, of_log_total) if gradient is not None]
        if not given:
            return None, None, None, None
        share.mul_((sum(given) * factor)[:, None])  # a second backward through it is refused by torch's version check
        if of_losses is not None:
            share[rows, column] -= of_losses[rows]
        return share, None, None, None
